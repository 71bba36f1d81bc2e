"""Class activation maps as several stages read them: fusion of scales, contrast of boxes."""
