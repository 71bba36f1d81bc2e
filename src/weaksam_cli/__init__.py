"""weaksam: object detectors and instance segmenters from image-level labels (the WeakSAM method).

What a program uses of it stands in `weaksam_cli.api` and can be had from here: `import weaksam_cli as weaksam`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from weaksam_cli.api import (
        Artifact,
        ImageDetections,
        ImageDetector,
        UserError,
        load_detector,
        open_artifact,
        run_all,
        run_cam,
        run_data,
        run_eval,
        run_leaderboard,
        run_pgt,
        run_predict,
        run_prompt,
        run_propose,
        run_retrain,
        run_sweep,
        run_wsod,
    )

__all__ = [
    "Artifact", "ImageDetections", "ImageDetector", "UserError", "load_detector", "open_artifact", "run_all", "run_cam",
    "run_data", "run_eval", "run_leaderboard", "run_pgt", "run_predict", "run_prompt", "run_propose", "run_retrain",
    "run_sweep", "run_wsod",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the library when something of it is asked for: the command line starts without."""
    if name in __all__:
        from weaksam_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
