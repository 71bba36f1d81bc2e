"""The demo dataset: images made by the program, with labels, boxes and masks, deterministic from a seed.

Eight classes with telling parts, alone, in touching groups and half hidden, at sizes that differ by a factor of six.
"""
