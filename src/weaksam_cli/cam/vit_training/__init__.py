"""Training of WeakTr and MCTformer on image-level labels (spec 01 §a.3, §b.4)."""
