"""Everything detectron2 0.6 does not know of today's libraries, mended before it is imported.

Call `import_detectron2()` before any `import detectron2...`. Nothing in site-packages is edited and a fix is applied
only where the installed versions need it, so a compiled detectron2 of a user is used as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from weaksam_cli.errors import UserError

INSTALL_COMMANDS = (
    "pip install fvcore==0.1.5.post20221221 iopath==0.1.9 omegaconf==2.3.1 hydra-core==1.3.8 pycocotools yacs==0.1.8 "
    "matplotlib termcolor tabulate cloudpickle tqdm tensorboard shapely && "
    "printf '[options]\\ninclude_package_data = True\\n' > detectron2-sdist.cfg && "
    "DIST_EXTRA_CONFIG=$PWD/detectron2-sdist.cfg pip install --no-deps --no-build-isolation --use-pep517 "
    "--no-cache-dir --config-settings=--global-option=build_py --config-settings=--build-option=--skip-build "
    "pb1-detectron2==0.6  (pip 23.2.1 to 26.2.1; or run `make setup` in a checkout)"
)

_REMOVED_NUMPY_ALIASES = {"int": int, "float": float, "str": str, "bool": bool}
_LIBRARY_LOGGERS = ("detectron2", "fvcore", "iopath")


class _ExtensionStub(ModuleType):
    """Stands where `detectron2._C` would be: importable, and clear about what is missing when it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspect, pickle and copy probe for dunder names and expect this error
            raise AttributeError(name)
        raise UserError(
            f"detectron2's compiled extension is not installed, and {name} needs it",
            where="detectron2._C",
            remedy="build detectron2 from https://github.com/facebookresearch/detectron2 "
            "for rotated boxes, deformable convolution and its fast COCO evaluation",
        )

    # What detectron2's environment report asks for.
    get_compiler_version = get_cuda_version = staticmethod(lambda: "none (pure Python)")
    has_cuda = staticmethod(lambda: False)


@cache
def import_detectron2() -> str:
    """Apply the fixes that this environment needs and import detectron2 (once; later calls are free).

    Returns:
        What was found, a line for `doctor`: version, whether it is compiled, folder.

    Raises:
        UserError: detectron2, or a library that it imports, is not installed; the remedy holds the exact commands.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise UserError(
            "detectron2 is not installed, and training needs it", where="detectron2", remedy=INSTALL_COMMANDS
        )
    quiet_loggers()
    # Once in every process: detectron2's anchors, and its masks, which it reads alone.
    for message in (r"torch\.meshgrid", "The given NumPy array is not writable"):
        warnings.filterwarnings("ignore", message=message)
    try:
        compiled = _has_extension()
        if not compiled:
            sys.modules.setdefault("detectron2._C", _ExtensionStub("detectron2._C"))
        restore_pillow_constant()
        restore_numpy_aliases()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates what detectron2 does while it is imported
            package = importlib.import_module("detectron2")
            importlib.import_module("detectron2.modeling")  # it imports all the libraries that may be missing
            keep_a_pixel()
    except ModuleNotFoundError as error:
        raise UserError(
            f"detectron2 needs the library {error.name}, which is not installed",
            where="detectron2",
            remedy=INSTALL_COMMANDS,
        ) from error
    kind = "compiled" if compiled else "pure Python (torchvision operators)"
    return f"detectron2 {package.__version__}, {kind}, in {Path(str(package.__file__)).parent}"


def import_tracing() -> Any:
    """What makes detectron2's models traceable; the package around it asks for caffe2, which torch no longer has."""
    import_detectron2()
    name = "detectron2.export"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(Path(str(sys.modules["detectron2"].__file__)).parent / "export")]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.torchscript_patch")


def quiet_loggers() -> None:
    """Send the records of detectron2 and its libraries nowhere: never to the terminal."""
    for name in _LIBRARY_LOGGERS:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(logging.NullHandler())


def _has_extension() -> bool:
    module = sys.modules.get("detectron2._C")
    if module is not None:
        return not isinstance(module, _ExtensionStub)
    return importlib.util.find_spec("detectron2._C") is not None


def restore_pillow_constant() -> None:
    """Give Pillow >= 10 the old name `LINEAR` of bilinear resampling."""
    from PIL import Image

    if "LINEAR" not in vars(Image):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]


def restore_numpy_aliases() -> None:
    """Give numpy >= 1.24 the aliases of Python types that it removed.

    Without `np.int`, detectron2's dataset builder swallows the error and skips its check of category ids.
    """
    import numpy as np

    for name, alias in _REMOVED_NUMPY_ALIASES.items():
        if name not in vars(np):
            setattr(np, name, alias)


def base_config(name: str) -> Path:
    """A configuration file of detectron2's model zoo, whose own function asks `pkg_resources`, which setuptools dropped."""
    return Path(str(importlib.import_module("detectron2").__file__)).parent / "model_zoo" / "configs" / name


def keep_a_pixel() -> None:
    """Let detectron2 resize very long images, whose short side it rounds to 0 pixels, to 1."""
    from detectron2.data.transforms import ResizeShortestEdge

    computed = ResizeShortestEdge.get_output_shape
    if min(computed(1, 100, 10, 10)) > 0:
        return

    def at_least_one(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        height, width = computed(oldh, oldw, short_edge_length, max_size)
        return max(height, 1), max(width, 1)

    ResizeShortestEdge.get_output_shape = staticmethod(at_least_one)
