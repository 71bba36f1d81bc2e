"""Annotated images as values, and how files get to their places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.artifacts.helpers import FaultyOps
from tests.exchange.annotations import HOSTILE, Found, annotated_image, assert_found, found_in, sample
from tests.exchange.test_annotations import CASES, READERS
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import yolo
from weaksam_cli.exchange.annotated import Annotated, ImagesWish, Options, stems, within
from weaksam_cli.exchange.writing import write

BOX = [[1.5, 2.0, 30.0, 40.0]]
BAD_IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "ends before it begins": ({"boxes": [[3, 3, 2, 9]]}, "expected x1 <= x2"),
    "not finite": ({"boxes": [[0, 0, np.nan, 9]]}, "finite"),
    "no pixels": ({"size": (0, 9)}, "got 0 x 9"),
    "classes": ({"classes": [0, 0]}, r"classes of 'a': expected 1, got \(2,\)"),
    "scores": ({"scores": [0.1, 0.2]}, r"scores of 'a': expected 1, got \(2,\)"),
    "scores without end": ({"scores": [np.inf]}, "scores of 'a': expected finite"),
}


@pytest.mark.parametrize("name", list(BAD_IMAGES))
def test_an_image_that_cannot_be(name: str) -> None:
    changes, message = BAD_IMAGES[name]
    with pytest.raises(ValueError, match=message):
        annotated_image(**{"key": "a", "boxes": BOX, "classes": [0], **changes})


def test_images_that_do_not_go_together() -> None:
    one, other = annotated_image("a", BOX, [0]), annotated_image("b", BOX, [0], scores=[0.5])
    for classes, images, ids, message in (
        (("x", "x"), (), None, "classes: 'x' stands twice"),
        (("x",), (one, one), None, "keys: 'a' stands twice"),
        (("x",), (one, other), None, "some images have them"),
        ((), (one,), None, "expected indexes below 0"),
        (("x",), (one,), (1, 2), "class_ids: expected 1, got 2"),
        (("x", "y"), (one,), (1, 1), "class_ids: 1 stands twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Annotated(classes, images, ids)


def test_boxes_are_cut_and_chosen_by_score() -> None:
    boxes: list[list[float]] = [[-5, 2, 30, 40], [0, 0, 64.004, 48], [10, 50, 20, 60], [1, 1, 9, 9]]
    image = annotated_image("a", boxes, [0, 0, 0, 0], scores=[0.9, 0.3, 0.8, 0.2])
    kept, told = within(Annotated(("x",), (image,)), 0.3)
    assert kept.images[0].boxes.tolist() == [[0, 2, 30, 40], [0, 0, 64, 48]]
    assert told == [
        "1 boxes of 1 images reach over the edge of the image and were cut to it: 'a'",
        "1 boxes of 1 images have no area and are left out: 'a'",
    ]
    for score in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="expected a number of 0 or more"):
            within(kept, score)
    with pytest.raises(UserError, match="--min-score: these boxes have no scores"):
        within(Annotated(("x",), (annotated_image("a", BOX, [0]),)), 0.3)


def test_images_of_one_stem_do_not_collide() -> None:
    keys = ("a.jpg", "a.png", "a_png", "sub/a.jpg", "b.c.jpg", "./d.jpg")
    names, told = stems([annotated_image(key, [], []) for key in keys])
    assert names == ["a", "a_png", "a_png_", "sub/a", "b.c", "d"]
    assert told == [
        "2 images differ from others in their suffix alone, which became a part of their names: 'a.png', 'a_png'"
    ]


def test_voc_keys_have_the_suffix_of_their_file() -> None:
    image = annotated_image("2008_1", [], [])
    assert image.file_name == "2008_1"
    assert Annotated((), (image,)).boxes == 0
    named = annotated_image("2008_1.jpg", [], [], folder=Path("/images"))
    assert named.file_name == "2008_1.jpg"


SIDES = st.integers(1, 20_000)


@settings(max_examples=25)
@given(st.data())
def test_any_box_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    width, height = data.draw(SIDES), data.draw(SIDES)
    shares = hnp.arrays(
        np.float64, (data.draw(st.sampled_from([0, 1, 2, 6, 7])), 2, 2), elements=st.floats(0, 1)
    )
    corners = (np.sort(data.draw(shares), axis=1) * [width, height]).astype(np.float32).reshape(-1, 4)
    image = annotated_image("a.jpg", corners, [0] * len(corners), size=(width, height))
    kept, _ = within(Annotated(("x",), (image,)))
    expected, folder = found_in(kept), tmp_path_factory.mktemp("any")
    for layout in ("coco", "cvat", "label-studio", "csv"):
        read, suffix, _ = READERS[layout]
        write(kept, layout, folder / f"{layout}{suffix}")
        assert_found(read(folder / f"{layout}{suffix}"), expected)
    lines = [list(map(float, line.split())) for line in yolo.text(kept.images[0], scores=False).splitlines()]
    found: Found = {
        "a.jpg": [
            ("x", ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
            for _, x, y, w, h in lines
        ]
    }
    assert_found(found, expected)


REFUSED: dict[str, tuple[str, str, str, str]] = {
    "a path upwards": ("coco", "../a.jpg", "x", "the image '../a.jpg' is not named by a path below a folder"),
    "a path from the root": ("yolo", "/a.jpg", "x", "the image '/a.jpg' is not named"),
    "no name": ("csv", ".", "x", "the image '.' is not named"),
    "no text": ("label-studio", "a\udcff.jpg", "x", "is not named by a path below a folder"),
    "a class that is no text": ("coco", "a.jpg", "\ud800", "the class name .* is no text"),
    "a control character in XML": ("cvat", "a.jpg", "x\x01", r"XML cannot hold the control characters in 'x\\x01'"),
    "a control character in a configuration": ("label-studio", "a.jpg", "x\x1b", "XML cannot hold"),
    "a line break in a list": ("voc", "a\nb.jpg", "x", "cannot stand in a list with a name a line"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    layout, key, class_name, message = REFUSED[name]
    out = tmp_path / f"out{READERS[layout][1]}"
    with pytest.raises(UserError, match=message):
        write(Annotated((class_name,), (annotated_image(key, BOX, [0]),)), layout, out)
    assert list(tmp_path.iterdir()) == []


def test_what_formats_cannot_hold_is_told(tmp_path: Path) -> None:
    thin = annotated_image("a.jpg", [[1, 1, 1.5, 9], *BOX], [0, 0], scores=[0.5, 0.25])
    annotated = Annotated(("=1+1", "-1"), (thin,))
    told = {
        layout: write(annotated, layout, tmp_path / f"{layout}{READERS[layout][1]}").remarks
        for layout in READERS
    }
    assert {layout: len(remarks) for layout, remarks in told.items() if remarks} == {
        "voc": 2, "yolo": 1, "fiftyone": 1, "csv": 1,
    }  # fmt: skip
    assert "1 boxes are narrower than a pixel" in told["voc"][1]
    assert told["csv"] == (
        "a spreadsheet would run 1 class names, which have an apostrophe before them: '=1+1'",
    )
    rows = (tmp_path / "csv.csv").read_text().splitlines()
    assert rows[1] == "a.jpg,'=1+1,1.0,1.0,1.5,9.0,0.5"
    assert (tmp_path / "voc/Annotations/a.xml").read_text().count("<object>") == 1
    write(annotated, "yolo", tmp_path / "scored", Options(scores=True))
    lines = (tmp_path / "scored/labels/a.txt").read_text().split("\n")
    assert [line.rpartition(" ")[2] for line in lines] == ["0.5", "0.25", ""]


def test_scores_stand_where_tools_look_for_them(tmp_path: Path) -> None:
    annotated = Annotated(("x",), (annotated_image("a.jpg", BOX, [0], scores=[0.1]),))
    for layout in ("coco", "cvat", "label-studio", "labelme", "fiftyone"):
        write(annotated, layout, tmp_path / f"{layout}{READERS[layout][1]}")
    (entry,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    (task,) = json.loads((tmp_path / "label-studio.json").read_text())
    (shape,) = json.loads((tmp_path / "labelme/a.json").read_text())["shapes"]
    (detection,) = json.loads((tmp_path / "fiftyone/labels.json").read_text())["labels"]["a"]
    scores = (
        entry["score"],
        task["predictions"][0]["result"][0]["score"],
        shape["score"],
        detection["confidence"],
    )
    assert scores == (0.1, 0.1, 0.1, 0.1)
    assert '<attribute name="score">0.1</attribute>' in (tmp_path / "cvat.xml").read_text()


def test_files_of_others_stay(tmp_path: Path) -> None:
    annotated = sample(("cat",), ("a.jpg", "b.jpg"), tmp_path / "pictures")
    for layout, own in (
        ("coco", "x.json"),
        ("label-studio", "y.label_config.xml"),
        ("yolo", "z/labels/b.txt"),
    ):
        out = tmp_path / Path(own).parts[0].replace(".label_config.xml", ".json")
        (tmp_path / own).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / own).write_text("mine")
        with pytest.raises(UserError, match="there is another file, which weaksam did not write"):
            write(annotated, layout, out)
        assert (tmp_path / own).read_text() == "mine"
        write(annotated, layout, out, overwrite=True)
        assert (tmp_path / own).read_text() != "mine"
    with pytest.raises(UserError, match=r"the format is a \.xml file"):
        write(annotated, "cvat", tmp_path / "z")
    with pytest.raises(UserError, match="the format is a folder, and this is none"):
        write(annotated, "voc", tmp_path / "x.json")
    with pytest.raises(UserError, match="has no use for it"):
        write(annotated, "coco", tmp_path / "x.json", Options(images="copy"))
    with pytest.raises(UserError, match="did you mean 'coco'"):
        write(annotated, "cocoo", tmp_path / "x.json")


@pytest.mark.parametrize("layout", ["coco", "yolo", "label-studio", "labelme"])
def test_an_earlier_export_is_replaced_unless_somebody_changed_it(tmp_path: Path, layout: str) -> None:
    both = sample(("cat",), ("a.jpg", "b.jpg"), tmp_path / "pictures")
    suffix = READERS[layout][1]
    out = tmp_path / "exports" / f"out{suffix}"
    write(both, layout, out)
    assert write(both, layout, out).is_fresh
    sure = within(both, 0.99)[0]
    assert not write(sure, layout, out).is_fresh
    changed = out if suffix else next(path for path in out.rglob("*") if path.stem == "b")
    changed.write_text("corrected by hand")
    with pytest.raises(UserError, match="or which was changed since") as raised:
        write(both, layout, out)
    assert "--overwrite" in str(raised.value.remedy) and changed.read_text() == "corrected by hand"
    write(both, layout, out, overwrite=True)
    write(sure, layout, out)
    (marks,) = [path for path in (tmp_path / "exports").rglob(".*") if path.name.endswith(".weaksam-export")]
    marks.write_text("{damaged")
    with pytest.raises(UserError, match="which weaksam did not write"):
        write(both, layout, out)


def test_leftovers_of_another_export_are_told(tmp_path: Path) -> None:
    both = sample(("cat",), ("a.jpg", "b.jpg"), tmp_path / "pictures")
    write(both, "yolo", tmp_path / "out")
    fewer = Annotated(both.classes, both.images[:1])
    export = write(fewer, "yolo", tmp_path / "out")
    assert "1 files of another export lie among these: labels/b.txt" in export.remarks


def test_images_are_copied_or_linked_and_those_that_are_gone_are_named(tmp_path: Path) -> None:
    annotated = sample(("cat",), ("a.jpg", "sub/b.png"), tmp_path / "pictures")
    write(annotated, "yolo", tmp_path / "out", Options(images="link"))
    link = tmp_path / "out/images/sub/b.png"
    assert link.is_symlink() and link.samefile(tmp_path / "pictures/sub/b.png")
    write(annotated, "yolo", tmp_path / "out", Options(images="copy"))  # the link was ours
    assert not link.is_symlink() and link.read_bytes() == (tmp_path / "pictures/sub/b.png").read_bytes()
    (tmp_path / "pictures/a.jpg").unlink()
    with pytest.raises(UserError, match=r"1 images are not there: .*pictures/a\.jpg"):
        write(annotated, "yolo", tmp_path / "other", Options(images="copy"))
    nowhere = Annotated(("cat",), (annotated_image("a.jpg", BOX, [0]),))
    with pytest.raises(UserError, match=r"the files of 1 images are not known: 'a\.jpg'"):
        write(nowhere, "yolo", tmp_path / "other", Options(images="link"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("layout", "wish"), [case for case in CASES if case[0] in ("label-studio", "yolo")])
def test_an_interrupted_export_leaves_no_half_file(tmp_path: Path, layout: str, wish: ImagesWish) -> None:
    annotated = sample(("cat",), ("a.jpg", "b.jpg"), tmp_path / "pictures")
    suffix = READERS[layout][1]

    def files(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    write(annotated, layout, tmp_path / f"whole/x{suffix}", Options(images=wish))
    whole = files(tmp_path / "whole")
    for step in range(100):
        folder = tmp_path / str(step)
        ops = FaultyOps(fail_at=step)
        try:
            write(annotated, layout, folder / f"x{suffix}", Options(images=wish), ops=ops)
        except OSError:
            assert files(folder).items() <= whole.items()
            write(annotated, layout, folder / f"x{suffix}", Options(images=wish))
            assert files(folder) == whole
        else:
            break
    assert 5 < step < 99


def test_hostile_names_of_classes_stay_themselves(tmp_path: Path) -> None:
    """No file is made beside the output, and each document parses; what comes back is compared in test_annotations."""
    annotated = Annotated(HOSTILE, (annotated_image("a.jpg", [BOX[0]] * len(HOSTILE), range(len(HOSTILE))),))
    for layout, (_, suffix, _) in READERS.items():
        write(annotated, layout, tmp_path / layout / f"x{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(READERS)
    assert not any("1+1" in path.name for path in tmp_path.rglob("*"))
