"""What WeakTr and MCTformer share: transformers with a token a class, their maps and their training; no method itself."""
