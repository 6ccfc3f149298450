"""The command line: what each command reads, checks and does."""
