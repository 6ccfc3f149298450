"""The work of each command as a function of a recipe, which writes its results to a folder."""
