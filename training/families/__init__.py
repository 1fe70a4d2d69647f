"""What training adds to a family: what each stage trains, its prompts, where it starts, its released files."""
