"""From class activation maps to point prompts: fusion of views, peaks, clustering of cross-attention points."""
