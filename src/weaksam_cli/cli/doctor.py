"""`weaksam doctor`: is this machine ready? And the checks that `weaksam all` makes before the first stage."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, size
from weaksam_cli.detectron.compat import INSTALL_COMMANDS, import_detectron2
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import available_cores
from weaksam_cli.engine.profiles import profile_names, read_profile
from weaksam_cli.errors import UserError

MINIMAL_DISK = 2_000_000_000
_PACKAGES = "torch torchvision segment-anything h5py pycocotools timm opencv-contrib-python-headless"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        state: `ok`, `note` (works without) or `missing`.
        detail: what was found.
        remedy: what to do; empty when all is well.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(options: CommonOptions, console: Console) -> None:
    """Print every check, with what to do.

    Raises:
        UserError: when something that every run needs is missing.
    """
    context = build_context(options, None, console)
    checks = list(_checks(context))
    rows = [[check.name, check.state, check.detail] for check in checks]
    console.table("weaksam doctor", ["check", "state", "found"], rows)
    for check in checks:
        if check.remedy:
            console.result(f"{check.name}: {check.remedy}", check=check.name, remedy=check.remedy)
    missing = [check.name for check in checks if check.state == "missing"]
    if missing:
        what = f"not ready: {', '.join(missing)}"
        raise UserError(what, where="weaksam doctor", remedy="See the lines above")


def _checks(context: Context) -> Iterator[Check]:
    yield Check("python", "ok", sys.version.split()[0])
    for package in _PACKAGES.split():
        try:
            yield Check(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Check(package, "missing", "not installed", f"pip install {package}")
    yield _detectron2()
    yield _transformers()
    yield _device()
    yield _disk(context.run.root)
    for name in profile_names()[1:]:
        lacking = read_profile(name, context.weights).missing(context.weights)
        if lacking:
            looked = f"looked in {', '.join(map(str, context.weights.folders))}"
            yield Check(f"profile {name}", "note", f"needs {', '.join(lacking)}", looked)
        else:
            yield Check(f"profile {name}", "ok", "everything is here")


def _detectron2() -> Check:
    if importlib.util.find_spec("detectron2") is None:
        return Check("detectron2", "note", "not installed: retrain cannot train", INSTALL_COMMANDS)
    return Check("detectron2", "ok", import_detectron2())


def _transformers() -> Check:
    if importlib.util.find_spec("transformers") is None:
        what = "not installed: DINO, Mask2Former and the recipes hf-sam-* cannot run"
        return Check("transformers", "note", what, "pip install 'weaksam-cli[hf]'")
    return Check("transformers", "ok", metadata.version("transformers"))


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", "ok", f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    return Check("device", "ok", f"CPU, {available_cores()} cores; no CUDA device")


def _disk(root: Path) -> Check:
    folder = next(place for place in (root.absolute(), *root.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check("disk", "missing", f"{folder} is read-only", "Give a --run-dir that can be written to")
    if free < MINIMAL_DISK:
        remedy = f"Free {size(MINIMAL_DISK)}, or give another --run-dir"
        return Check("disk", "missing", f"{size(free)} free", remedy)
    return Check("disk", "ok", f"{size(free)} free in {folder}")


def preflight(context: Context) -> None:
    """Check disk and detectron2 before the first stage starts, not after an hour.

    Raises:
        UserError: when a stage could not run.
    """
    disk = _disk(context.run.root)
    if disk.state != "ok":
        raise UserError(disk.detail, where=str(context.run.root), remedy=disk.remedy)
    if importlib.util.find_spec("detectron2") is None:
        raise UserError("not installed, and retrain needs it", where="detectron2", remedy=INSTALL_COMMANDS)
