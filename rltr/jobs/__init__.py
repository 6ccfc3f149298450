"""What the commands do, as functions: a recipe goes in, a folder comes out."""
