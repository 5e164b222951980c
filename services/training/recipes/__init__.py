"""Named recipes, each a small file of differences with a description of what it is for."""
