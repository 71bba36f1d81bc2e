"""HDF5 files that are not what they say: refused in one line when they are opened, or when the values are read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.artifacts.helpers import STAGE, context
from tests.tiny import synthetic_cam
from weaksam_cli.artifacts import hdf5, open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, read_class_maps
from weaksam_cli.artifacts.points import POINTS, points_to_rows, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Proposals, proposals_to_rows, read_proposals
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.receipt import receipt_path
from weaksam_cli.artifacts.schema import ImageRows, Schema, concatenate
from weaksam_cli.cli.app import app
from weaksam_cli.core.types import Points
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError

KEYS = ("1", "2", "3")
Change = Callable[[h5py.File], None]


def _write(path: Path, schema: Schema, rows: list[ImageRows], tables: dict[str, list[str]]) -> None:
    attributes = {"format": schema.name, "format_version": schema.version, "recipe": "{}", "inputs": "{}"}
    with h5py.File(path, "w") as handle:
        hdf5.create(handle, schema, attributes, tables)
        hdf5.append(handle, schema, concatenate(schema, list(zip(KEYS, rows, strict=True))))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artifact of each kind, without receipts."""
    folder = tmp_path_factory.mktemp("good")
    generator = np.random.default_rng(0)
    make(synthetic_cam(folder / "cam.h5", list(KEYS)), STAGE, context(folder))
    receipt_path(folder / "cam.h5").unlink()
    low = generator.uniform(0, 20, (3, 9, 2))
    boxes = [np.concatenate([item, item + 9], axis=1).astype(np.float32) for item in low]
    proposals = [proposals_to_rows(Proposals.from_boxes(item, "grid"), (48, 64)) for item in boxes]
    _write(folder / "proposals.h5", PROPOSALS, proposals, {"source_names": list(SOURCES)})
    points = Points(
        np.asarray([[1, 2], [60, 40]], np.int32),
        np.asarray([0, 1], np.int32),
        np.ones(2, np.float32),
        np.zeros(2, np.int16),
    )
    rows = [points_to_rows([(0, points)], (48, 64)) for _ in KEYS]
    _write(folder / "points.h5", POINTS, rows, {"class_names": ["a", "b"], "kind_names": list(KINDS)})
    return folder


def read_all(path: Path) -> None:
    """Everything that a stage or `inspect` reads of an artifact."""
    read = {"cam": read_class_maps, "proposals": read_proposals, "points": read_points}[path.stem]
    with open_artifact(path) as artifact:
        assert isinstance(artifact, Artifact)
        for key in artifact.image_ids:
            read(artifact, key)
        assert artifact.attributes
        artifact.datasets()


def replace(name: str, values: object, dtype: object = None) -> Change:
    def change(handle: h5py.File) -> None:
        del handle[name]
        handle.create_dataset(name, data=values, dtype=dtype)

    return change


def put(name: str, index: object, value: object) -> Change:
    def change(handle: h5py.File) -> None:
        handle[name][index] = value

    return change


def attribute(name: str, value: object) -> Change:
    def change(handle: h5py.File) -> None:
        handle.attrs[name] = value

    return change


def drop(name: str) -> Change:
    def change(handle: h5py.File) -> None:
        del handle[name]

    return change


def link(name: str, target: object) -> Change:
    def change(handle: h5py.File) -> None:
        del handle[name]
        handle[name] = target

    return change


def claim(name: str, rows: int, chunk: int = 1024) -> Change:
    def change(handle: h5py.File) -> None:
        shape = (rows, *handle[name].shape[1:])
        dtype = handle[name].dtype
        del handle[name]
        handle.create_dataset(name, shape, dtype, chunks=(chunk, *shape[1:]), maxshape=(None, *shape[1:]))

    return change


def external(name: str) -> Change:
    def change(handle: h5py.File) -> None:
        shape, dtype = handle[name].shape, handle[name].dtype
        del handle[name]
        handle.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    return change


def virtual(name: str) -> Change:
    def change(handle: h5py.File) -> None:
        layout = h5py.VirtualLayout(handle[name].shape, handle[name].dtype)
        layout[:] = h5py.VirtualSource("other.h5", "x", handle[name].shape)
        del handle[name]
        handle.create_virtual_dataset(name, layout)

    return change


def packed(name: str, how: str) -> Change:
    def change(handle: h5py.File) -> None:
        values, dtype = handle[name][...], handle[name].dtype
        del handle[name]
        handle.create_dataset(name, data=values, dtype=dtype, compression=how)

    return change


def packed_twice(name: str) -> Change:
    """60 kB become gigabytes."""

    def change(handle: h5py.File) -> None:
        shape = handle[name].shape
        del handle[name]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(shape)
        for _ in range(2):
            properties.set_deflate(9)
        kind, space = h5py.h5t.py_create(np.dtype("f4")), h5py.h5s.create_simple(shape)
        h5py.h5d.create(handle.id, name.encode(), kind, space, properties)

    return change


def bomb(name: str) -> Change:
    """A chunk that says 432 bytes and unpacks to ten megabytes."""

    def change(handle: h5py.File) -> None:
        shape = handle[name].shape
        del handle[name]
        dataset = handle.create_dataset(name, shape, "f4", chunks=shape, compression="gzip")
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(10_000_000)))

    return change


def long_text(name: str, *, in_chunks: bool) -> Change:
    """A text that claims two gigabytes: HDF5 allocates them before it looks for the text."""

    def change(handle: h5py.File) -> None:
        values, length = handle[name][...], (2**31).to_bytes(4, "little")
        del handle[name]
        chunks = values.shape if in_chunks else None
        dataset = handle.create_dataset(name, data=values, dtype=h5py.string_dtype(), chunks=chunks)
        handle.flush()
        if in_chunks:
            _, raw = dataset.id.read_direct_chunk((0,))
            dataset.id.write_direct_chunk((0,), length + raw[4:])
        else:
            with Path(handle.filename).open("r+b") as file:
                file.seek(dataset.id.get_offset())
                file.write(length)

    return change


def crowd(rows: int) -> Change:
    """One image has all rows, in a file that is large enough to claim them."""

    def change(handle: h5py.File) -> None:
        handle["padding"] = np.zeros(1_000_000, np.uint8)
        handle["offsets"][1:] = rows
        for name in ("boxes", "source", "prompt", "mask_token", "predicted_iou", "stability"):
            handle[name].resize(rows, axis=0)
        handle["masks_offsets"].resize(rows + 1, axis=0)

    return change


def group(name: str) -> Change:
    def change(handle: h5py.File) -> None:
        del handle[name]
        handle.create_group(name)

    return change


CASES: list[tuple[str, Change, str]] = [
    ("cam", attribute("format", "other/cam"), "not written by weaksam"),
    ("cam", attribute("format", 7), "not written by weaksam"),
    ("cam", attribute("format_version", 99), "format version 99"),
    ("cam", attribute("format_version", "two"), "format_version is 'two'"),
    ("cam", attribute("format_version", 0), "format_version is"),
    ("cam", attribute("format_version", np.zeros(3)), "format_version is"),
    ("cam", attribute("recipe", "{"), "Expecting"),
    ("cam", attribute("recipe", "[" * 9000), "recursion"),
    ("cam", attribute("seed", np.zeros((2, 2))), "the attribute seed is neither"),
    ("cam", put("values", 5, np.nan), "column values holds values that are not finite"),
    ("cam", put("map_size", 0, (0, 5)), "column map_size: expected values from 1"),
    ("cam", put("map_size", 0, (7, 5)), "image '1': "),
    ("cam", put("map_size", 0, (2**30, 2**30)), "image '1': "),
    ("cam", put("class_index", 0, 999), "column class_index: expected values from 0 to 2, got"),
    ("cam", put("class_index", 0, -5), "column class_index"),
    ("cam", put("kind", 0, 9), "column kind"),
    ("cam", put("scale", 0, np.inf), "column scale holds values that are not finite"),
    ("cam", put("span", 0, np.nan), "column span"),
    ("cam", put("span", 0, -1), "column span"),
    ("cam", put("low", 0, 3e38), "column low"),
    ("cam", put("scale", 0, 0.123), "image '1': coarse maps at scale .*: expected the same maps"),
    ("cam", put("map_index", 0, 5), "image '1': coarse maps at scale .*: expected the same maps"),
    ("cam", put("image_size", 0, (0, 0)), "column image_size: expected values from 1"),
    ("cam", put("image_size", 0, (2**20, 2**20)), "more than any image that is read"),
    ("cam", put("class_scores", (0, 0), np.nan), "column class_scores"),
    ("cam", put("class_scores", (0, 0), -1), "column class_scores"),
    ("cam", put("values_offsets", -1, 10**12), "column values: expected shape"),
    ("cam", put("values_offsets", 1, -4), "values_offsets does not fit"),
    ("cam", drop("class_names"), "the table class_names is missing"),
    ("points", put("kind_names", 1, "sha256"), "kind_names is expected to be coarse, fine, cross, got coarse, sha256"),
    ("cam", drop("image_size"), "column image_size is missing"),
    ("cam", replace("class_names", np.zeros(3)), "string datatype"),
    ("cam", replace("class_scores", np.zeros((3, 0))), "column class_scores: expected shape"),
    ("proposals", put("boxes", 0, (9, 0, 3, 5)), "expected x1 <= x2"),
    ("proposals", put("boxes", 0, (-90, 0, 3, 5)), "leaves the image"),
    ("proposals", put("boxes", 0, (0, 0, 1e30, 5)), "leaves the image"),
    ("proposals", put("boxes", 0, (np.nan, 0, 3, 5)), "not finite"),
    ("proposals", put("predicted_iou", 0, np.inf), "not finite"),
    ("proposals", put("source", 0, 77), "column source"),
    ("proposals", put("source", 0, -1), "column source"),
    ("proposals", put("offsets", 1, 10**9), "offsets does not fit"),
    ("proposals", put("offsets", -1, 10**9), "expected shape"),
    ("proposals", replace("offsets", np.zeros(0, int)), "column offsets: expected shape"),
    ("proposals", replace("offsets", np.zeros((4, 2), int)), "column offsets: expected shape"),
    ("proposals", replace("image_ids", [b"1", b"1", b"2"], h5py.string_dtype()), "an image occurs twice"),
    ("proposals", replace("image_ids", [b"\xff\xfe", b"b", b"c"], h5py.string_dtype()), "decode"),
    ("proposals", replace("image_ids", [b"a" * 99999, b"b", b"c"], h5py.string_dtype()), "text of 99999 letters"),
    ("proposals", replace("image_ids", np.arange(3)), "damaged"),
    ("proposals", replace("boxes", np.zeros((27, 3), np.float32)), "column boxes: expected shape"),
    ("proposals", replace("boxes", np.zeros((27, 4), np.int32)), "column boxes: expected float32, got int32"),
    ("proposals", replace("boxes", np.zeros(27, [("a", "f4"), ("b", "f4")])), "boxes holds values of type"),
    ("proposals", replace("boxes", np.zeros(27, complex)), "boxes holds values of type complex128"),
    ("proposals", replace("prompt", 3), "prompt has no rows"),
    ("proposals", replace("failed_ids", [b"x"], h5py.string_dtype()), "differ in length"),
    ("proposals", claim("boxes", 10**12), "boxes claims"),
    ("proposals", claim("failed_ids", 10**11), "failed_ids claims"),
    ("proposals", claim("boxes", 27, 10**8), "boxes has chunks that are larger"),
    ("proposals", put("stability", 0, 1.5), "column stability: expected values from 0 to 1"),
    ("proposals", replace("prompt", np.full(27, 2**40)), "column prompt: expected values from"),
    ("proposals", replace("mask_token", np.full(27, 200, np.uint8)), "column mask_token: expected values from"),
    ("proposals", replace("predicted_iou", np.full(27, 1e300)), "column predicted_iou: expected values from"),
    ("proposals", replace("offsets", np.asarray([0, 9, 18, 2**63], np.uint64)), "offsets does not fit"),
    ("proposals", packed("boxes", "lzf"), "boxes is compressed in a way that is not read"),
    ("proposals", packed("image_ids", "gzip"), "image_ids is compressed in a way that is not read"),
    ("proposals", packed_twice("boxes"), "boxes is compressed in a way that is not read"),
    ("proposals", bomb("boxes"), "boxes has chunks that are larger than they say"),
    ("proposals", long_text("image_ids", in_chunks=True), "image_ids claims 2,147,483,6.. letters"),
    ("proposals", long_text("source_names", in_chunks=False), "source_names claims 2,147,483,6.. letters"),
    ("proposals", crowd(1 << 25), "boxes claims 536,870,912 bytes for one image"),
    ("proposals", external("boxes"), "boxes is stored outside of the file"),
    ("proposals", virtual("boxes"), "boxes is stored outside of the file"),
    ("proposals", link("boxes", h5py.SoftLink("/prompt")), "boxes is a link"),
    ("proposals", link("boxes", h5py.ExternalLink("other.h5", "boxes")), "boxes is a link"),
    ("proposals", group("boxes"), "boxes is no dataset"),
    ("proposals", link("boxes", np.dtype("f4")), "boxes is no dataset"),
    ("points", put("xy", 0, (64, 2)), "64, 2 leaves the image of 64 x 48"),
    ("points", put("xy", 0, (-1, 2)), "column xy"),
    ("points", put("value", 0, np.nan), "column value"),
    ("points", put("class_index", 0, 2), "column class_index"),
    ("points", drop("kind_names"), "the table kind_names is missing"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_cannot_be_is_refused(good: Path, tmp_path: Path, number: int) -> None:
    name, change, message = CASES[number]
    path = tmp_path / f"{name}.h5"
    path.write_bytes((good / path.name).read_bytes())
    read_all(path)
    with h5py.File(path, "r+") as handle:
        change(handle)
    with pytest.raises(UserError, match=message) as caught:
        read_all(path)
    assert path.name in caught.value.one_line()
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    drawing = ["--image", "1", "--draw", str(tmp_path / "x.png"), "--images", str(tmp_path)]
    result = CliRunner().invoke(app, ["inspect", str(path), *drawing])
    assert result.exit_code in (0, 2), result.output
    assert len(result.stderr.splitlines()) <= 2


def test_hard_links_to_one_dataset_are_no_harm(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "points.h5"
    path.write_bytes((good / path.name).read_bytes())
    with h5py.File(path, "r+") as handle:
        handle["again"] = handle["xy"]
    read_all(path)


def test_bytes_that_are_flipped_are_never_a_bug(good: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for number in range(60):
        name = ("cam", "proposals", "points")[number % 3]
        data = bytearray((good / f"{name}.h5").read_bytes())
        for place in generator.integers(0, len(data), 3):
            data[place] ^= 1 << int(generator.integers(8))
        path = tmp_path / f"{name}.h5"
        path.write_bytes(data)
        try:
            read_all(path)
        except UserError:
            continue
