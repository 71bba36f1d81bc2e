"""`weaksam prompt`: class activation maps become peak points."""

from __future__ import annotations

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema
from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.points import POINTS
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.engine.stages import Stage

STAGE = Stage("prompt", 1, "prompts", "{split}.h5", POINTS)


def open_cam(path: Rows, *, verify: bool = True) -> Artifact:
    """Open a `cam` artifact, whatever its number of classes."""
    return open_artifact(path, cam_schema(), verify=verify)
