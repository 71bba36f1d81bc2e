"""The program as a library: `import weaksam_cli as weaksam`.

A function a command, with the command's options as arguments; they run the same code, speak on stderr (not with
`quiet=True`) and raise `UserError` where the command would end with a line. `run_cam` and not `cam`: that is the package of
the stage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from weaksam_cli.artifacts import Artifact, open_artifact
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode
from weaksam_cli.data.unlabelled import SPLIT
from weaksam_cli.engine.freshness import flatten
from weaksam_cli.errors import UserError
from weaksam_cli.predict.images import ImageDetections, ImageDetector
from weaksam_cli.predict.threshold import threshold_of
from weaksam_cli.predict.trained import find_detector
from weaksam_cli.report.spread import Setting
from weaksam_cli.retrain.choice import Use

Place = str | os.PathLike[str]

__all__ = [
    "Artifact", "ImageDetections", "ImageDetector", "UserError", "load_detector", "open_artifact", "run_all", "run_cam",
    "run_data", "run_eval", "run_leaderboard", "run_pgt", "run_predict", "run_prompt", "run_propose", "run_retrain",
    "run_sweep", "run_wsod",
]  # fmt: skip


class Options(TypedDict, total=False):
    """Options of every command, by the names of the command line (`weaksam COMMAND --help`).

    Attributes:
        dataset, run_dir: which run; default: as on the command line.
        split: only this one.
        recipe: its name, or a YAML file.
        settings: key -> value, what `--set` changes in the recipe; dotted keys, or mappings in mappings.
        inputs: stage -> file, read in place of that stage's output.
        workers: processes, 1 unless it or `executor` is given; a script that wants more begins its work below
            `if __name__ == "__main__":`, because each process imports it.
        executor_settings: key -> value, what `--executor-set` changes.
    """

    dataset: str
    run_dir: Place
    split: str
    recipe: str
    settings: Mapping[str, Any]
    profile: str
    variant: str
    inputs: Mapping[str, Place]
    device: str
    workers: int
    executor: str
    executor_settings: Mapping[str, Any]
    shard: str
    seed: int
    weights_dir: Place
    fit: bool
    checkpoint_every: int
    tensorboard: Place
    overwrite: bool
    allow_stale: bool
    strict: bool
    quiet: bool


def load_detector(
    place: Place, *, use: Use | None = None, device: str | None = None, weights_dir: Place | None = None
) -> ImageDetector:
    """A trained detector as a function of an image: `load_detector("runs/pets")("dog.jpg").classes`.

    Args:
        place: the folder of a run, or a `model.safetensors` of `retrain` or `wsod`.
        use: which detector of the run; None takes the one that `retrain` chose, as `weaksam predict` does.
        device: auto, cpu, cuda or cuda:N.
        weights_dir: folder with published weights, which a detector of WSOD may need for class maps and proposals.

    Raises:
        UserError: there is none, it is damaged, or what it needs is gone.
    """
    context = build_context(
        CommonOptions(device=device, weights_dir=_path(weights_dir)), None, Console(Mode.QUIET)
    )
    trained = find_detector(Path(place), use)
    return ImageDetector(trained, threshold_of(trained, context), context)


def run_data(
    source: Place | None = None,
    *,
    layout: str | None = None,
    images: Place | None = None,
    split_off: str | None = None,
    fetch: bool = False,
    **options: Unpack[Options],
) -> None:
    """`weaksam data`: read a dataset; a folder or file in any layout, `voc07` and the like, or `demo`."""
    from weaksam_cli.cli.run import run_data as run

    run(*_common(options), _text(source), layout, _path(images), split_off, fetch)


def run_cam(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam cam`: class activation maps; split -> file of maps."""
    return _stage("cam", options)


def run_prompt(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam prompt`: peak points of the maps; split -> file of points."""
    return _stage("prompt", options)


def run_propose(
    images: Place | Sequence[Place] | None = None, output: Place | None = None, **options: Unpack[Options]
) -> dict[str, Path]:
    """`weaksam propose`: boxes of any images, or of a dataset; split (`all` for images) -> file of proposals."""
    from weaksam_cli.cli.propose_folder import propose

    if images is None and output is None:
        return _stage("propose", options)
    return {SPLIT: propose(*_common(options), _paths(images), _path(output))}


def run_wsod(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam wsod`: train a weakly supervised detector, and detect; split -> detections."""
    return _stage("wsod", options)


def run_pgt(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam pgt`: pseudo ground truth of the training split; split -> its file."""
    return _stage("pgt", options)


def run_retrain(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam retrain`: train a detector on the pseudo ground truth, and detect; split -> detections."""
    return _stage("retrain", options)


def run_eval(**options: Unpack[Options]) -> dict[str, Path]:
    """`weaksam eval`: every artifact of the run against ground truth; split -> file of figures."""
    return _stage("eval", options)


def run_all(
    source: Place | None = None,
    *,
    layout: str | None = None,
    recipes: Mapping[str, str] | None = None,
    **options: Unpack[Options],
) -> None:
    """`weaksam all`: every stage, from labels to the table of results.

    Args:
        source, layout: see `run_data`.
        recipes: stage -> name of its recipe.
        options: `settings` has a mapping for each stage: `{"pgt": {"score_threshold": 0.5}}`.
    """
    from weaksam_cli.cli.run import run_pipeline

    overrides = _overrides(options.pop("settings", {}))
    chosen = [f"{stage}={name}" for stage, name in (recipes or {}).items()]
    run_pipeline(*_common(options), _text(source), layout, chosen, overrides)


def run_predict(
    images: Place | Sequence[Place],
    output: Place | None = None,
    *,
    model: Place | None = None,
    use: Use | None = None,
    format: str = "coco",  # noqa: A002 - as the option is called
    min_score: float | None = None,
    draw: Place | None = None,
    **options: Unpack[Options],
) -> Path:
    """`weaksam predict`: find objects in folders, files or lists of images; returns the file or folder that was written."""
    from weaksam_cli.cli.predict import predict_images

    return predict_images(
        *_common(options),
        images=_paths(images),
        output=_path(output),
        model=_path(model),
        use=use,
        layout=format,
        min_score=min_score,
        draw=_path(draw),
    )


def run_sweep(
    stage: str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    until: str | None = None,
    recipes: Mapping[str, str] | None = None,
    output: Place | None = None,
    **options: Unpack[Options],
) -> list[Setting]:
    """`weaksam sweep`: variants of a stage over a grid of its settings and seeds; their figures, a setting an entry.

    Args:
        stage: the first that each variant has of its own.
        grid: key of its recipe -> values.
        seeds: every setting with each.
        until: the last stage of its own; default: `stage`.
        recipes: stage -> name of its recipe.
        output: a CSV file for every figure of every seed.
        options: `settings` has a mapping for each stage, as with `run_all`.
    """
    from weaksam_cli.cli.sweep import sweep

    overrides = _overrides(options.pop("settings", {}))
    variant = options.pop("variant", None)
    return sweep(
        *_common(options),
        stage=stage,
        grid=[f"{key}={','.join(map(json.dumps, values))}" for key, values in (grid or {}).items()],
        seeds=_joined(seeds),
        until=until,
        recipes=[f"{name}={recipe}" for name, recipe in (recipes or {}).items()],
        overrides=overrides,
        variant=variant,
        output=_path(output),
    )


def run_leaderboard(
    methods: Sequence[str] | None = None,
    proposals: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    output: Place | None = None,
    **options: Unpack[Options],
) -> list[Setting]:
    """`weaksam leaderboard`: methods of `wsod` over proposals of several recipes; their figures, an entry for each pair.

    Args:
        methods, proposals: names of recipes of `wsod` and of `propose`; None as on the command line.
        seeds, output: see `run_sweep`.
        options: `settings` has a mapping for each stage, as with `run_all`.
    """
    from weaksam_cli.cli.leaderboard import leaderboard

    overrides = _overrides(options.pop("settings", {}))
    return leaderboard(
        *_common(options),
        methods=_joined(methods),
        proposals=_joined(proposals),
        seeds=_joined(seeds),
        overrides=overrides,
        output=_path(output),
    )


def _joined(words: Sequence[object] | None) -> str | None:
    return None if words is None else ",".join(map(str, words))


def _stage(name: str, options: Options) -> dict[str, Path]:
    from weaksam_cli.cli.run import run_one_stage

    return run_one_stage(*_common(options), name)


def _common(options: Options) -> tuple[CommonOptions, Console]:
    """What the command line makes of its options."""
    given: dict[str, Any] = dict(options)
    unknown = given.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"there is no argument {sorted(unknown)[0]!r}; allowed: {', '.join(Options.__annotations__)}"
        )
    settings, inputs = given.pop("settings", {}), given.pop("inputs", {})
    given.setdefault("workers", 0 if "executor" in given else 1)
    given["executor_settings"] = _overrides(given.pop("executor_settings", {}))
    for name in ("run_dir", "weights_dir"):
        given[name] = _path(given.get(name))
    files = [f"{stage}={os.fspath(path)}" for stage, path in inputs.items()]
    common = CommonOptions(**given, overrides=_overrides(settings), inputs=files)
    return common, common.console()


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in flatten(dict(settings)).items()]


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _paths(places: Place | Sequence[Place] | None) -> list[Path]:
    if places is None:
        return []
    return [Path(places)] if isinstance(places, str | os.PathLike) else [Path(place) for place in places]


def _text(place: Place | None) -> str | None:
    return None if place is None else os.fspath(place)
