"""OICR and MIST as published: VGG16 trained through, over precomputed proposals."""
