"""The door to labels: tells the layout of a dataset and reads its images with image-level labels."""

from __future__ import annotations

import os
from pathlib import Path

from weaksam_cli.data.coco import read_coco
from weaksam_cli.data.coco_json import coco_files
from weaksam_cli.data.csv_labels import csv_file, read_csv
from weaksam_cli.data.folder import read_class_folders
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.types import DatasetSplit, Layout, ReadOptions
from weaksam_cli.data.voc import read_voc
from weaksam_cli.data.voc_layout import voc_candidates
from weaksam_cli.errors import UserError


def detect_layout(source: Path) -> Layout:
    """Which layout `source` has, by what lies in it; the order is VOC, COCO, CSV, class folders.

    Raises:
        UserError: listing what was looked for.
    """
    if not source.exists():
        raise UserError("no such file or folder", where=str(source), remedy="Check the path of the dataset")
    if source.is_dir() and voc_candidates(source):
        return "voc"
    if coco_files(source):
        return "coco"
    if csv_file(source) is not None or (source.is_dir() and _has_class_folder(source)):
        return "folder"
    raise UserError(
        "the layout of the dataset is not recognised; looked for JPEGImages with Annotations (VOC), "
        "annotations/instances_*.json or a json file (COCO), labels.csv, and folders of images named by class",
        where=str(source),
        remedy="Name the layout with --layout, or give the folder that holds one of these",
    )


def read_labels(
    source: Path, options: ReadOptions, *, layout: Layout | None = None
) -> tuple[DatasetSplit, ...]:
    """Images with image-level labels of all splits asked for; the layout is found when it is not named.

    Raises:
        UserError: as the reader of the layout.
    """
    chosen = layout or detect_layout(source)
    if chosen == "voc":
        return read_voc(source, options)
    if chosen == "coco":
        return read_coco(source, options)
    if csv_file(source) is not None:
        return read_csv(source, options)
    if not source.is_dir():
        raise UserError(
            "no such folder", where=str(source), remedy="Give a folder of class folders, or a CSV file"
        )
    return read_class_folders(source, options)


def _has_class_folder(source: Path) -> bool:
    """Whether some image lies in a folder below `source`; stops at the first one."""
    return any(
        Path(folder) != source and name.lower().endswith(SUFFIXES)
        for folder, _, files in os.walk(source, followlinks=False)
        for name in files
    )
