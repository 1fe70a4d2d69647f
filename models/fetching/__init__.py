"""Getting released files here: where each one lies on the web, what is missing, and the download itself."""
