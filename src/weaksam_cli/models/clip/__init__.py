"""CLIP from its official file, hosted by `open_clip`: safe reading, text embeddings, patch tokens with attention."""
