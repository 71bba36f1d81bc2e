"""Mutations of what holds numbers: HDF5, pickles, checkpoints, images."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.fuzz.judge import ESCAPED
from tests.fuzz.trees import TEXTS, any_value, edited, json_text

_DTYPES: Sequence[Any] = (
    "float64", "float32", "float16", ">f4", "int64", "uint64", "int8", "bool", "complex64", "S5", h5py.string_dtype(),
    h5py.vlen_dtype(np.int32), h5py.ref_dtype, h5py.enum_dtype({"a": 1}), [("x", "f4"), ("y", "i4")], ("f4", (2,)),
    "V7",
)  # fmt: skip
_VALUES = (0, -1, 1, 2, 7, 255, 2**31 - 1, -(2**31), 2**62, 1e30, -1e30, np.nan, np.inf, -np.inf, 0.5, 1e-40)


def hdf5(rng: Random, data: bytes) -> bytes:
    """An HDF5 file: attributes, shapes, types, values, links, storage elsewhere."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            try:
                rng.choice(_HDF5_EDITS)(rng, file)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError):
                file.attrs["odd"] = 1  # what HDF5 itself does not write
    return buffer.getvalue()


def _a_dataset(rng: Random, file: h5py.File) -> tuple[str, h5py.Dataset]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    name = rng.choice(names)
    return name, file[name]


def _set_values(rng: Random, file: h5py.File) -> None:
    name, item = _a_dataset(rng, file)
    values = item[()]
    if values.dtype.kind == "O":
        _as(
            file,
            name,
            np.asarray([rng.choice(TEXTS) for _ in values.reshape(-1)], object),
            h5py.string_dtype(),
        )
        return
    flat = values.reshape(-1)
    places = rng.sample(range(len(flat)), min(len(flat), rng.choice((1, 1, 3, len(flat)))))
    with np.errstate(all="ignore"):
        for place in places:
            flat[place] = np.float64(rng.choice(_VALUES)).astype(values.dtype)
    item[...] = values


def _as(file: h5py.File, name: str, values: Any, dtype: Any = None, **more: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    made = file.create_dataset(name, data=values, dtype=dtype, **more)
    made.attrs.update(attributes)


def _set_type(rng: Random, file: h5py.File) -> None:
    name, item = _a_dataset(rng, file)
    dtype = rng.choice(_DTYPES)
    values = np.zeros(item.shape, np.float32) if item.dtype.kind == "O" else item[()]
    try:
        _as(file, name, values.astype(dtype), dtype)
    except (TypeError, ValueError):
        del file[name]
        file.create_dataset(name, item.shape, dtype)


def _set_shape(rng: Random, file: h5py.File) -> None:
    name, item = _a_dataset(rng, file)
    shape, dtype = list(item.shape), item.dtype
    action = rng.randrange(8)
    if action == 0:
        _as(file, name, h5py.Empty(dtype))
    elif action == 1:
        _as(file, name, item[()].reshape(-1)[0], dtype)
    elif action == 2:
        _as(file, name, item[()][None], dtype)
    elif action == 3:
        _as(file, name, item[: max(0, shape[0] - 1)], dtype)
    elif action == 4:
        _as(file, name, np.concatenate([item[()], item[:1]]), dtype)
    elif action == 5:
        _as(file, name, item[:0], dtype)
    else:
        del file[name]
        huge = [rng.choice((10**6, 10**9, 2**40)), *shape[1:]]
        file.create_dataset(name, huge, dtype, chunks=True, compression="gzip", fillvalue=None)


def _set_link(rng: Random, file: h5py.File) -> None:
    name, item = _a_dataset(rng, file)
    action = rng.randrange(7)
    count = max(1, item.shape[0] if item.shape else 1)
    del file[name]
    if action == 0:
        file[name] = h5py.SoftLink(rng.choice((f"/{name}", "/", "/offsets", "/none")))
    elif action == 1:
        file[name] = h5py.ExternalLink(rng.choice(("x.h5", "/dev/zero", str(ESCAPED))), "/offsets")
    elif action == 2:
        file.create_dataset(
            name,
            (count,),
            "i8",
            external=[(rng.choice(("/etc/passwd", "/dev/zero", str(ESCAPED))), 0, 8 * count)],
        )
    elif action == 3:
        file[name] = file["/"]
    elif action == 4:
        layout = h5py.VirtualLayout((count,), "i8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "offsets", (count,))
        file.create_virtual_dataset(name, layout)
    elif action == 5:
        file.create_group(name)


def _set_attribute(rng: Random, file: h5py.File) -> None:
    holder = rng.choice((file, file, _a_dataset(rng, file)[1]))
    names = [*holder.attrs] or ["x"]
    name = rng.choice(names)
    action = rng.randrange(8)
    old = holder.attrs.get(name)
    if action == 0:
        del holder.attrs[name]
    elif action < 4 and isinstance(old, str) and old[:1] in ("{", "["):
        holder.attrs[name] = (
            json_text(rng, old.encode()).decode("utf-8", "replace").replace("\x00", "")[:60_000]
        )
    elif action < 6:
        holder.attrs[name] = rng.choice(
            (
                *TEXTS[:20],
                0,
                -1,
                2**63 - 1,
                np.nan,
                True,
                [1, 2],
                [[1.0]],
                h5py.Empty("f4"),
                np.bytes_(b"\xff\xfe"),
            )
        )
    elif action == 6:
        holder.attrs[
            rng.choice(("format", "format_version", "complete", "x", "kind_names", "class_names"))
        ] = rng.choice((1, "1", 99, b"\xff"))
    else:
        holder.attrs.create(name, np.arange(3), dtype=rng.choice(("i8", ">f4")))


def _drop(rng: Random, file: h5py.File) -> None:
    name, _ = _a_dataset(rng, file)
    if rng.random() < 0.5:
        file.move(name, rng.choice((f"{name}2", "other", "a/b")))
    else:
        del file[name]


_HDF5_EDITS = (
    _set_values,
    _set_values,
    _set_values,
    _set_type,
    _set_shape,
    _set_shape,
    _set_link,
    _set_attribute,
    _drop,
)


# ---------------------------------------------------------------- pickles and checkpoints
class _Call:
    """Unpickled by the standard library, it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _touch() -> _Call:
    import os

    return _Call(os.system, f"touch {ESCAPED}")


def _dag(depth: int) -> Any:
    """A few bytes that become 2 ** depth nodes for whoever walks through them."""
    node: Any = [0]
    for _ in range(depth):
        node = [node, node]
    return node


def _odd_object(rng: Random) -> Any:
    kind = rng.randrange(14)
    if kind < 5:
        return any_value(rng)
    if kind == 5:
        return _touch()
    if kind == 6:
        return _dag(rng.choice((3, 60)))
    if kind == 7:
        return _Call(bytearray, rng.choice((10, 10**10)))
    if kind == 8:
        return rng.choice(
            (
                b"x",
                1j,
                (1, 2),
                frozenset({1}),
                range(5),
                slice(1),
                Ellipsis,
                np.float32(1),
                np.int64(-1),
                np.bool_(True),
            )
        )
    dtype = rng.choice(
        ("f2", "f4", "f8", ">f4", "i1", "u8", "c8", "O", "U3", "M8[s]", "?", "V4", [("a", "f4")])
    )
    shape = rng.choice(((), (0,), (4,), (5, 4), (0, 4), (5, 5), (4, 5), (2, 3, 4), (1,) * 20, (5, 3)))
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "f" and array.size:
        array[...] = rng.choice((np.nan, np.inf, -1, 6e4, 0, 7))
    return np.asfortranarray(array) if rng.random() < 0.2 else array


def pickled(rng: Random, data: bytes) -> bytes:
    """A pickle of lists, dictionaries and arrays: an object replaced by another one, or its opcodes."""
    if rng.random() < 0.1:
        return rng.choice((
            b"cos\nsystem\n(S'touch %b'\ntR." % str(ESCAPED).encode(), b"(" * 100_000 + b".",
            b"]" * 100_000 + b"a" * 99_999 + b".",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b".",
            b"\x80\xff.", b"I" + b"9" * 100_000 + b"\n.",
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R.",
            b"\x80\x02ccopyreg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        ))  # fmt: skip
    tree = edited(rng, pickle.loads(data), _odd_object)
    return pickle.dumps(tree, protocol=rng.randrange(2, 6))


def checkpoint(rng: Random, data: bytes) -> bytes:
    """A file of `torch.save`: another tree, the old format, or other records in the archive."""
    import torch

    if rng.random() < 0.4:
        return archive(rng, data)
    tree = torch.load(io.BytesIO(data), weights_only=True)

    def odd(chooser: Random) -> Any:
        if chooser.random() < 0.5:
            return _odd_object(chooser)
        dtype = chooser.choice(
            (torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool, torch.uint8)
        )
        tensor = torch.zeros(chooser.choice(((), (0,), (3, 3), (2, 0, 4), (1,) * 12)), dtype=dtype)
        return chooser.choice(
            (
                tensor,
                tensor.to_sparse(),
                torch.empty(10**15, device="meta"),
                torch.nn.Parameter(torch.zeros(2)),
                torch.nn.Linear(1, 1),
            )
        )

    buffer = io.BytesIO()
    torch.save(edited(rng, dict(tree), odd), buffer, _use_new_zipfile_serialization=rng.random() < 0.6)
    return buffer.getvalue()


def archive(rng: Random, data: bytes) -> bytes:
    """A zip archive with a record dropped, doubled, renamed, emptied, compressed or changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        records = [(item.filename, old.read(item)) for item in old.infolist()]
    at = rng.randrange(len(records))
    name, content = records[at]
    action = rng.randrange(7)
    if action == 0:
        del records[at]
    elif action == 1:
        records.append((name, content[: len(content) // 2]))
    elif action == 2:
        records[at] = (rng.choice(("../x", str(ESCAPED), "data.pkl", "a/data.pkl", "x" * 300)), content)
    elif action == 3:
        records[at] = (name, rng.choice((b"", content * 3, content[:-1], bytes(10**7), b"\x80\x02]q\x00.")))
    elif action == 4 and content:
        place = rng.randrange(len(content))
        records[at] = (
            name,
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as new:
        for record in records:
            new.writestr(*record)
    return buffer.getvalue()


def safetensors(rng: Random, data: bytes) -> bytes:
    """A safetensors file whose header, or its length, says something else."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json_text(rng, data[8 : 8 + length])
    said = rng.choice((len(header),) * 6 + (0, 2**63, len(header) - 1, len(data) * 2))
    return struct.pack("<Q", said) + header + data[8 + length :]


# ---------------------------------------------------------------- images
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "TGA", "ICO", "JPEG2000", "PCX", "SGI")


def image(rng: Random, data: bytes) -> bytes:
    """An image of any mode, size and format, or a PNG that says a size that it has not."""
    if rng.random() < 0.25:
        return _png(rng)
    mode, form = rng.choice(_MODES), rng.choice(_FORMATS)
    size = rng.choice(((1, 1), (1, 3000), (3000, 1), (2, 2), (64, 48), (37, 53), (16384, 1)))
    made = Image.effect_noise(size, 90) if size[0] < 100 else Image.new("L", size, 7)
    buffer = io.BytesIO()
    try:
        made.convert(mode).save(buffer, form, **_extras(rng, form))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SyntaxError, struct.error):
        return data
    return buffer.getvalue()


def _extras(rng: Random, form: str) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if rng.random() < 0.3:
        extras["exif"] = rng.choice(
            (b"Exif\x00\x00" + rng.randbytes(40), b"", _orientation(rng.choice((0, 3, 6, 8, 9, 70_000))))
        )
    if rng.random() < 0.2:
        extras["icc_profile"] = rng.randbytes(rng.choice((3, 200)))
    if form in ("GIF", "TIFF", "PNG", "WEBP") and rng.random() < 0.3:
        extras |= {"save_all": True, "append_images": [Image.new("L", (5, 5))] * 3}
    if form == "TIFF":
        extras["compression"] = rng.choice((None, "tiff_lzw", "jpeg", "group4", "packbits"))
    return extras


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _png(rng: Random) -> bytes:
    width, height = (rng.choice((0, 1, 5, 64, 9000, 30_000, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    depth, colour = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 9))
    rows = rng.choice((b"", b"\x00" * 20_000, rng.randbytes(3000)))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.randrange(3)))]
    if rng.random() < 0.4:
        text = b"Comment\x00\x00" + zlib.compress(bytes(rng.choice((10, 50_000_000))))
        chunks.append(
            rng.choice(
                (
                    (b"PLTE", b"\x01\x02\x03" * rng.choice((1, 256, 300))),
                    (b"zTXt", text),
                    (b"tRNS", b"\x00"),
                    (b"eXIf", rng.randbytes(30)),
                )
            )
        )
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")][: rng.choice((1, 2, 2, 2))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
