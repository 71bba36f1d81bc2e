"""Run a per-image function over the images of a shard, reading one image ahead.

The bytes do not depend on how the work is divided: every image is computed by the same single-threaded code, and shards are
merged in the order of the plan.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self

from typing_extensions import TypeVar

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import ShardPlan, shard_bytes, write_shard
from weaksam_cli.errors import ImageError, UserError

ImageResult = ImageRows | Sequence[str]
"""What is computed for an image: rows of an HDF5 artifact, or the JSON texts of its entries."""
T = TypeVar("T")
R = TypeVar("R", default=ImageResult)
ImageFunction = Callable[[str], ImageResult]


@dataclass(frozen=True)
class Overlapped(Generic[T, R]):
    """One image's work in two steps, so that reading overlaps computing.

    Attributes:
        load: reads and decodes an image; runs in a background thread, one image ahead.
        compute: makes the result of the image from what was loaded.
    """

    load: Callable[[str], T]
    compute: Callable[[str, T], R]

    def __call__(self, image_id: str) -> R:
        """Both steps, one after the other."""
        return self.compute(image_id, self.load(image_id))


OpenedPredictor = ImageFunction | Overlapped[Any, ImageResult]


class Predictor(Protocol):
    """What computes one image; small, frozen and picklable: it is sent to the worker processes."""

    def open(self) -> OpenedPredictor:
        """Load models and inputs once a process; what is returned computes one image.

        It raises `ImageError` for an image that cannot be done; any other exception stops the stage.
        """
        ...


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads() -> None:
    """One thread for the numeric libraries that this process has loaded: results do not depend on the machine."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, as after `limit_threads`; afterwards these libraries have the threads that they had before."""
    import threadpoolctl

    torch, cv2 = sys.modules.get("torch"), sys.modules.get("cv2")
    torch_threads = torch.get_num_threads() if torch else 0
    cv2_threads = cv2.getNumThreads() if cv2 else 0
    with threadpoolctl.threadpool_limits(None):  # restores at its end what it finds now
        limit_threads()
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(torch_threads)
            if cv2:
                cv2.setNumThreads(cv2_threads)


class ImageRunner:
    """Computes images one after the other; while one is computed, the next is loaded. Use it as a context manager.

    At most one image that is not being computed is in memory.
    """

    def __init__(self, opened: Callable[[str], Any]) -> None:
        self._opened = opened
        self._thread = ThreadPoolExecutor(1, "load") if isinstance(opened, Overlapped) else None
        self._next: tuple[str, Future[Any]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def run(self, image_id: str, following: str | None) -> Any:
        """The rows of an image; `following` is loaded meanwhile.

        Raises:
            ImageError: the image cannot be read or computed; errors of loading are raised for their own image.
        """
        if self._thread is None or not isinstance(self._opened, Overlapped):
            return self._opened(image_id)
        expected, self._next = self._next, None
        if expected is not None and expected[0] == image_id:
            loading = expected[1]
        else:
            if expected is not None:
                expected[1].cancel()
            loading = self._thread.submit(self._opened.load, image_id)
        try:
            loaded = loading.result()
        finally:
            if following is not None:
                self._next = (following, self._thread.submit(self._opened.load, following))
        return self._opened.compute(image_id, loaded)


def make_shard(
    ops: FileOps,
    plan: ShardPlan,
    index: int,
    runner: ImageRunner,
    *,
    following: Callable[[], str | None],
    on_image: Callable[[bool], None],
) -> bool:
    """Compute and write one shard.

    Args:
        ops: the seam for writing.
        plan: which shards there are.
        index: which one is made.
        runner: computes an image.
        following: asked at the last image: the image that will most likely be computed after this shard.
        on_image: called after each image, with True when it failed.

    Returns:
        True when another process had written the same shard meanwhile.

    Raises:
        UserError: a fault that stops the stage.
        ShardLostError: see `write_shard`.
    """
    done: list[tuple[str, ImageResult]] = []
    failed: list[tuple[str, str]] = []
    images = plan.images(index)
    for position, image_id in enumerate(images):
        after = images[position + 1] if position + 1 < len(images) else following()
        try:
            rows = runner.run(image_id, after)
        except ImageError as error:
            failed.append((image_id, error.what))
            on_image(True)
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"while working on image {image_id!r}")
            raise
        else:
            done.append((image_id, rows))
            on_image(False)
    return write_shard(ops, plan, index, shard_bytes(plan.schema, done, failed))
