"""Pseudo masks: which mask, which box, what is dropped, and the command on boxes of its own and of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tiny import run_here, write_voc
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.masks import decode, encode
from weaksam_cli.core.types import Detections, PromptedMasks
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.pgt.masks import MaskSettings, chosen_masks, prompt, with_masks
from weaksam_cli.propose.prompting import Segmenter

HEIGHT, WIDTH = 20, 30


def filled(*box: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def instances(boxes: Sequence[tuple[int, ...]], masks: Sequence[NDArray[np.bool_]]) -> Detections:
    n = len(boxes)
    drawn = tuple(encode(np.stack(masks))) if masks else ()
    scores = np.linspace(1, 0.5, n, dtype=np.float32)
    return Detections(as_boxes(boxes), np.arange(n, dtype=np.int32), scores, drawn)


@dataclass
class _Boxes:
    """Answers a box with a part that lacks its border, the box itself, and the whole image."""

    images: int = 0

    def set_image(self, image: NDArray[np.uint8]) -> None:
        self.images += 1

    def prompt_boxes(
        self, boxes: FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        assert masks
        three = [
            [filled(x0 + 1, y0 + 1, x1 - 1, y1 - 1), filled(x0, y0, x1, y1), filled(0, 0, WIDTH, HEIGHT)]
            for x0, y0, x1, y1 in boxes.astype(int).tolist()
        ]
        dense = np.asarray(three, bool).reshape(len(boxes), 3, HEIGHT, WIDTH)
        dense = dense if multimask else dense[:, 1:2]
        quality = np.tile(np.asarray([0.5, 0.4, 0.3], np.float32), (len(boxes), 1))[:, : dense.shape[1]]
        return PromptedMasks(
            np.zeros((*dense.shape[:2], 4), np.float32),
            dense.sum(axis=(2, 3)),
            quality,
            quality,
            [encode(item) for item in dense],
        )


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize(("choice", "border"), [("single", 0), ("best", 1)])
def test_one_encoding_and_one_mask_a_box(n: int, choice: Any, border: int) -> None:
    boxes = [(k, k, k + 9, k + 7) for k in range(n)]
    segmenter = _Boxes()
    given = Detections(as_boxes(boxes), np.arange(n, dtype=np.int32), np.ones(n, np.float32))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found = prompt(cast(Segmenter, segmenter), image, given, choice)
    assert segmenter.images == 1
    dense = decode(found.masks or (), HEIGHT, WIDTH)
    expected = [filled(x0 + border, y0 + border, x1 - border, y1 - border) for x0, y0, x1, y1 in boxes]
    np.testing.assert_array_equal(dense, np.asarray(expected, bool).reshape(n, HEIGHT, WIDTH))


def test_a_mask_that_was_not_made_is_empty() -> None:
    answer = PromptedMasks(
        np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32),
        np.full((1, 1), np.nan, np.float32), [[b""]],
    )  # fmt: skip
    assert not decode(chosen_masks(answer, HEIGHT, WIDTH), HEIGHT, WIDTH).any()


def test_what_is_no_mask_is_dropped_and_named() -> None:
    boxes = [(0, 0, 10, 10), (2, 2, 8, 8), (5, 5, 9, 9), (1, 1, 4, 4)]
    masks = [filled(1, 1, 9, 8), filled(0, 0, 0, 0), filled(5, 5, 6, 9), filled(1, 1, 4, 4)]
    found, reasons = with_masks(instances(boxes, masks), HEIGHT, WIDTH, MaskSettings())
    assert found.boxes.tolist() == [[1, 1, 9, 8], [1, 1, 4, 4]]
    assert found.class_index.tolist() == [0, 3]
    assert reasons == [(1, "it is empty"), (2, "it is 1 pixels wide")]
    kept, reasons = with_masks(instances(boxes, masks), HEIGHT, WIDTH, MaskSettings(box="pgt", min_side=4))
    assert kept.boxes.tolist() == [[0, 0, 10, 10]] and len(reasons) == 3
    nothing, reasons = with_masks(instances([], []), HEIGHT, WIDTH, MaskSettings())
    assert len(nothing) == 0 and reasons == []


@pytest.mark.parametrize(
    ("text", "enabled"), [("masks=true", True), ("masks=false", False), ("masks.enabled=true", True)]
)
@pytest.mark.parametrize("name", ["adaptive", "top1"])
def test_a_switch_in_the_recipe(name: str, text: str, enabled: bool) -> None:
    assert cast(Any, load_recipe("pgt", name, [text]).recipe).masks.enabled is enabled


def test_the_recipe_with_masks_differs_by_them_alone() -> None:
    plain, masks = (load_recipe("pgt", name).resolved() for name in ("adaptive", "adaptive-masks"))
    assert masks.pop("masks") == {**plain.pop("masks"), "enabled": True}
    assert masks == plain


@pytest.fixture(scope="module")
def detected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with labels, and detections of a run that is not there."""
    folder = tmp_path_factory.mktemp("detected")
    write_voc(folder / "voc", trainval=3, test=1, size=(120, 160))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_here("data", "voc", "--dataset", "tiny").exit_code == 0
    labels = json.loads((folder / "runs/tiny/labels/trainval.json").read_text())
    ids = {item["name"]: item["id"] for item in labels["categories"]}
    found = [
        {"image_id": item["id"], "category_id": ids[name], "bbox": [6 + k, 5 + k, 80, 60], "score": 0.9}
        for k, item in enumerate(labels["images"][:2])
        for name in item["labels"]
    ]
    (folder / "found.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def working(detected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(detected, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")
    return tmp_path / "here"


COMMAND = ("pgt", "--dataset", "tiny", "--profile", "embedded", "--workers", "1")


@pytest.mark.parametrize("given", ["wsod", "boxes"])
def test_the_command_on_detections_and_on_boxes(working: Path, given: str) -> None:
    from pycocotools.coco import COCO

    asked = (*COMMAND, "--masks", "--input", f"{given}=found.json")
    result = run_here(*asked)
    assert result.exit_code == 0, result.output
    assert "segmenter region-tree, which needs no weights" in result.output
    assert (
        "segmenter region-tree-masks: its masks of boxes are better than those of region-tree"
        in result.output
    )
    assert "2 pseudo masks in 2 images, 0 dropped" in result.output
    assert (working / "runs/tiny/pgt/boxes").exists() == (given == "wsod")
    coco = COCO(str(working / "runs/tiny/pgt/trainval.json"))
    for item in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(item)
        image = coco.loadImgs(item["image_id"])[0]
        assert mask.shape == (image["height"], image["width"])
        rows, columns = np.nonzero(mask)
        x, y, w, h = item["bbox"]
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x, y, x + w, y + h]
        assert item["area"] == mask.sum() and item["iscrowd"] == 0
        assert item["score"] == pytest.approx(0.9)
        assert mask.sum() > 0.8 * 80 * 60, "a bright rectangle on noise is found"
    again = run_here(*asked)
    assert again.output.count("fresh, nothing to do") == (3 if given == "wsod" else 2)


def test_detectron2_loads_pseudo_instance_labels_as_they_are(working: Path) -> None:
    from weaksam_cli.detectron.compat import import_detectron2

    import_detectron2()
    from detectron2.data.datasets import load_coco_json

    assert run_here(*COMMAND, "--masks", "--input", "wsod=found.json").exit_code == 0
    path = working / "runs/tiny/pgt/trainval.json"
    loaded = load_coco_json(str(path), str(working))
    written = json.loads(path.read_text())["annotations"]
    found = [item for entry in loaded for item in entry["annotations"]]
    assert [item["bbox"] for item in found] == [item["bbox"] for item in written]
    for item, own in zip(found, written, strict=True):
        counts = item["segmentation"]["counts"]
        assert (counts if isinstance(counts, str) else counts.decode()) == own["segmentation"]["counts"]


def test_masks_in_place_of_boxes_are_another_recipe(working: Path) -> None:
    asked = (*COMMAND, "--input", "wsod=found.json")
    assert run_here(*asked).exit_code == 0
    assert "segmentation" not in (working / "runs/tiny/pgt/trainval.json").read_text()
    result = run_here(*asked, "--masks")
    assert result.exit_code == 2 and "was made with another recipe" in result.output
    assert run_here(*asked, "--masks", "--overwrite").exit_code == 0
    assert "segmentation" in (working / "runs/tiny/pgt/trainval.json").read_text()


def test_what_has_no_mask_is_counted_and_strict_minds(working: Path) -> None:
    asked = (*COMMAND, "--masks", "--input", "wsod=found.json", "--set", "masks.min_side=100")
    result = run_here(*asked)
    assert result.exit_code == 0, result.output
    assert "0 pseudo masks in 0 images, 2 dropped" in result.output
    assert "pgt/trainval.json: 2 objects of 2 images are left out" in result.output
    assert "no pseudo mask of the " in result.output
    assert run_here(*asked, "--strict").exit_code == 3


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "masks.segmenter=selective-search"], "answers no prompts, so it makes no masks"),
        (["--set", "masks.segmenter=sam"], "propose has no recipe 'sam'"),
        (["--set", "masks.segmenter=sam-vit-h"], "sam_vit_h_4b8939.pth"),
        (["--set", "masks.choice=all"], "--set masks.choice=all"),
        (["--set", "masks.min_side=0"], "masks.min_side"),
        (["--input", "boxes=nowhere.json"], "there is no such file"),
        (["--input", "boxes=voc/ImageSets/Main/test.txt"], "test.txt"),
    ],
)
def test_what_cannot_be_is_told(working: Path, more: list[str], expected: str) -> None:
    wsod = [] if more[0] == "--input" else ["--input", "wsod=found.json"]
    result = run_here(*COMMAND, "--masks", *wsod, *more)
    assert result.exit_code == 2 and expected in result.output, result.output


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([*COMMAND], "the boxes are prompts for masks"),
        (["wsod", *COMMAND[1:]], "boxes prompt the masks of `pgt` alone"),
    ],
)
def test_boxes_without_masks(working: Path, command: list[str], expected: str) -> None:
    result = run_here(*command, "--input", "boxes=found.json", "--split", "trainval")
    assert result.exit_code == 2 and expected in result.output
