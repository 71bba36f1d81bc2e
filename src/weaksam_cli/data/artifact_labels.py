"""Which images an artifact is about: the labels that stand around it, or in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import own_labels
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import SOURCE_FILE, read_source
from weaksam_cli.errors import UserError, nearest


def labels_of(path: Path) -> Labels | None:
    """The labels of the images that an artifact is about.

    They are those of its receipt in the run directory around it, else a JSON document's own table of images.

    Returns:
        The labels, with the folder of images as it was noted (it may be gone); None where there are none.

    Raises:
        UserError: the file, its receipt or the labels are damaged.
    """
    receipt = read_receipt(path)
    split = receipt.identity.split if receipt else path.stem
    noted = receipt.identity.inputs.get("data") if receipt else None
    for folder in path.absolute().parents:
        file = folder / (noted.path if noted else f"labels/{split}.json")
        if (folder / SOURCE_FILE).is_file() and file.is_file():
            return labels_in_run(file, folder)
    return own_labels(path) if path.suffix == ".json" else None


def labels_in_run(file: Path, run: Path) -> Labels:
    """The labels in a file of a run directory, with the folder of images that is noted there.

    Raises:
        UserError: they, or the note, are damaged.
    """
    source = read_source(run).splits.get(file.stem) if (run / SOURCE_FILE).is_file() else None
    return read_labels(file, run / source.image_root if source else Path())


def of_image(found: Mapping[str, Detections], key: str, path: Path) -> Detections:
    """The boxes of one image.

    Raises:
        UserError: there is no such image in the file.
    """
    if key not in found:
        raise UserError(f"there is no image {key!r}", where=str(path), remedy=nearest(key, list(found)))
    return found[key]


def no_labels(path: Path) -> UserError:
    """For an artifact whose images nothing around it names."""
    what = "no run directory with this split around the file, so its images are not known"
    places = "runs/<dataset>/<stage>/<split>.*"
    remedy = f"Look at files where they lie, {places}, or (HDF5) name the images' folder with --images"
    return UserError(what, where=str(path), remedy=remedy)
