"""Class activation maps: where in a picture a classifier sees a class."""
