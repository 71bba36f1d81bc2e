"""What a worker does, in whatever process an executor has started it."""

from __future__ import annotations

import os
import pickle
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from weaksam_cli import __version__
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.engine.predictors import ImageRunner, Predictor, limit_threads, make_shard
from weaksam_cli.errors import UserError


@dataclass
class ShardMaker:
    """Makes one shard after the other; the predictor is opened with the first, so that its errors are told."""

    ops: FileOps
    plan: ShardPlan
    predictor: Predictor
    _runner: ImageRunner | None = None

    def make(self, index: int, on_image: Callable[[bool], None]) -> bool:
        """Make one shard; see `make_shard`."""
        if self._runner is None:
            self._runner = ImageRunner(self.predictor.open()).__enter__()
            limit_threads()
        return make_shard(self.ops, self.plan, index, self._runner, following=lambda: None, on_image=on_image)


@dataclass(frozen=True)
class Work:
    """What a worker on another machine is sent, once.

    Attributes:
        ops: the seam for writing.
        plan: which shards there are.
        predictor: what computes an image.
        folder: that the command was given in; paths are relative to it.
        version: of the program that gave it.
    """

    ops: FileOps
    plan: ShardPlan
    predictor: Predictor
    folder: str = field(default_factory=os.getcwd)
    version: str = __version__

    def begin(self) -> ShardMaker:
        """Go where the command was given.

        Raises:
            UserError: this machine has another version of the program, or not that folder.
        """
        host = platform.node()
        if self.version != __version__:
            raise UserError(
                f"has weaksam-cli {__version__}, the command is of {self.version}",
                where=f"worker on {host}",
                remedy="Install the same version on every machine: equal inputs give equal bytes of one version alone",
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UserError(
                f"the folder {self.folder} is not there: {error.strerror}",
                where=f"worker on {host}",
                remedy="Give the command in a folder that all machines have at the same place, on a shared file system",
            ) from error
        return ShardMaker(self.ops, self.plan, self.predictor)


def portable(error: Exception) -> Exception:
    """The error, or one that says the same and can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of any library; what it says is kept
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def missing_package(package: str, extra: str) -> UserError:
    """The error of an executor whose package is not installed."""
    return UserError(
        f"{package} is not installed",
        where=f"--executor {extra}",
        remedy=f"pip install 'weaksam-cli[{extra}]'",
    )
