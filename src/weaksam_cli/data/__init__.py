"""Stage `data`: a dataset becomes images and image-level labels, without boxes."""
