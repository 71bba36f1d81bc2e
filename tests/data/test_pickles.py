from __future__ import annotations

import collections
import copyreg
import decimal
import os
import pathlib
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.data import pickles
from weaksam_cli.data.pickled_values import shown
from weaksam_cli.data.pickles import MAX_DEPTH, pickle_bytes, read_pickle
from weaksam_cli.errors import UserError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file.pkl"
    path.write_bytes(data)
    return path


def read(folder: Path, data: bytes, **more: Any) -> Any:
    return read_pickle(written(folder, data), **more)


def assert_same(found: Any, expected: Any) -> None:
    """Equal values of equal types, arrays of equal dtype and shape."""
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected) and found == expected


CONTENTS: dict[str, Any] = {
    "plain": {"a": [1, -2, 2**70, 1.5, True, False, None], b"b": (), 7: ("text é", b"bytes \xff", b"")},
    "boxes": {"boxes": [np.arange(8, dtype=np.uint16).reshape(2, 4), np.zeros((0, 4), np.float32)]},
    "no boxes, as published": [np.array([]), np.zeros((0, 4), np.int64)],
    "Fortran": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    "strided": np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
    "big-endian": np.arange(4, dtype=">f4"),
    "texts": np.array(["000005", "2008_000021"]),
    "ordered": {"a": collections.OrderedDict(b=1, c=np.ones(2))},
    "scalars": [np.float32(0.25), np.int64(-3), np.bool_(True), np.array(5)],
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(CONTENTS))
def test_reads_what_python_writes(tmp_path: Path, protocol: int, name: str) -> None:
    assert_same(read(tmp_path, pickle.dumps(CONTENTS[name], protocol)), CONTENTS[name])


@pytest.mark.parametrize("name", list(CONTENTS))
def test_our_pickles_name_numpy_as_before_numpy_2(tmp_path: Path, name: str) -> None:
    data = pickle_bytes(CONTENTS[name])
    assert b"numpy._core" not in data
    assert data[:2] == b"\x80\x03"
    assert_same(read(tmp_path, data), CONTENTS[name])
    assert_same(pickle.loads(data), pickle.loads(pickle.dumps(CONTENTS[name], 3)))


def test_equal_contents_give_equal_bytes() -> None:
    assert pickle_bytes({"boxes": [np.ones((2, 4))]}) == pickle_bytes({"boxes": [np.ones((2, 4))]})


@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.float32, np.float64, np.int64]),
        st.sampled_from([(0, 4), (1, 4), (2, 4), (6, 4), (7, 4)]),
    ),
    st.sampled_from(PROTOCOLS),
)
def test_any_array_comes_back(tmp_path_factory: pytest.TempPathFactory, array: Any, protocol: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    found = read(folder, pickle.dumps([array], protocol))[0]
    assert found.dtype == array.dtype and found.tobytes() == array.tobytes() and found.shape == array.shape


def python_2_array(values: Any) -> bytes:
    """What `cPickle.dump(array, file)` wrote in Python 2 with numpy 1: protocol 0, raw data as a quoted string."""
    array = np.asarray(values)
    quoted = repr(array.tobytes()).removeprefix("b").encode()
    code = f"{array.dtype.kind}{array.dtype.itemsize}".encode()
    shape = b"".join(b"I%d\n" % side for side in array.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n(I1\n(" + shape
        + b"tp7\ncnumpy\ndtype\np8\n(S'" + code + b"'\np9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nb"
        + b"I00\nS" + quoted + b"\np14\ntp15\nb."
    )  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_reads_pickles_of_python_2(tmp_path: Path, n: int) -> None:
    """Bytes above 127 are in there: -1.5 is written as such."""
    boxes = np.linspace(-1.5, 300.25, n * 4).astype(np.float32).reshape(n, 4)
    data = python_2_array(boxes)
    assert_same(pickle.loads(data, encoding="latin1"), boxes)
    assert_same(read(tmp_path, data), boxes)


class Harmful:
    """Unpickled in the ordinary way, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_is_refused_by_name_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps({"boxes": [Harmful(mark)]}, protocol)
    with pytest.raises(UserError, match=rf"refused: it holds {os.system.__module__}\.system"):
        read(tmp_path, data)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the file would have done it


REFUSED: dict[str, tuple[bytes, str]] = {
    "eval": (b"cbuiltins\neval\n(S'1'\ntR.", r"builtins\.eval"),
    "getattr": (b"c__builtin__\ngetattr\n(S'1'\nS'x'\ntR.", r"__builtin__\.getattr"),
    "an instance": (pickle.dumps(decimal.Decimal(1)), r"decimal\.Decimal"),
    "a path": (pickle.dumps(pathlib.PurePosixPath("x")), r"pathlib.*PurePosixPath"),
    "another dictionary": (pickle.dumps(collections.Counter("a")), r"collections\.Counter"),
    "a reconstructor": (b"ccopy_reg\n_reconstructor\n(tR.", r"copy_reg\._reconstructor"),
    "old instance": (b"(ios\nsystem\n.", "instruction INST"),
    "old object": (b"(cnumpy\nndarray\no.", "instruction OBJ"),
    "new object": (b"\x80\x02cnumpy\ndtype\n(S'f4'\nt\x81.", "instruction NEWOBJ"),
    "a set": (pickle.dumps({1}), "instruction EMPTY_SET"),
    "persistent id": (b"Pname\n.", "instruction PERSID"),
    "binary persistent id": (b"I1\nQ.", "instruction BINPERSID"),
    "an extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
    "out-of-band buffer": (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
    "objects": (pickle.dumps(np.array([{}, None], dtype=object)), "dtype 'O8'"),
    "fields": (pickle.dumps(np.zeros(2, [("a", "f4")])), "dtype 'V4'"),
    "dates": (pickle.dumps(np.array(["2024-01-01"], "M8[D]")), "dtype 'M8'"),
    "complex": (pickle.dumps(np.zeros(2, np.complex64)), "dtype 'c8'"),
    "a dtype": (pickle.dumps(np.dtype("f4")), "as a value"),
    "a function as value": (b"cnumpy\ndtype\n.", r"numpy\.dtype as a value"),
    "a called text": (b"S'x'\n(tR.", "no function of numpy"),
    "a called class": (b"cnumpy\nndarray\n(tR.", "no function of numpy"),
    "a changed stand-in": (b"cnumpy\ndtype\n(dS'x'\nI1\nsb.", "state of its own"),
    "a changed list": (b"(l(dS'x'\nI1\nsb.", "state of its own"),
    "keys that are no names": (b"}((ttI1\ns.", "keys"),
    "an array never filled": (b"cnumpy.core.multiarray\n_reconstruct\n(tR.", "unfinished"),
    "text in another encoding": (b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.", "encoding 'zip'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refuses_anything_else_by_name(tmp_path: Path, name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, data)
    assert caught.value.what.startswith("refused: ")
    assert "file.pkl" in str(caught.value.where)


def test_a_registered_extension_is_not_looked_up(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(UserError, match="instruction EXT1"):
            read(tmp_path, b"\x80\x02\x82\xf0(S'true'\ntR.")
    finally:
        copyreg.remove_extension("os", "system", 240)


def array_with(
    *,
    shape: bytes = b"I2\nI4\n",
    data: bytes = b"S'12345678'\n",
    dtype: bytes = b"u1",
    fortran: bytes = b"I00",
) -> bytes:
    """A pickle of an array of 2 x 4 bytes, with parts replaced."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(" + shape + b"tcnumpy\ndtype\n(S'"
        + dtype + b"'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb" + fortran + b"\n" + data + b"tb."
    )  # fmt: skip


def test_an_array_made_by_hand(tmp_path: Path) -> None:
    expected = np.frombuffer(b"12345678", np.uint8)
    assert_same(read(tmp_path, array_with()), expected.reshape(2, 4))
    for fortran in (b"I01", b"I1"):
        assert_same(read(tmp_path, array_with(fortran=fortran)), expected.reshape(2, 4, order="F"))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": b"I2\nI5\n"},
        {"shape": b"I-2\nI-4\n"},
        {"shape": b"I4000000000\nI4000000000\n"},
        {"shape": b"F2.0\nF4.0\n"},
        {"shape": b"I281474976710655\n" * 50_000},
        {"data": b"S'1234567'\n"},
        {"data": b"S''\n"},
        {"data": b"I8\n"},
        {"data": b"(lI1\na"},
        {"dtype": b"f4"},
        {"dtype": b"S99999999"},
        {"dtype": b"O"},
    ],
)
def test_an_array_that_lies_is_refused(tmp_path: Path, change: dict[str, bytes]) -> None:
    with pytest.raises(UserError, match="refused"):
        read(tmp_path, array_with(**change))


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"ids": [1], "boxes": [np.ones((1, 4), np.uint8)]}, protocol)
    for end in range(1, len(data)):
        with pytest.raises(UserError):
            read(tmp_path, data[:end])
    assert list(read(tmp_path, data)) == ["ids", "boxes"]


@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = written(tmp_path_factory.mktemp("bytes"), data + b".")
    try:
        assert_same(read_pickle(path), read_pickle(path))
    except UserError as error:
        assert error.where == str(path)


@given(st.data())
def test_a_flipped_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(pickle.dumps({"ids": [1, "2"], "boxes": [np.ones((3, 4), np.float32)]}, 2))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.mktemp("flip"), bytes(whole))
    try:
        read_pickle(path)
    except UserError as error:
        assert error.where == str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 a zip file", "refused: it holds the instruction PERSID"),
        (b"<html>", "not a readable pickle|refused"),
        (b"\x80\x63.", "unsupported pickle protocol"),
        (b".", "not a readable pickle"),
        (b"I1\nI2\n\x85\x85\x85", "not a readable pickle"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, data)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_pickle(path)


def test_too_large_a_file_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps([1, 2, 3])
    monkeypatch.setattr(pickles, "MAX_BYTES", len(data))
    assert read(tmp_path, data) == [1, 2, 3]
    monkeypatch.setattr(pickles, "MAX_BYTES", len(data) - 1)
    with pytest.raises(UserError, match=f"has {len(data)} bytes, more than the limit"):
        read(tmp_path, data)


@pytest.mark.parametrize("code", ["B", "\x8e", "\x96", "T", "X", "\x8d", "\x95", "\x8b"])
def test_a_promised_length_reserves_no_memory(tmp_path: Path, code: str) -> None:
    """A few bytes that announce gigabytes end as a file cut short."""
    eight = code in ("\x8e", "\x96", "\x8d", "\x95")
    size = struct.pack("<Q", 1 << 40) if eight else struct.pack("<I", (1 << 31) - 2)
    with pytest.raises(UserError, match="not a readable pickle"):
        read(tmp_path, b"\x80\x05" + code.encode("latin1") + size + b"abc")


def test_a_far_place_in_the_memory_reserves_none(tmp_path: Path) -> None:
    assert read(tmp_path, b"I7\nr\xff\xff\xff\xff.") == 7


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded(tmp_path: Path) -> None:
    assert read(tmp_path, pickle.dumps(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for data in (
        pickle.dumps(nested(MAX_DEPTH + 1)),
        b"]" * 10_000 + b"a" * 9_999 + b".",
        b")" + b"\x85" * 10**4 + b".",
    ):
        with pytest.raises(UserError, match=f"nested more than {MAX_DEPTH} deep"):
            read(tmp_path, data)


def test_a_deep_tuple_is_no_key(tmp_path: Path) -> None:
    """To hash it would overflow the C stack."""
    for write in (b"}" + b")" + b"\x85" * 10**4 + b"I1\ns.", b"}(" + b")" + b"\x85" * 10**4 + b"I1\nu."):
        with pytest.raises(UserError, match="keys"):
            read(tmp_path, write)


def test_a_list_in_itself_is_refused(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UserError, match="nested"):
        read(tmp_path, pickle.dumps(circle))


def test_what_is_used_often_is_made_once(tmp_path: Path) -> None:
    array = np.arange(4)
    found = read(tmp_path, pickle.dumps([[array]] * 10))
    assert found[0] is found[9] and found[0][0] is found[1][0]


def test_depth_adds_up_where_a_container_is_used_again(tmp_path: Path) -> None:
    """Each of the lists alone is allowed; in one another they are too deep."""
    short = nested(MAX_DEPTH - 2)
    deep = [short]
    for _ in range(3):
        deep.append([deep[-1]])
    with pytest.raises(UserError, match="nested more than"):
        read(tmp_path, pickle.dumps(deep))


def tree(levels: int, end: bytes, begin: bytes = b"") -> bytes:
    """Lists of ten times the list below: a few hundred bytes that stand for 10 ** levels values."""
    start = b"\x80\x02" + begin + b"]q\x000"
    return start + b"".join(
        b"](" + b"h%c" % level * 10 + b"eq%c0" % (level + 1) for level in range(levels)
    ) + b"h%c" % levels + end  # fmt: skip


ENDLESS = {
    "a tree": tree(14, b"."),
    "a dtype that is a tree": tree(14, b"\x85R.", b"cnumpy\ndtype\n"),
    "a shape that is a tree": tree(
        14, b"U\x01CtR.", b"cnumpy.core.numeric\n_frombuffer\n(U\x00cnumpy\ndtype\nU\x02u1\x85R"
    ),
    "an encoding that is a tree": tree(14, b"tR.", b"c_codecs\nencode\n(U\x01x"),
    "a called tree": tree(14, b")R."),
    "bytes made again and again": b"\x80\x02X" + struct.pack("<I", 1 << 18) + b"x" * (1 << 18) + b"q\x00(" +
        b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 3000 + b"l.",
    "one array in many places": pickle.dumps([np.zeros(1 << 18, np.uint8)] * 20_000, 2),
    "an array of no width": pickle.dumps(np.zeros((10**12, 0)), 2),
    "arrays of no width": pickle.dumps([np.zeros((10**7, 0), np.uint8) for _ in range(9)], 2),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ENDLESS))
def test_what_is_built_is_bounded_by_the_file(tmp_path: Path, name: str) -> None:
    """F13: 360 bytes never ended, 500 kB became gigabytes."""
    tracemalloc.start()
    begin = time.monotonic()
    try:
        with pytest.raises(UserError, match="refused: it holds") as caught:
            read(tmp_path, ENDLESS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < 5
    assert peak < 100 << 20
    assert len(caught.value.one_line()) < 1000


def test_a_tree_is_not_written_out() -> None:
    value: Any = []
    for _ in range(30):
        value = [value] * 10
    texts = [
        shown(item) for item in (value, (value,), {1: value}, 1 << 10**6, "x" * 10**6, b"x" * 10**6, None, 7)
    ]
    assert texts == ["a list", "a tuple", "a dict", "a long integer", repr("x" * 60), "a bytes", "None", "7"]


def test_more_globals_can_be_named(tmp_path: Path) -> None:
    data = b"cdetectron2.structures.boxes\nBoxMode\n(I1\ntR."
    with pytest.raises(UserError, match=r"detectron2\.structures\.boxes\.BoxMode"):
        read(tmp_path, data)
    assert read(tmp_path, data, calls={("detectron2.structures.boxes", "BoxMode"): int}) == 1
