"""CLIP-ES (CVPR 2023, arXiv 2212.09506): class activation maps from a frozen CLIP; spec 01, part c."""
