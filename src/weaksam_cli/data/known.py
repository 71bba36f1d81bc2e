"""Datasets of the field by name: where they usually lie, how they are read, and which archives they come in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weaksam_cli.artifacts.download import Download, fetch_file
from weaksam_cli.console import Console, size
from weaksam_cli.data.archives import unpack
from weaksam_cli.errors import UserError

_VOC: Final = "https://thor.robots.ox.ac.uk/pascal/VOC"
_COCO: Final = "http://images.cocodataset.org"
FOLDER: Final = "datasets"
_VOC_MARKS: Final = ("JPEGImages", "Annotations")


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        url: where it is.
        size: bytes.
        md5: of the file.
        into: the folder below the place of all datasets that it is unpacked into.
        holds: a path that is there when it was unpacked, below `into`.
    """

    url: str
    size: int
    md5: str
    into: str
    holds: str

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of the field.

    Attributes:
        title: its full name.
        layout: the module of this package that reads it.
        places: where it lies below the folder of all datasets, the likeliest first.
        marks: what must be there.
        splits: those that the field uses, with their roles; None leaves it to the layout.
        archives: what it is unpacked from.
    """

    title: str
    layout: str
    places: tuple[str, ...]
    marks: tuple[str, ...]
    splits: Mapping[str, str] | None
    archives: tuple[Archive, ...]


def _coco(year: int, sizes: Sequence[int], digests: Sequence[str]) -> KnownDataset:
    train, val = f"train{year}", f"val{year}"
    files = (f"zips/{train}.zip", f"zips/{val}.zip", f"annotations/annotations_trainval{year}.zip")
    holds = (train, val, f"annotations/instances_{val}.json")
    return KnownDataset(
        title=f"COCO {year}",
        layout="coco",
        places=("coco", f"coco{year}", "COCO", "mscoco"),
        marks=(f"annotations/instances_{train}.json", f"annotations/instances_{val}.json"),
        splits={train: "train", val: "test"},
        archives=tuple(
            Archive(f"{_COCO}/{file}", length, md5, "coco", path)
            for file, length, md5, path in zip(files, sizes, digests, holds, strict=True)
        ),
    )


KNOWN: Final[Mapping[str, KnownDataset]] = {
    # URLs and MD5 of VOC: torchvision's DATASET_YEAR_DICT. Those of COCO: PaddleDetection's and others' tables, which agree.
    "voc07": KnownDataset(
        "PASCAL VOC 2007", "voc", ("VOC2007", "VOCdevkit/VOC2007", "VOCdevkit2007/VOC2007"), _VOC_MARKS, None,
        (
            Archive(
                f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", 460032000, "c52e279531787c972589f7e41ab4ae64",
                "", "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt",
            ),
            Archive(
                f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", 451020800, "b6e924de25625d8de591ea690078ad9f",
                "", "VOCdevkit/VOC2007/ImageSets/Main/test.txt",
            ),
        ),
    ),
    "voc12": KnownDataset(
        "PASCAL VOC 2012", "voc", ("VOC2012", "VOCdevkit/VOC2012", "VOCdevkit2012/VOC2012"), _VOC_MARKS, None,
        (
            Archive(
                f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", 1999639040, "6cd6e144f989b92b3379bac3b3de84fd",
                "", "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt",
            ),
        ),
    ),
    "coco14": _coco(
        2014, (13510573713, 6645013297, 252872794),
        ("0da8c0bd3d6becc4dcb32757491aca88", "a3d79f5ed8d289b7a7554ce06a5782b3", "0a379cfc70b0e71301e0f377548639bd"),
    ),
    "coco17": _coco(
        2017, (19336861798, 815585330, 252907541),
        ("cced6f7f71b7629ddf16f17bbcfab6b2", "442b8da7639aecaf257c1dceb8ba8c80", "f4bbac642086de4f52a3fdda2de5fa2c"),
    ),
}  # fmt: skip


def folders_of_datasets(environment: Mapping[str, str]) -> list[Path]:
    """Where datasets are looked for: `$DETECTRON2_DATASETS`, `datasets`, `data` and the working folder."""
    named = environment.get("DETECTRON2_DATASETS")
    return [*([Path(named)] if named else []), Path(FOLDER), Path("data"), Path()]


def find_known(name: str, environment: Mapping[str, str] | None = None) -> Path:
    """Where a dataset of the field lies on this machine.

    Raises:
        UserError: nowhere; where it was looked for, and the command that fetches it.
    """
    dataset = KNOWN[name]
    bases = folders_of_datasets(os.environ if environment is None else environment)
    places = [base / place for base in bases for place in dataset.places]
    found = next((place for place in places if all((place / mark).exists() for mark in dataset.marks)), None)
    if found is None:
        raise UserError(
            f"{dataset.title} is not found; looked for {', '.join(map(str, places))}",
            where=name,
            remedy=f"Give its folder, or fetch it ({size(sum(item.size for item in dataset.archives))}): "
            f"weaksam data {name} --fetch",
        )
    return found


def fetch_known(name: str, console: Console, environment: Mapping[str, str] | None = None) -> None:
    """Download and unpack what is not there yet of a dataset of the field, into `$DETECTRON2_DATASETS` or `datasets`.

    Each archive is compared with its size and MD5 before it is unpacked, and removed when it is unpacked whole. An
    interrupted download goes on where it stopped.

    Raises:
        UserError: see `fetch_file` and `unpack`.
    """
    dataset = KNOWN[name]
    folder = folders_of_datasets(os.environ if environment is None else environment)[0]
    for archive in dataset.archives:
        target = folder / archive.into
        file = folder / archive.name
        if (target / archive.holds).exists() and not file.is_file():
            console.info(f"{archive.name}: unpacked already, {target / archive.holds} is there")
            continue
        if not file.is_file():
            file = fetch_file(_download(archive, name), folder, console)
        unpack(file, target, console)
        file.unlink()


def _download(archive: Archive, name: str) -> Download:
    return Download(
        name=archive.name,
        url=archive.url,
        checksum=archive.md5,
        algorithm="md5",
        digest=archive.md5,
        size=archive.size,
        command=f"weaksam data {name} --fetch",
        place="DETECTRON2_DATASETS=FOLDER",
    )
