"""Published weights: which there are, where they lie, their SHA-256."""
