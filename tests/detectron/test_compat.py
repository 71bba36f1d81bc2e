"""Each mend of detectron2 0.6 under today's libraries: applied where needed, and only there."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from weaksam_cli.detectron import compat
from weaksam_cli.errors import UserError


@pytest.fixture(scope="module")
def found() -> str:
    return compat.import_detectron2()


def test_says_what_it_found(found: str) -> None:
    assert found.startswith("detectron2 0.")
    assert (Path(found.rpartition(" in ")[2]) / "modeling").is_dir()
    assert ("compiled" if compat._has_extension() else "pure Python") in found


def test_later_calls_are_the_same(found: str) -> None:
    assert compat.import_detectron2() is found


def test_what_detectron2_asks_for_can_be_imported(found: str) -> None:
    for name in (
        "engine",
        "modeling",
        "data.transforms",
        "data.build",
        "evaluation",
        "checkpoint",
    ):
        importlib.import_module(f"detectron2.{name}")


# 1. the compiled extension


def test_extension_stub_is_clear_about_what_is_missing(found: str) -> None:
    if compat._has_extension():
        pytest.skip("detectron2 is compiled here")
    from detectron2 import _C

    with pytest.raises(UserError, match="COCOevalAccumulate needs it"):
        _C.COCOevalAccumulate  # noqa: B018


def test_extension_stub_answers_the_environment_report() -> None:
    stub = compat._ExtensionStub("detectron2._C")
    assert "pure Python" in stub.get_compiler_version()
    assert "pure Python" in stub.get_cuda_version()
    assert stub.has_cuda() is False


def test_extension_stub_can_be_probed_and_copied() -> None:
    stub = compat._ExtensionStub("detectron2._C")
    assert not hasattr(stub, "__path__")
    assert copy.copy(stub.__name__) == "detectron2._C"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_extension_is_left_alone(
    found: str, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.delitem(sys.modules, "detectron2._C", raising=False)
    monkeypatch.setattr(compat, "_has_extension", lambda: compiled)
    assert ("compiled" in compat.import_detectron2.__wrapped__()) is compiled
    assert isinstance(sys.modules.get("detectron2._C"), compat._ExtensionStub) is not compiled


# 2. the model zoo, without pkg_resources


def test_the_model_zoo_has_its_files(found: str) -> None:
    assert compat.base_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml").is_file()


# 3. Pillow


def test_pillow_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.delattr(Image, "LINEAR", raising=False)
    compat.restore_pillow_constant()
    assert Image.LINEAR == Image.Resampling.BILINEAR  # type: ignore[attr-defined]


# 4. numpy


def test_numpy_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    for name in ("int", "float", "str"):
        monkeypatch.delattr(np, name, raising=False)
    before = np.bool
    compat.restore_numpy_aliases()
    assert (np.int, np.float, np.str) == (int, float, str)  # type: ignore[attr-defined]
    assert np.bool is before


def test_category_ids_are_checked_again(found: str) -> None:
    from detectron2.data.build import print_instances_class_histogram

    wrong = [{"annotations": [{"category_id": 7, "iscrowd": 0}]}]
    with pytest.raises(AssertionError, match="category_id"):
        print_instances_class_histogram(wrong, ["cat"])


# absence


def test_missing_detectron2_names_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(UserError, match=r"pb1-detectron2==0\.6") as caught:
        compat.import_detectron2.__wrapped__()
    assert "--no-build-isolation" in caught.value.one_line()


def test_missing_dependency_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'fvcore'", name="fvcore")

    monkeypatch.setattr(compat, "keep_a_pixel", fail)
    with pytest.raises(UserError, match="the library fvcore"):
        compat.import_detectron2.__wrapped__()


# logging


def test_nothing_reaches_the_terminal(found: str, capfd: pytest.CaptureFixture[str]) -> None:
    compat.quiet_loggers()
    logging.getLogger("detectron2.engine").warning("a warning")
    logging.getLogger("fvcore.common.checkpoint").error("an error")
    assert capfd.readouterr() == ("", "")


def test_a_real_extension_is_known(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    extension: Any = ModuleType("detectron2._C")
    monkeypatch.setitem(sys.modules, "detectron2._C", extension)
    assert compat._has_extension()


# resizing


def test_very_long_images_keep_a_pixel(found: str) -> None:
    from detectron2.data.transforms import ResizeShortestEdge

    assert ResizeShortestEdge.get_output_shape(3, 4000, 256, 640) == (1, 640)
    assert ResizeShortestEdge.get_output_shape(480, 640, 240, 640) == (240, 320)
