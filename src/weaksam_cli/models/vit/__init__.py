"""Vision transformers with a token a class: the networks of WeakTr and MCTformer (spec 01 §a, §b)."""
