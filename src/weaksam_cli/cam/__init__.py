"""Class activation maps: where in an image a classifier sees a class."""
