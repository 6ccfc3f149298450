"""Reading what a user names: files, folders, tables, and the splits among them."""
