"""What released files are, told from their headers alone, and whether those of a configuration belong together."""
