"""`weaksam status`: how the artifacts of a run stand; `weaksam inspect`: open any of them, and draw it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.receipt import read_receipt, verify
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, duration, size
from weaksam_cli.core.json_files import holds_list, read_json
from weaksam_cli.core.names import first_few
from weaksam_cli.engine.freshness import Freshness
from weaksam_cli.engine.overview import run_artifacts
from weaksam_cli.errors import UserError

_SHOWN_ROWS = 20
_CONSTANT = {"image_ids", "offsets", "failed_ids", "failed_reasons"}
_MODELS = (".safetensors", ".pth", ".pt", ".pkl")


# ---------------------------------------------------------------- status
def show_status(options: CommonOptions, console: Console) -> None:
    """Print a row for every artifact of the run, in the order of the pipeline."""
    context = build_context(options, None, console)
    root = context.run.root
    if not root.is_dir():
        remedy = "Start one: weaksam all (or `weaksam data SOURCE`)"
        raise UserError("there is no such run", where=str(root), remedy=remedy)
    freshness = Freshness(root)
    rows = [_row(freshness, root, path) for path in run_artifacts(context)]
    console.table(f"{root}", ["artifact", "state", "images", "failed", "time", "why"], rows)


def _row(freshness: Freshness, root: Path, path: Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    try:
        found = freshness.of(path)
    except UserError as error:
        return [name, "damaged", "", "", "", error.what]
    record = found.receipt
    if record is None:
        return [name, found.state.value, "", "", "", ""]
    failed = str(len(record.failed) or "")
    seconds, why = duration(record.wall_seconds), "; ".join(found.reasons)
    return [name, found.state.value, str(record.images), failed, seconds, why]


# ---------------------------------------------------------------- inspect
def inspect_file(
    options: CommonOptions,
    console: Console,
    *,
    file: Path,
    image: list[str] | None,
    first: int | None,
    draw: Path | None,
    images: Path | None,
    score: float | None,
) -> None:
    """Describe an artifact, or the rows of some images in it.

    Args:
        options: as typed; `overwrite` replaces a foreign file at `draw`.
        console: the output sink.
        file: the artifact.
        image: keys; none for the whole.
        first: the first images of the artifact, so many.
        draw: a PNG to write.
        images: folder in which the images are looked for, to be drawn.
        score: least score of detections that are drawn.

    Raises:
        UserError: not an artifact, damaged, or without that image.
    """
    if not file.is_file():
        raise UserError("there is no such file", where=str(file))
    if draw is not None:
        from weaksam_cli.cli.drawing import check_output

        if not image and first is None:
            remedy = "Give --image KEY, or --first N, as well"
            raise UserError("which image is to be drawn?", where="--draw", remedy=remedy)
        check_output(draw, overwrite=options.overwrite)
    keys = list(dict.fromkeys([*(image or ()), *(_first_keys(file)[:first] if first else ())]))
    if file.suffix == ".h5":
        with open_artifact(file) as artifact:
            if not keys:
                _describe_hdf5(artifact, console)
            for key in keys:
                _describe_rows(artifact, key, console)
    elif file.suffix == ".json":
        _describe_boxes(file, keys, console) if keys else _describe_json(file, console)
    elif file.suffix in _MODELS:
        _describe_model(file, console)
    else:
        what = f"expected an .h5 or .json artifact or a model ({', '.join(_MODELS)})"
        raise UserError(what, where=str(file))
    if draw is not None:
        _draw(file, keys, draw, images, score, console)
    elif keys:
        text = f"weaksam inspect {file} --image {keys[0]} --draw {Path(keys[0]).stem}.png"
        console.info(f"see it on the image: {text}")


def _first_keys(file: Path) -> list[str]:
    if file.suffix == ".h5":
        with open_artifact(file) as artifact:
            return artifact.image_ids
    from weaksam_cli.data.artifact_labels import labels_of, no_labels

    labels = labels_of(file) if file.suffix == ".json" else None
    if labels is None:
        raise no_labels(file)
    return list(labels.keys)


def _draw(
    file: Path, keys: list[str], draw: Path, images: Path | None, score: float | None, console: Console
) -> None:
    from weaksam_cli.cli.drawing import draw_artifact

    if not keys:
        raise UserError("there is no image in it", where=str(file))
    strange = draw_artifact(file, keys, draw, images=images, least_score=score)
    if strange:
        what = f"no font of this machine has all letters of {first_few(map(repr, strange))}: boxes stand in their place"
        console.warn(f"{what}. Install one (Debian: fonts-noto-cjk)", names=strange)
    console.result(f"drawn: {draw}", drawn=str(draw))


def _origin(path: Path) -> list[str]:
    """What the receipt says."""
    lines, record = [f"{path} ({size(path.stat().st_size)})"], read_receipt(path)
    if record is None:
        return [*lines, "no receipt: nothing is known about where it comes from"]
    if path.suffix != ".h5":  # an artifact that is opened was compared already
        verify(path, record)
    identity = record.identity
    return [
        *lines,
        f"stage {identity.stage}, dataset {identity.dataset}, split {identity.split}, seed {identity.seed}",
        f"recipe {identity.recipe_name}: {json.dumps(identity.recipe, ensure_ascii=False)}",
        *(f"input {item.path} ({item.sha256[:12]})" for item in identity.inputs.values()),
        f"made by weaksam {record.program_version} at {record.finished_at} in {duration(record.wall_seconds)}: "
        f"{record.images} images, {len(record.failed)} failed",
        *(f"failed: {failure.image}: {failure.reason}" for failure in record.failed),
        *(f"left out: {item.image}: {item.reason}" for item in record.left_out),
    ]


def _describe_hdf5(artifact: Artifact, console: Console) -> None:
    lines = [*_origin(artifact.path), f"format {artifact.format_name}, version {artifact.format_version}"]
    console.result(*lines, path=str(artifact.path), attributes=artifact.attributes)
    rows = [[name, _sides(shape), dtype] for name, shape, dtype in artifact.datasets()]
    console.table("", ["dataset", "shape", "dtype"], rows)
    counts = np.diff(artifact.offsets)
    if len(counts):
        text = f"rows an image: mean {counts.mean():.1f}, least {counts.min()}, most {counts.max()}"
        console.result(text, rows_mean=float(counts.mean()))


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _describe_rows(artifact: Artifact, key: str, console: Console) -> None:
    span, total = artifact.span(key), int(artifact.offsets[-1])
    columns = [
        name
        for name, shape, _ in artifact.datasets()
        if name not in _CONSTANT and shape[0] == total and total and f"{name}_offsets" not in artifact.names
    ]
    values = [artifact.rows(key, name)[:_SHOWN_ROWS] for name in columns]
    rows = [[_cell(value) for value in row] for row in zip(*values, strict=True)]
    _show_rows(artifact.path, key, span.stop - span.start, columns, rows, console)


def _show_rows(
    path: Path, key: str, count: int, header: list[str], rows: list[list[str]], console: Console
) -> None:
    console.result(f"{path}: image {key}: {count} rows", image=key, rows=count)
    console.table("", ["row", *header], [[str(index), *row] for index, row in enumerate(rows)])
    if count > len(rows):
        console.result(f"... and {count - len(rows)} more", more=count - len(rows))


def _cell(value: Any) -> str:
    array = np.asarray(value)
    pattern = "{:.3g}" if np.issubdtype(array.dtype, np.floating) else "{}"
    return " ".join(pattern.format(item) for item in array.reshape(-1))


def _describe_json(path: Path, console: Console) -> None:
    from weaksam_cli.data.detections import read_document

    lines, content = _origin(path), {}
    if not holds_list(path):
        content = read_json(path, TypeAdapter(dict[str, Any]), remedy="Is it an artifact?")
        lines += [
            f"{name}: {len(value) if isinstance(value, list) else json.dumps(value, ensure_ascii=False)}"
            for name, value in content.items()
        ]
        if "annotations" not in content:
            console.result(*lines, path=str(path))
            return
    document = read_document(path)
    if document.is_results:
        lines.append(f"COCO results: {len(document.annotations)} detections")
    names = {item["id"]: item["name"] for item in document.categories or ()}
    boxes: Counter[str] = Counter()
    masks: Counter[str] = Counter()
    for entry in document.entries():
        name = names.get(entry["category_id"], str(entry["category_id"]))
        boxes[name] += 1
        masks[name] += bool(entry.get("segmentation"))
    console.result(*lines, path=str(path))
    counted = [boxes, masks] if masks.total() else [boxes]
    rows = [[name, *(str(count[name]) for count in counted)] for name, _ in boxes.most_common()]
    if rows:
        console.table("", ["class", "boxes", "masks"][: len(counted) + 1], rows)


def _describe_boxes(path: Path, keys: list[str], console: Console) -> None:
    from weaksam_cli.core.boxes import xyxy_to_xywh
    from weaksam_cli.core.masks import areas
    from weaksam_cli.data.artifact_labels import labels_of, no_labels, of_image
    from weaksam_cli.data.detections import read_detections

    labels = labels_of(path)
    if labels is None:
        raise no_labels(path)
    every = read_detections(path, labels, masks=True)
    for key in keys:
        found = of_image(every, key, path)
        if path.absolute() == labels.path.absolute():
            entry = labels.by_key()[key].model_dump()
            console.result(json.dumps(entry, ensure_ascii=False), **{"image": entry})
        rows = [
            [labels.class_names[index], " ".join(f"{value:.1f}" for value in box), f"{score:.4f}"]
            for index, box, score in zip(
                found.class_index, xyxy_to_xywh(found.boxes), found.scores, strict=True
            )
        ]
        header = ["class", "bbox xywh", "score"]
        if found.masks is not None:
            header, size = [*header, "mask pixels"], labels.by_key()[key]
            pixels = areas(found.masks, size.height, size.width)
            rows = [[*row, f"{count:,}"] for row, count in zip(rows, pixels, strict=True)]
        _show_rows(path, key, len(rows), header, rows[:_SHOWN_ROWS], console)


def _describe_model(path: Path, console: Console) -> None:
    from weaksam_cli.models.checkpoints import read_checkpoint

    tensors = read_checkpoint(path, remedy="Give a file of weights").tensors
    console.result(*_origin(path), path=str(path))
    rows = [[name, _sides(tuple(value.shape))] for name, value in tensors.items()]
    console.table("", ["tensor", "shape"], rows)
