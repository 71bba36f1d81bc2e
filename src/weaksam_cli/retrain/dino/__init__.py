"""DINO with query drop (Zhang et al. 2022; supplement section 3; spec 06 B)."""
