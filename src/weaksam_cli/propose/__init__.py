"""Stage `propose`: point prompts to class-agnostic boxes, by a promptable segmenter."""
