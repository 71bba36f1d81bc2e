"""Putting files of other programs where they belong: all of a file or nothing, and nothing of others replaced."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import refuse_foreign
from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError, unknown
from weaksam_cli.exchange import formats
from weaksam_cli.exchange.annotated import Annotated, ImagesWish, Options, check_names, within
from weaksam_cli.exchange.manifest import Manifest

_DEFAULTS: Final = Options()


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        images, boxes: how many.
        masks: how many of the boxes have one, whether or not the format holds it.
        bytes: of all files but images.
        is_fresh: everything stood there already.
        remarks: what the format could not hold, and what else is to be told.
        hints: what to do with it in the other program.
    """

    images: int
    boxes: int
    masks: int
    bytes: int
    is_fresh: bool
    remarks: tuple[str, ...]
    hints: tuple[str, ...]


def write(
    annotated: Annotated,
    layout: str,
    out: Path,
    options: Options = _DEFAULTS,
    *,
    min_score: float | None = None,
    overwrite: bool = False,
    ops: FileOps | None = None,
) -> Export:
    """Write annotated images in a format.

    Args:
        annotated: the images; boxes are cut to them.
        layout: name of the format.
        out: the file or folder, as the format has it.
        options: what is asked of the format.
        min_score: boxes of lower scores are left out.
        overwrite: replace files that weaksam did not write.
        ops: how files are written.

    Raises:
        UserError: an unknown format, an option that it has no use for, another file in the place of one; a name, class
            or path that the format cannot write.
    """
    module = box_format(layout)
    for name in ("scores", "images"):
        refuse_unused(module, name, layout, given=getattr(options, name) != getattr(_DEFAULTS, name))
    check_names(annotated)
    check_out(out, module.SUFFIX)
    if options.images != "none" and (
        unknown := [image.key for image in annotated.images if image.path is None]
    ):
        what = f"the files of {len(unknown)} images are not known: {first_few(map(repr, unknown), 3)}"
        raise UserError(
            what, where="--images", remedy="Give --labels of a run directory, or leave --images away"
        )
    kept, remarks = within(annotated, min_score)
    written: formats.Written = module.write(kept, out, options)
    images = written.images if options.images != "none" else {}
    files = FileOps() if ops is None else ops
    is_fresh = place(out, written.files, images, options.images, overwrite=overwrite, ops=files)
    told = (*remarks, *written.remarks, *_beside(out, written.files))
    size = sum(map(len, written.files.values()))
    return Export(len(kept.images), written.rows, kept.masks, size, is_fresh, told, tuple(written.hints))


def box_format(layout: str) -> ModuleType:
    """The module of a format of boxes.

    Raises:
        UserError: there is none of that name.
    """
    known = {name: module for name, module in formats.writers().items() if not hasattr(module, "SCHEMA")}
    return formats.chosen(layout, known)


def refuse_unused(module: ModuleType | None, option: str, layout: str, *, given: bool) -> None:
    """Refuse an option that was given and that a format has no use for.

    Raises:
        UserError: it is so.
    """
    if given and option not in getattr(module, "TAKES", ()):
        what = f"the format {layout} has no use for it"
        raise UserError(what, where=f"--{option}", remedy="Leave it away")


def images_wish(text: str) -> ImagesWish:
    """What `--images` says.

    Raises:
        UserError: something else than it can.
    """
    match text:
        case "none" | "copy" | "link":
            return text
    raise unknown(f"there is no {text!r}", text, ["none", "copy", "link"], where="--images")


def check_out(out: Path, suffix: str) -> None:
    """Refuse a name that is none of a format's file, or (no suffix) a file in the place of its folder.

    Raises:
        UserError: it is so.
    """
    if suffix and out.suffix.lower() != suffix:
        raise UserError(f"the format is a {suffix} file", where=f"-o {out}", remedy=f"Give -o NAME{suffix}")
    if not suffix and os.path.lexists(out) and not out.is_dir():
        raise UserError(
            "the format is a folder, and this is none", where=f"-o {out}", remedy="Give another name"
        )


def place(
    out: Path,
    files: Mapping[str, bytes],
    images: Mapping[str, Path],
    wish: ImagesWish,
    *,
    overwrite: bool,
    ops: FileOps,
) -> bool:
    """Write files, images first; what stands there with the same content stays.

    Args:
        out: the output.
        files: see `formats.Written`.
        images: place below it -> image.
        wish: whether images are copied or linked.
        overwrite: replace files that weaksam did not write, or that were changed since.
        ops: how files are written.

    Returns:
        Whether everything stood there already.

    Raises:
        UserError: another file in the place of one, which is looked at before anything is written; an image that is gone.
    """
    base = _base(out, files)
    targets = {base / name if name else out: data for name, data in files.items()}
    pictures = {out / name: Path(os.path.abspath(path)) for name, path in images.items()}  # noqa: PTH100 - links are kept
    missing = [str(path) for path in pictures.values() if not path.is_file()]
    if missing:
        what = f"{len(missing)} images are not there: {first_few(missing, 3)}"
        raise UserError(what, where="--images", remedy="Bring them back, or leave --images away")
    new = {path: data for path, data in targets.items() if not path.is_file() or path.read_bytes() != data}
    new_pictures = {path: image for path, image in pictures.items() if not _is_placed(path, image, wish)}
    manifest = Manifest(out, is_folder="" not in files)
    for path in (*new, *new_pictures):
        _refuse(path, manifest, overwrite=overwrite)
    for folder in {path.parent for path in (*new, *new_pictures)}:
        ops.remove_stale_temporaries(folder)
    for path, image in new_pictures.items():
        if wish == "link":
            ops.link_atomically(path, image)
        else:
            ops.build_atomically(path, partial(_copy, image))
    for path, data in new.items():
        ops.write_atomically(path, data)
    manifest.note((*targets, *pictures), ops)
    return not new and not new_pictures


def _refuse(path: Path, manifest: Manifest, *, overwrite: bool) -> None:
    """Refuse to replace what is not ours; a file of an earlier export is.

    Raises:
        UserError: it is not, or somebody changed it since.
    """
    if manifest.has(path):
        return
    try:
        refuse_foreign(path, overwrite=overwrite)
    except UserError as error:
        if path.is_dir():
            raise
        what = f"{error.what}, or which was changed since"
        remedy = (
            "Give another name, or --overwrite to replace it; files of an earlier export are replaced unasked"
        )
        raise UserError(what, where=error.where, remedy=remedy) from None


def _base(out: Path, files: Mapping[str, bytes]) -> Path:
    return out.parent if "" in files else out


def _copy(image: Path, temporary: Path) -> None:
    shutil.copyfile(image, temporary)


def _is_placed(path: Path, image: Path, wish: ImagesWish) -> bool:
    if not path.is_file():
        return False
    if wish == "link" or path.is_symlink():
        return path.samefile(image) and (wish == "link" or not path.is_symlink())
    return filecmp.cmp(path, image, shallow=False)


def _beside(out: Path, files: Mapping[str, bytes]) -> list[str]:
    """Files of the same kind that lie among those of a folder: whoever opens it reads them, too."""
    if "" in files:
        return []
    targets = {out / name for name in files}
    kinds = {(path.parent, path.suffix) for path in targets}
    others = [
        str(path.relative_to(out))
        for folder in sorted({parent for parent, _ in kinds})
        for path in sorted(folder.iterdir())
        if (folder, path.suffix) in kinds and path not in targets and path.name[0] != "."
    ]
    what = f"{len(others)} files of another export lie among these"
    return [f"{what}: {first_few(others, 3)}"] if others else []
