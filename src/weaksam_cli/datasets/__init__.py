"""Readers of datasets: pictures with image-level labels, and, apart from them, ground truth.

`labels.read_labels` gives what every stage may see; `ground_truth.read_ground_truth` gives boxes and masks and is for
`eval` and `report` alone. The label readers neither import the ground-truth readers nor look at any box.
"""
