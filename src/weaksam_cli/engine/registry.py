"""The stages by name; each is imported when it is asked for, so that `--help` imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import Any

from weaksam_cli.engine.steps import Stage

_MODULES = {
    "data": "weaksam_cli.data.stage",
    "cam": "weaksam_cli.cam.stage",
    "prompt": "weaksam_cli.prompt.stage",
    "propose": "weaksam_cli.propose.stage",
    "wsod": "weaksam_cli.wsod.stage",
    "pgt": "weaksam_cli.pgt.stage",
    "retrain": "weaksam_cli.retrain.stage",
    "eval": "weaksam_cli.eval.stage",
}
STAGE_NAMES = tuple(_MODULES)


def load_stage(name: str) -> Stage[Any]:
    """The stage object of a name out of `STAGE_NAMES`."""
    stage: Stage[Any] = importlib.import_module(_MODULES[name]).STAGE
    return stage
