"""Readers of files, folders and tables, and the search for their splits."""
