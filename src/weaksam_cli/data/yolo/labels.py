"""The text file of an image in a YOLO dataset: a line an object, its class by number and its outline in fractions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weaksam_cli.core.files import beginning, read_bytes
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawBox, RawObject
from weaksam_cli.data.outlines import box_of_points, numbers, share_mask
from weaksam_cli.errors import UserError

MOST_BYTES: Final = 4 * 1000**2
_VISIBILITY: Final = (0, 1, 2)


@dataclass(frozen=True)
class Names:
    """The classes of a dataset.

    Attributes:
        where: the file that names them.
        by_number: the classes by number; None where nothing names them, so that each is called by its number.
        has_keypoints: whether points follow the box in every line, and no polygon is meant.
    """

    where: Path
    by_number: Mapping[int, str] | None
    has_keypoints: bool = False


def labels_of(image: Path) -> Path:
    """The text file of an image, whether or not it is there.

    In the folder `labels` in the place of the last `images`, in whatever case, or in that folder itself; else beside it.
    """
    parts, beside = image.parts, image.with_suffix(".txt")
    places = [place for place, part in enumerate(parts[:-1]) if part.casefold() == "images"]
    if not places:
        return beside
    above, inner = Path(*parts[: places[-1]]), Path(*parts[places[-1] + 1 :]).with_suffix(".txt")
    spelled = [above / name for name in ("labels", "Labels", "LABELS")]
    tried = [path for folder in spelled for path in (folder / inner, folder / inner.name)]
    return next((path for path in (*tried, beside) if path.is_file()), tried[0])


def objects_of(file: Path, names: Names, boxes: bool) -> tuple[RawObject, ...]:
    """The objects of a text file; none of an empty one, or of one that is not there.

    Raises:
        UserError: a line is no object, or its class has no name.
    """
    return tuple(_objects(file, names, boxes)) if file.is_file() else ()


def _objects(file: Path, names: Names, boxes: bool) -> Iterator[RawObject]:
    for number, line in enumerate(text_of(file, MOST_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        where, values = f"{file}, line {number}", label_values(line)
        if values is None:
            what = f"expected `class x y w h`, got {line.strip()[:60]!r}"
            raise UserError(what, where=where, remedy="Are these labels of YOLO?")
        index = int(values[0])
        name = str(index) if names.by_number is None else names.by_number.get(index)
        if name is None:
            known = names.by_number or {}
            raise UserError(
                f"the class {index} has no name",
                where=where,
                remedy=f"{names.where.name} names {len(known)} classes: {first_few(known.values())}",
            )
        outline = _outline(values[1:], names.has_keypoints) if boxes else (None, None)
        yield RawObject(name, title=f"line {number}", box=outline[0], mask=outline[1])


def label_values(line: str) -> list[float] | None:
    """The numbers of a line: a class, and four or more."""
    values = numbers(line.split())
    is_label = values is not None and len(values) >= 5 and values[0] >= 0 and values[0].is_integer()
    return values if is_label else None


def first_line(file: Path) -> str:
    """The first line of a text file, which tells whether it has labels; empty where there is none."""
    return next(iter(beginning(file).decode("utf-8-sig", "replace").splitlines()), "")


def _outline(rest: Sequence[float], has_keypoints: bool) -> tuple[RawBox, Callable[[int, int], bytes] | None]:
    """Box and mask: of a polygon (or turned box) of three points or more, else of a box with what follows it.

    A number that is left over is the score of a prediction; but points of three numbers, the third of which says whether it
    is visible, are keypoints.
    """
    is_pose = len(rest) % 2 and (len(rest) - 4) % 3 == 0 and all(value in _VISIBILITY for value in rest[6::3])
    if has_keypoints or len(rest) < 6 or is_pose:
        x, y, width, height = rest[:4]
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    polygon = rest[: len(rest) // 2 * 2]
    return box_of_points(polygon), share_mask(polygon)


def text_of(path: Path, limit: int) -> str:
    """The text of a file of bounded size.

    Raises:
        UserError: it is larger, cannot be read, or is no text.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"cannot be read ({error})"
        raise UserError(what, where=str(path), remedy="Save it as UTF-8 text") from None
