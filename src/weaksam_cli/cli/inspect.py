"""`weaksam inspect`: open any artifact, say what is in it, and draw it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.receipt import Receipt, read_receipt, verify
from weaksam_cli.console import Console, duration, size
from weaksam_cli.errors import UserError

_SHOWN_ROWS = 20
_CONSTANT = {"image_ids", "offsets", "failed_ids", "failed_reasons"}


def inspect_file(
    path: Path, image: str | None, draw: Path | None, console: Console, images: Path | None = None
) -> None:
    """Describe an artifact, or the rows of one image in it; `images` is where `draw` looks for its images.

    Raises:
        UserError: not an artifact, damaged, or without that image.
    """
    if draw is not None and image is None:
        raise UserError("which image is to be drawn?", where="--draw", remedy="Give --image ID as well")
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    record = read_receipt(path)
    if record is not None and path.suffix != ".h5":  # an artifact that is opened is compared anyway
        verify(path, record)
    if path.suffix == ".h5":
        with open_artifact(path) as artifact:
            _describe_hdf5(artifact, record, image, console)
    elif path.suffix == ".json":
        _describe_json(path, record, image, console)
    elif path.suffix in (".safetensors", ".pth"):
        _describe_model(path, record, console)
    else:
        raise UserError("expected an .h5, .json, .safetensors or .pth artifact", where=str(path))
    if draw is not None and image is not None:
        from weaksam_cli.cli.drawing import draw_artifact

        draw_artifact(path, image, draw, images=images)
        console.result(f"drawn: {draw}", drawn=str(draw))
    elif image is not None and path.suffix == ".h5":
        console.info(f"see it on the image: weaksam inspect {path} --image {image} --draw {image}.png")


def _receipt_lines(path: Path, record: Receipt | None) -> list[str]:
    lines = [f"{path} ({size(path.stat().st_size)})"]
    if record is None:
        return [*lines, "no receipt: nothing is known about where it comes from"]
    identity = record.identity
    lines.append(
        f"stage {identity.stage}, dataset {identity.dataset}, split {identity.split}, seed {identity.seed}"
    )
    lines.append(f"recipe {identity.recipe_name}: {json.dumps(identity.recipe, ensure_ascii=False)}")
    lines += [f"input {item.path} ({item.sha256[:12]})" for item in identity.inputs.values()]
    lines.append(
        f"made by weaksam {record.program_version} at {record.finished_at} in {duration(record.wall_seconds)}: "
        f"{record.images} images, {len(record.failed)} failed"
    )
    return lines + [f"failed: {failure.image}: {failure.reason}" for failure in record.failed]


def _describe_hdf5(artifact: Artifact, record: Receipt | None, image: str | None, console: Console) -> None:
    if image is not None:
        _describe_rows(artifact, image, console)
        return
    lines = _receipt_lines(artifact.path, record)
    lines.append(f"format {artifact.format_name}, version {artifact.format_version}")
    console.result("\n".join(lines), path=str(artifact.path), attributes=artifact.attributes)
    rows = [[name, "x".join(map(str, shape)), dtype] for name, shape, dtype in artifact.datasets()]
    console.table("", ["dataset", "shape", "dtype"], rows)
    counts = np.diff(artifact.offsets)
    if len(counts):
        console.result(
            f"rows an image: mean {counts.mean():.1f}, least {counts.min()}, most {counts.max()}",
            rows_mean=float(counts.mean()),
        )


def _describe_rows(artifact: Artifact, image: str, console: Console) -> None:
    span = artifact.span(image)
    count = span.stop - span.start
    total = int(artifact.offsets[-1])
    columns = [
        (name, shape)
        for name, shape, _ in artifact.datasets()
        if name not in _CONSTANT and shape[0] == total and total and f"{name}_offsets" not in artifact.names
    ]
    console.result(f"{artifact.path}: image {image}: {count} rows", image=image, rows=count)
    values = {name: artifact.rows(image, name) for name, _ in columns}
    rows = [
        [str(index), *(_cell(values[name][index]) for name, _ in columns)]
        for index in range(min(count, _SHOWN_ROWS))
    ]
    console.table("", ["row", *(name for name, _ in columns)], rows)
    if count > _SHOWN_ROWS:
        console.result(f"... and {count - _SHOWN_ROWS} more", more=count - _SHOWN_ROWS)


def _cell(value: Any) -> str:
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.floating):
        return " ".join(f"{item:.3g}" for item in array.reshape(-1))
    return " ".join(str(item) for item in array.reshape(-1))


def _describe_json(path: Path, record: Receipt | None, image: str | None, console: Console) -> None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=str(path)) from error
    if image is not None:
        _describe_json_image(path, content, image, console)
        return
    lines = _receipt_lines(path, record)
    if isinstance(content, dict):
        lines += [
            f"{name}: {len(value) if isinstance(value, list) else json.dumps(value, ensure_ascii=False)}"
            for name, value in content.items()
        ]
        names = {item["id"]: item["name"] for item in content.get("categories", [])}
        items = content.get("annotations", [])
    else:
        names, items = {}, content
        lines.append(f"COCO results: {len(items)} detections")
    console.result("\n".join(lines), path=str(path))
    counted = Counter(str(names.get(item["category_id"], item["category_id"])) for item in items)
    if counted:
        console.table("", ["class", "boxes"], [[name, str(count)] for name, count in counted.most_common()])


def _describe_json_image(path: Path, content: Any, image: str, console: Console) -> None:
    if isinstance(content, dict):
        entry = next(
            (item for item in content.get("images", []) if image in (item.get("key"), str(item["id"]))), None
        )
        if entry is None:
            raise UserError(f"there is no image {image!r}", where=str(path))
        console.result(json.dumps(entry, ensure_ascii=False), **{"image": entry})
        identifier, items = entry["id"], content.get("annotations", [])
    else:
        identifier, items = image, content
    found = [item for item in items if str(item["image_id"]) == str(identifier)]
    rows = [
        [str(item["category_id"]), " ".join(f"{v:.1f}" for v in item["bbox"]), f"{item.get('score', 1):.4f}"]
        for item in found[:_SHOWN_ROWS]
    ]
    console.table(f"{len(found)} boxes", ["category_id", "bbox xywh", "score"], rows)


def _describe_model(path: Path, record: Receipt | None, console: Console) -> None:
    shapes = _safetensors_shapes(path) if path.suffix == ".safetensors" else _checkpoint_shapes(path)
    console.result("\n".join(_receipt_lines(path, record)), path=str(path))
    console.table(
        "", ["tensor", "shape"], [[name, "x".join(map(str, shape))] for name, shape in shapes.items()]
    )


def _safetensors_shapes(path: Path) -> dict[str, Sequence[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as handle:
            return {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"not a safetensors file ({error})", where=str(path)) from error


def _checkpoint_shapes(path: Path) -> dict[str, Sequence[int]]:
    """Of a network of `weaksam cam --fit`, or of a published one; nothing in the file is executed."""
    from weaksam_cli.models.vit.checkpoint import read_checkpoint

    return {name: tuple(value.shape) for name, value in read_checkpoint(path).tensors.items()}
