"""A folder for `evaluate.load`: it takes the module of the folder's name."""
