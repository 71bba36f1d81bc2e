"""Datasets of the field by name: where they usually lie, how they are read, and which archives they come in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weaksam_cli.artifacts.download import Download, fetch_file, is_published
from weaksam_cli.console import Console, size
from weaksam_cli.data.archives import unpack
from weaksam_cli.data.dataset import Role
from weaksam_cli.errors import UserError

_VOC: Final = "https://thor.robots.ox.ac.uk/pascal/VOC"
_COCO: Final = "http://images.cocodataset.org"
_LISTS: Final = "ImageSets/Main"
FOLDER: Final = "datasets"


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        url: where it is.
        size: bytes.
        md5: of the file.
        holds: a path in the dataset that is there when it was unpacked.
    """

    url: str
    size: int
    md5: str
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
        splits: those that the field uses, with their roles.
        archives: what it is unpacked from.
        home: where the archives put it, below the folder of all datasets.
        into: where they are unpacked for that.
    """

    title: str
    layout: str
    places: tuple[str, ...]
    marks: tuple[str, ...]
    splits: Mapping[str, Role]
    archives: tuple[Archive, ...]
    home: str
    into: str

    def lacks(self, place: Path) -> list[str]:
        """What must be there, and is not."""
        return [mark for mark in self.marks if not (place / mark).exists()]

    def is_whole(self, place: Path) -> bool:
        """Whether all archives have been unpacked there."""
        return not self.lacks(place) and all((place / item.holds).exists() for item in self.archives)


def _voc(year: int, splits: Mapping[str, Role], archives: Mapping[str, tuple[str, int, str]]) -> KnownDataset:
    return KnownDataset(
        title=f"PASCAL VOC {year}",
        layout="voc",
        places=(f"VOC{year}", f"VOCdevkit/VOC{year}", f"VOCdevkit{year}/VOC{year}"),
        marks=("JPEGImages", "Annotations", *(f"{_LISTS}/{split}.txt" for split in splits)),
        splits=splits,
        archives=tuple(
            Archive(f"{_VOC}/voc{year}/{file}", length, md5, f"{_LISTS}/{split}.txt")
            for split, (file, length, md5) in archives.items()
        ),
        home=f"VOCdevkit/VOC{year}",
        into="",
    )


def _coco(year: int, sizes: Sequence[int], digests: Sequence[str]) -> KnownDataset:
    train, val = f"train{year}", f"val{year}"
    files = (f"zips/{train}.zip", f"zips/{val}.zip", f"annotations/annotations_trainval{year}.zip")
    marks = (f"annotations/instances_{train}.json", f"annotations/instances_{val}.json")
    return KnownDataset(
        title=f"COCO {year}",
        layout="coco",
        places=("coco", f"coco{year}", "COCO", "mscoco"),
        marks=marks,
        splits={train: "train", val: "test"},
        archives=tuple(
            Archive(f"{_COCO}/{file}", length, md5, path)
            for file, length, md5, path in zip(files, sizes, digests, (train, val, marks[1]), strict=True)
        ),
        home="coco",
        into="coco",
    )


KNOWN: Final[Mapping[str, KnownDataset]] = {
    # URLs and MD5 of VOC: torchvision's DATASET_YEAR_DICT. Those of COCO: PaddleDetection's and others' tables, which agree.
    "voc07": _voc(2007, {"trainval": "train", "test": "test"}, {
        "trainval": ("VOCtrainval_06-Nov-2007.tar", 460032000, "c52e279531787c972589f7e41ab4ae64"),
        "test": ("VOCtest_06-Nov-2007.tar", 451020800, "b6e924de25625d8de591ea690078ad9f"),
    }),
    # The annotations of its test split are kept by a server; instance segmentation is trained on train and tested on val.
    "voc12": _voc(2012, {"train": "train", "val": "test"}, {
        "trainval": ("VOCtrainval_11-May-2012.tar", 1999639040, "6cd6e144f989b92b3379bac3b3de84fd"),
    }),
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
    return [*([Path(named).expanduser()] if named else []), Path(FOLDER), Path("data"), Path()]


def places_of(name: str, environment: Mapping[str, str]) -> list[Path]:
    """Where a dataset of the field can lie, in the order in which it is looked for."""
    return [base / place for base in folders_of_datasets(environment) for place in KNOWN[name].places]


def find_known(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a dataset of the field lies on this machine.

    Raises:
        UserError: nowhere; where it was looked for, what parts that lie there lack, and the command that fetches it.
    """
    dataset, bases = KNOWN[name], folders_of_datasets(environment)
    places = places_of(name, environment)
    found = next((place for place in places if not dataset.lacks(place)), None)
    if found is None:
        parts = [place for place in places if len(dataset.lacks(place)) < len(dataset.marks)]
        lacking = [f"{place} lacks {', '.join(dataset.lacks(place))}" for place in parts]
        looked = f"looked for {', '.join(dataset.places)} in {', '.join(map(str, bases))}"
        raise UserError(
            "; ".join([f"{dataset.title} is not found", *lacking, looked]),
            where=name,
            remedy=f"Give its folder (weaksam data FOLDER --dataset {name}), or fetch it "
            f"({size(sum(item.size for item in dataset.archives))}): weaksam data {name} --fetch",
        )
    return found


def missing_archives(name: str, environment: Mapping[str, str] = os.environ) -> list[Archive]:
    """The archives of a dataset of the field that are to be fetched; none where it lies whole in a usual place."""
    dataset = KNOWN[name]
    if any(dataset.is_whole(place) for place in places_of(name, environment)):
        return []
    home = folders_of_datasets(environment)[0] / dataset.home
    return [item for item in dataset.archives if not (home / item.holds).exists()]


def fetch_known(
    name: str, console: Console, *, overwrite: bool = False, environment: Mapping[str, str] = os.environ
) -> None:
    """Download and unpack what is not there yet of a dataset of the field, into `$DETECTRON2_DATASETS` or `datasets`.

    Each archive is compared with its size and MD5 before it is unpacked. One that was downloaded here is removed when it is
    unpacked whole; one that lay there already is kept. An interrupted download goes on where it stopped.

    Args:
        name: of the dataset.
        console: shows the progress.
        overwrite: replace files that are there with other contents than the published ones.
        environment: variables.

    Raises:
        UserError: see `fetch_file` and `unpack`; an archive that lies there is not the published one; the disk is too small.
    """
    dataset, folder = KNOWN[name], folders_of_datasets(environment)[0]
    missing = missing_archives(name, environment)
    if not missing:
        console.info(f"{dataset.title}: nothing to fetch")
        return
    _require_room(missing, folder, dataset.title)
    for archive in missing:
        file, download = folder / archive.name, _download(archive, name)
        is_given = file.is_file()
        if is_given and not is_published(download, file):
            what = f"is not the published file of {archive.size} bytes with the MD5 {archive.md5}"
            raise UserError(what, where=str(file), remedy="Remove it: the same command then fetches it")
        if not is_given:
            fetch_file(download, folder, console)
        last = (Path(dataset.home) / archive.holds).relative_to(dataset.into)
        unpack(file, folder / dataset.into, console, last=str(last), overwrite=overwrite)
        if is_given:
            console.info(f"{file} is unpacked; it was there before and is kept")
        else:
            file.unlink()


def _require_room(missing: Sequence[Archive], folder: Path, title: str) -> None:
    """Images take as much room unpacked as packed, and one archive at a time is there twice."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    files = [folder / f"{item.name}{end}" for item in missing for end in ("", ".part")]
    needed = sum(item.size for item in missing) + max(item.size for item in missing)
    needed -= sum(path.stat().st_size for path in files if path.is_file())
    if needed > (free := shutil.disk_usage(there).free):
        what = f"fetching and unpacking {title} needs {size(needed)}, {size(free)} are free"
        remedy = "Make room, or name another folder with DETECTRON2_DATASETS=FOLDER"
        raise UserError(what, where=str(folder), remedy=remedy)


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
