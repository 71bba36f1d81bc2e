"""Tables of image-level labels: columns and separators of real life, and errors that name the line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import read_labelled, read_truth, sample
from weaksam_cli.data import table as layout
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError


def splits(source: Path, images: Path | None = None, **options: Any) -> dict[str, DatasetSplit]:
    return {split.name: split for split in read_labelled(layout, source, images, **options)}


def keys(split: DatasetSplit) -> list[tuple[str, tuple[str, ...] | None]]:
    return [(image.key, image.labels) for image in split.images]


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    for name in ("a.jpg", "sub/ü, b.jpg", "c.jpg"):
        sample(root / name)
    path = root / "labels.csv"
    path.write_text(text, encoding=encoding, newline="")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ["Image, Label", "a.jpg,dog; cat;;dog", '"sub/ü, b.jpg","traffic light"', "", "c.jpg,"]
    path = table(tmp_path, end.join(lines) + end, encoding)
    for source in (path, tmp_path):
        split = splits(source)["trainval"]
        assert split.class_names == ("cat", "dog", "traffic light")
        assert keys(split) == [
            ("a.jpg", ("cat", "dog")),
            ("sub/ü, b.jpg", ("traffic light",)),
            ("c.jpg", None),
        ]


def test_csv_with_splits_and_several_rows_of_one_image(tmp_path: Path) -> None:
    path = table(
        tmp_path, "split,image,labels\ntrain,a.jpg,dog\ntrain,./a.jpg,cat\nval,c.jpg,\n,sub/ü; b.jpg,x\n"
    )
    sample(tmp_path / "sub" / "ü; b.jpg")
    found = splits(path)
    assert {name: keys(split) for name, split in found.items()} == {
        "train": [("a.jpg", ("cat", "dog"))],
        "val": [("c.jpg", None)],
        "trainval": [("sub/ü; b.jpg", ("x",))],
    }
    path.write_text("split,image,labels\ntrain,a.jpg,dog\nval,a.jpg,cat\n")
    with pytest.raises(UserError, match=r"line 3: 'a.jpg' belongs to 'val' here and to 'train' in line 2"):
        splits(path)


def test_an_image_that_is_not_there_is_one_that_failed(tmp_path: Path) -> None:
    split = splits(table(tmp_path, "image,label\na.jpg,dog\nd.jpg,dog\n../../c.jpg,cat\n"))["trainval"]
    assert keys(split) == [("a.jpg", ("dog",)), ("c.jpg", ("cat",))]
    assert [item.key for item in split.failed] == ["d.jpg"]


@pytest.mark.parametrize(
    ("cells", "expected", "told"),
    [
        (["cat|dog", "cat", "dog"], ["cat", "dog"], "labels are parted at '|', as in 'cat|dog'"),
        (["cat|dog", "dog|cow", "cow|cat"], ["cat", "cow", "dog"], "labels are parted at '|'"),
        (['"cat,dog"', "cat", "dog"], ["cat", "dog"], "labels are parted at ','"),
        (['"salt, pepper"', "cat", "dog"], ["cat", "dog", "salt, pepper"], "--set separator=',' parts them"),
        (["a|b", "cat", "dog"], ["a|b", "cat", "dog"], "--set separator='|' parts them"),
        (["cat dog", "cat", "dog"], ["cat", "cat dog", "dog"], "--set separator=' ' parts them"),
        (["traffic light", "cat", "dog"], ["cat", "dog", "traffic light"], ""),
        (["cat;dog", "cat", "dog"], ["cat", "dog"], ""),
        (["cat/dog", "cat", "dog"], ["cat", "dog"], "labels are parted at '/'"),
        (["n/a", "cat", "dog"], ["cat", "dog", "n/a"], ""),
        (["\"['cat', 'dog']\"", '"[""dog""]"', "cow"], ["cat", "cow", "dog"], ""),
        (["cat_dog", "cat", "dog"], ["cat", "cat_dog", "dog"], "--set separator='_' parts them"),
        (["cat:dog", "cat", "dog"], ["cat", "dog"], "labels are parted at ':'"),
        (['"cat\ndog"', "cat", "dog"], ["cat", "dog"], "labels are parted at"),
        (["\"('cat', 'dog')\"", "\"('cow',)\"", "()"], ["cat", "cow", "dog"], ""),
        (['"{cat,dog}"', "{cow}", "{}"], ["cat", "cow", "dog"], ""),
        (["(sub)adult cat", "cat", "dog"], ["(sub)adult cat", "cat", "dog"], "parts them"),
    ],
)
def test_separators(tmp_path: Path, cells: list[str], expected: list[str], told: str) -> None:
    rows = zip(("a.jpg", '"sub/ü, b.jpg"', "c.jpg"), cells, strict=True)
    path = table(tmp_path, "image,label\n" + "".join(f"{image},{cell}\n" for image, cell in rows))
    assert list(splits(path)["trainval"].class_names) == expected
    warnings = layout.read(path, layout.Recipe(), boxes=False).warnings
    assert [told in text for text in warnings] == [True] * bool(told)


def test_the_separator_can_be_said(tmp_path: Path) -> None:
    path = table(tmp_path, "image,label\na.jpg,a|b\nc.jpg,c d\n")
    assert splits(path, separator="|")["trainval"].class_names == ("a", "b", "c d")
    assert splits(path, separator=" ")["trainval"].class_names == ("a|b", "c", "d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename,cat,dog\na.jpg,1,0\nc.jpg,1,1\n", [("a.jpg", ("cat",)), ("c.jpg", ("cat", "dog"))]),
        ("image_id;label\na;cat\nc;dog\n", [("a.jpg", ("cat",)), ("c.jpg", ("dog",))]),
        ("path\ttags\na.jpg\tcat\n", [("a.jpg", ("cat",))]),
        (
            "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,1,2,11,12\na.jpg,40,30,dog,x,1,5,5\n",
            [("a.jpg", ("cat", "dog"))],
        ),
        ("Image Index,Finding Labels,Age\na.jpg,cat|dog,7\nc.jpg,cat|cow,8\nc.jpg,dog,8\n",
         [("a.jpg", ("cat", "dog")), ("c.jpg", ("cat", "cow", "dog"))]),
        ("id,breed\na,pug\n", [("a.jpg", ("pug",))]),
        ("Image,Id\na.jpg,w1\n", [("a.jpg", ("w1",))]),
        ("Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId;Path\n40;30;1;1;5;5;20;a.jpg\n", [("a.jpg", ("20",))]),
        ("ImageID,LabelName,Confidence\na,/m/1,1\na,/m/2,0\nc,/m/2,0\n", [("a.jpg", ("/m/1",)), ("c.jpg", ())]),
        ("image_id,class_name,class_id,x_min,y_min,x_max,y_max\na,No finding,14,,,,\nc,Mass,3,1,1,5,5\n",
         [("a.jpg", ("No finding",)), ("c.jpg", ("Mass",))]),
        (",image,cat,dog\n0,a.jpg,1,0\n", [("a.jpg", ("cat",))]),
        ("id,filename,label\n1,a.jpg,cat\n", [("a.jpg", ("cat",))]),
        ("image,cat\na.jpg,1\nc.jpg,0\n", [("a.jpg", ("cat",)), ("c.jpg", ())]),
        ("a.jpg,1,2,11,12,cat\nc.jpg,,,,,\n", [("a.jpg", ("cat",)), ("c.jpg", ())]),
        ("a.jpg,cat\nc.jpg,dog\n", [("a.jpg", ("cat",)), ("c.jpg", ("dog",))]),
        ("id_code,diagnosis\na,2\n", [("a.jpg", ("2",))]),
        ("sep=;\nimage;label\na.jpg;cat\n", [("a.jpg", ("cat",))]),
        ("image,label\na.jpg,cat,,\nc.jpg,NaN\n", [("a.jpg", ("cat",)), ("c.jpg", None)]),
        ("filename,Unlabeled,cat\na.jpg,1,0\nc.jpg,0,1\n", [("a.jpg", ()), ("c.jpg", ("cat",))]),
    ],
)  # fmt: skip
def test_columns_of_real_life(tmp_path: Path, text: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert keys(splits(table(tmp_path, text))["trainval"]) == expected


def test_a_row_an_object_has_boxes(tmp_path: Path) -> None:
    path = table(tmp_path, "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,11,12\na.jpg,dog,x,1,5,5\n")
    truth = read_truth(layout, path, "trainval")
    assert truth.images[0].objects.boxes.tolist() == [[1, 2, 11, 12]]
    assert [item.reason for item in truth.failed] == ["line 3 (dog): a coordinate is no number"]


def test_a_column_that_is_no_class_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: .* 'note' holds 'nice'"):
        splits(table(tmp_path, "image,cat,note\na.jpg,1,nice\n"))


def test_csv_images_elsewhere(tmp_path: Path) -> None:
    sample(tmp_path / "images" / "a.jpg")
    path = tmp_path / "t.csv"
    path.write_text("image,label\na.jpg,x\n")
    assert keys(splits(path)["trainval"]) == [("a.jpg", ("x",))]
    shutil.move(tmp_path / "images", tmp_path / "there")
    assert keys(splits(path, images=tmp_path / "there")["trainval"]) == [("a.jpg", ("x",))]
    assert keys(splits(path)["trainval"]) == [("there/a.jpg", ("x",))], "found below the folder of the table"
    shutil.move(tmp_path / "there", tmp_path.parent / f"{tmp_path.name} beside")
    with pytest.raises(UserError, match=r"--images FOLDER"):
        splits(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a column 'image', got the columns nothing"),
        ("a,dog\n", "line 1: expected a column 'image', got the columns a, dog"),
        ("image,label\n", "the table has no rows"),
        ("image,label\na.jpg,dog\nc.jpg,dog,cat\n", "line 3: expected 2 columns, got 3"),
        ('image,label\na.jpg,"dog\n', "unexpected end of data"),
        ("image,label\na.jpg,\n", "no object in any annotation"),
        ("image,label\na.jpg,ca\0t\n", "line 2: a zero byte"),
        ("image,label\na.jpg," + 10**7 * "x", "line 2: a row has 1,000,000 characters or more"),
        ("image," + 10**6 * "c,", "line 1: a row has 1,000,000 characters or more"),
        ('image,label\na.jpg,"' + 10**6 * "x\n", "line 2: a row has 1,000,000|line 2: field larger than"),
        ("image,label,split\na.jpg,cat,../../x\n", "line 2: '../../x' cannot be the name of a split"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        splits(table(tmp_path, text))


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        splits(table(tmp_path, "image,label\na.jpg,Köter\n", "latin-1"))
    with pytest.raises(UserError, match="UTF-16"):
        splits(table(tmp_path, "image,label\na.jpg,dog\n", "utf-16"))


def test_a_table_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "image,label\n")
    with path.open("r+b") as stream:
        stream.truncate(10**9)
    with pytest.raises(UserError, match="and at most 512,000,000 are read"):
        splits(path)
    monkeypatch.setattr("weaksam_cli.data.table.rows.MAX_ROWS", 2)
    path.write_text("image,label\n" + 3 * "a.jpg,dog\n")
    with pytest.raises(UserError, match="line 4: has more than 2 rows"):
        splits(path)
    monkeypatch.setattr("weaksam_cli.data.table.MAX_ROWS", 2)
    path.write_text("image,label\na.jpg,x;y;z\n")
    with pytest.raises(UserError, match="more than 2 labels"):
        splits(path)


BOXES = "filename,width,height,class,xmin,ymin,xmax,ymax\n{},40,30,cat,1,1,5,5\n"
TICKS = "filename, cat\n{}, 1\n"
PAIRS = "image,label\n{},cat\n"


@pytest.mark.parametrize(
    ("images", "tables", "expected"),
    [
        (["images/a.jpg", "images/b.jpg"], {"train.csv": PAIRS, "val.csv": PAIRS}, {"train": "train", "val": "test"}),
        (["train/a.jpg", "valid/b.jpg"], {"train/_classes.csv": TICKS, "valid/_classes.csv": TICKS},
         {"train": "train", "valid": "test"}),
        (["train/a.jpg", "test/b.jpg"], {"train/_annotations.csv": BOXES, "test/_annotations.csv": BOXES},
         {"train": "train", "test": "test"}),
        (["images/train/a.jpg", "images/test/b.jpg"], {"data/train_labels.csv": BOXES, "data/test_labels.csv": BOXES},
         {"train": "train", "test": "test"}),
        (["train/a.jpg"], {"train.csv": "id,label\n{},cat\n", "sample_submission.csv": PAIRS}, {"train": "train"}),
        (["test/a.jpg"], {"test.csv": PAIRS}, {"test": "test"}),
    ],
)  # fmt: skip
def test_tables_of_splits(
    tmp_path: Path, images: list[str], tables: dict[str, str], expected: dict[str, str]
) -> None:
    for number, name in enumerate(images):
        sample(tmp_path / name, 40 + number)
    for name, (path, text) in zip(images, tables.items(), strict=False):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text.format(Path(name).name))
    for path in list(tables)[len(images) :]:
        (tmp_path / path).write_text("x,y\n1,2\n")
    assert choose_layout(str(tmp_path), None) == "table"
    found = splits(tmp_path)
    assert {name: split.role for name, split in found.items()} == expected
    assert [image.path for split in found.values() for image in split.images] == [
        tmp_path / name for name in images
    ]
    told = layout.read(tmp_path, layout.Recipe(), boxes=False).warnings
    assert told == (("tables that are not read: sample_submission.csv",) if len(tables) > len(images) else ())


def test_fastai_says_which_images_are_valid(tmp_path: Path) -> None:
    path = table(tmp_path, "fname,labels,is_valid\na.jpg,cat,True\nc.jpg,cat,False\n")
    assert {name: split.role for name, split in splits(path).items()} == {"valid": "test", "train": "train"}


def test_a_table_by_its_folder_alone_is_of_its_split(tmp_path: Path) -> None:
    sample(tmp_path / "valid" / "a.jpg")
    (tmp_path / "valid" / "_classes.csv").write_text(TICKS.format("a.jpg"))
    assert splits(tmp_path / "valid")["valid"].role == "test"


def test_an_error_in_a_file_of_excel_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv, line 4"):
        splits(table(tmp_path, "sep=;\nimage;label\na.jpg;cat\nc.jpg;cat;dog\n"))


def test_a_second_column_of_labels_is_told(tmp_path: Path) -> None:
    path = table(tmp_path, "image,label,category\na.jpg,cat,animal\n")
    told = layout.read(path, layout.Recipe(), boxes=False).warnings
    assert told == ("the column 'label' of labels.csv is taken for the labels, not category",)


def test_the_table_of_a_test_without_labels_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        sample(tmp_path / "train_images" / name)
    (tmp_path / "train.csv").write_text("id_code,diagnosis\na,4\nb,0\n")
    (tmp_path / "test.csv").write_text("id_code\nc\n")
    found = layout.read(tmp_path, layout.Recipe(), boxes=False)
    assert [*found.available] == ["train"]
    assert "tables that are not read: test.csv" in found.warnings


def test_sizes_of_files_beside_class_folders_are_no_labels(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg"):
        sample(tmp_path / name)
    (tmp_path / "files.csv").write_text("path,size\ncat/a.jpg,3\ndog/b.jpg,4\n")
    assert choose_layout(str(tmp_path), None) == "folder"
