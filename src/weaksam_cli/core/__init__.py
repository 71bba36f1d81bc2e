"""Value types and pure functions that the stages share: boxes, masks, points, proposals, detections."""
