"""Examples: model inputs by index, one file for each form of data."""
