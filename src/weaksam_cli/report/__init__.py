"""One HTML page of a run; with `eval` the only package that reads ground-truth boxes, here for drawing."""
