"""Predictor on images: read one ahead, in one process or several, in parts, by commands that know nothing of each other."""

from __future__ import annotations

import io
import os
import random
import re
import secrets
import shutil
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.artifacts.helpers import SCHEMA, STAGE, RowsPredictor, context, rows_of, step
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import read_receipt, receipt_path
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import ShardPlan, shard_bytes, shards_root, write_shard
from weaksam_cli.console import Console, Mode
from weaksam_cli.engine import queue as queue_module
from weaksam_cli.engine.devices import VISIBLE, use_gpu, visible_gpus, worker_gpus
from weaksam_cli.engine.executors.local import run_shards
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.predictors import ImageRunner, Overlapped, Predictor, one_thread
from weaksam_cli.engine.queue import Part, ShardQueue, UnfinishedError
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.errors import ImageError, UserError


def plan_of(target: Path, images: int, size: int = 4) -> ShardPlan:
    return ShardPlan(target, "k" * 64, SCHEMA, tuple(f"i{number}" for number in range(images)), size)


def with_predictor(item: Step, predictor: Predictor) -> Step:
    """The same step, with another predictor."""
    assert isinstance(item.run, PerImage)
    return replace(item, run=replace(item.run, predictor=predictor))


@dataclass(frozen=True)
class AlreadyOpen:
    """A predictor that was opened before, in this process."""

    opened: Overlapped[str]

    def open(self) -> Overlapped[str]:
        return self.opened


@dataclass
class Recorder:
    """Overlapped work that notes who was loaded and computed when; `broken` cannot be read."""

    broken: tuple[str, ...] = ()
    bug: str = ""
    events: list[str] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    loaded: dict[str, threading.Event] = field(default_factory=dict)

    def load(self, image_id: str) -> str:
        self.events.append(f"load {image_id}")
        self.ahead.append(
            sum(item.startswith("load") for item in self.events)
            - sum(item.startswith("done") for item in self.events)
        )
        self.loaded.setdefault(image_id, threading.Event()).set()
        if image_id in self.broken:
            raise ImageError("truncated", where=image_id)
        if image_id == self.bug:
            raise ZeroDivisionError("in load")
        return image_id

    def compute(self, image_id: str, loaded: str) -> ImageRows:
        assert loaded == image_id
        self.events.append(f"compute {image_id}")
        following = f"i{int(image_id[1:]) + 1}"
        if following != "i11":
            assert self.loaded.setdefault(following, threading.Event()).wait(10), "nothing is read ahead"
        self.events.append(f"done {image_id}")
        return rows_of(image_id)

    def open(self) -> Overlapped[str]:
        return Overlapped(self.load, self.compute)


def test_the_next_image_is_read_while_one_is_computed_also_across_shards(tmp_path: Path) -> None:
    plain = tmp_path / "plain.h5"
    make(step(plain), STAGE, context(tmp_path))
    recorder = Recorder()
    path = tmp_path / "a.h5"
    make(with_predictor(step(path), recorder), STAGE, context(tmp_path))
    assert path.read_bytes() == plain.read_bytes()
    assert [item for item in recorder.events if item.startswith("load")] == [f"load i{k}" for k in range(11)]
    assert max(recorder.ahead) == 2, "the image that is computed, and one more"


def test_an_image_that_cannot_be_read_fails_by_itself(tmp_path: Path) -> None:
    broken = ("i0", "i3", "i4", "i10")
    plain, path = tmp_path / "plain.h5", tmp_path / "a.h5"
    make(step(plain, broken=broken), STAGE, context(tmp_path))
    recorder = Recorder(broken)
    record = make(
        with_predictor(step(path), recorder),
        STAGE,
        context(tmp_path),
    )
    assert [failure.image for failure in record.failed] == list(broken)
    assert path.read_bytes() == plain.read_bytes()


def test_a_bug_in_reading_names_the_image(tmp_path: Path) -> None:
    item = with_predictor(step(tmp_path / "a.h5"), Recorder(bug="i5"))
    with pytest.raises(ZeroDivisionError) as caught:
        make(item, STAGE, context(tmp_path))
    assert caught.value.__notes__ == ["while working on image 'i5'"]


def test_an_image_that_was_expected_and_does_not_come_is_dropped() -> None:
    recorder = Recorder()
    recorder.loaded["i2"] = recorder.loaded["i9"] = event = threading.Event()
    event.set()
    with ImageRunner(Overlapped(recorder.load, recorder.compute)) as runner:
        runner.run("i1", "i5")
        runner.run("i8", None)
    assert [item for item in recorder.events if item.startswith("compute")] == ["compute i1", "compute i8"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "x", "1", "1/2/3", "-1/3", "1.0/3", "", "1/x", "²/3"])
def test_a_share_that_cannot_be_is_refused_in_words(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard: expected i/n with i from 1 to n, got .*--shard 1/3"):
        Part.parse(text)


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_are_a_partition(parts: int, shards: int) -> None:
    shares = [Part.parse(f"{part + 1}/{parts}") for part in range(parts)]
    for index in range(shards):
        assert sum(share.owns(index) for share in shares) == 1


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_shares_in_any_order_give_the_same_bytes(tmp_path: Path, order: tuple[int, ...]) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    make(step(whole, 26, ("i7",)), STAGE, context(tmp_path))
    for part in order[:2]:
        with pytest.raises(UnfinishedError):
            make(
                step(path, 26, ("i7",)),
                STAGE,
                context(tmp_path, part=Part(part, 3)),
            )
        assert not path.exists()
        assert read_receipt(path) is None
    make(step(path, 26, ("i7",)), STAGE, context(tmp_path, part=Part(order[2], 3)))
    assert path.read_bytes() == whole.read_bytes()
    assert not shards_root(path).exists()


def test_a_part_says_what_is_missing_and_the_plain_command_does_the_rest(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    make(step(whole, 26), STAGE, context(tmp_path))
    with pytest.raises(UnfinishedError) as caught:
        make(step(path, 26), STAGE, context(tmp_path, part=Part(2, 3)))
    err = io.StringIO()
    caught.value.report("a.h5", Console(Mode.HUMAN, io.StringIO(), err))
    assert re.fullmatch(
        r"a\.h5: part 2/3 is done \(8 images, \d+ s\); 2 of 7 shards of the whole are, still missing: 1/3 \(3 shards\), "
        r"3/3 \(2 shards\)\. The same command without --shard does the rest\n",
        err.getvalue(),
    )
    recorder = Recorder()
    recorder.loaded = {f"i{number}": threading.Event() for number in range(27)}
    for event in recorder.loaded.values():
        event.set()
    make(with_predictor(step(path, 26), recorder), STAGE, context(tmp_path))
    assert path.read_bytes() == whole.read_bytes()
    computed = {item.split()[1] for item in recorder.events if item.startswith("compute")}
    assert computed == {f"i{k}" for k in range(26) if k // 4 not in (1, 4)}


def test_overwriting_in_parts_does_not_end_with_the_old_artifact(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    first = make(step(path, 26), STAGE, context(tmp_path))
    other = step(path, 26, knob=2)
    for part in (1, 2):
        with pytest.raises(UnfinishedError):
            make(other, STAGE, context(tmp_path, overwrite=True, part=Part(part, 3)))
    last = make(other, STAGE, context(tmp_path, overwrite=True, part=Part(3, 3)))
    assert last.identity.recipe != first.identity.recipe
    assert read_receipt(path) == last
    assert not shards_root(path).exists()


def _fake_shard(plan: ShardPlan, index: int) -> bool:
    plan.directory.mkdir(parents=True, exist_ok=True)
    path = plan.directory / f"{index:05d}-{index:016x}.h5"
    there = path.exists()
    path.touch()
    return there


def test_two_commands_that_start_at_once_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither chance nor how slow this machine lists a folder is judged here.
    monkeypatch.setattr(queue_module, "_LISTING_FACTOR", 0)
    monkeypatch.setattr(secrets, "randbelow", random.Random(0).randrange)
    plan = plan_of(tmp_path / "a.h5", 400)
    queues = [ShardQueue(plan, None, lambda images: None) for _ in range(2)]
    made = 0
    for _ in range(len(plan)):
        taken = [queue.take() for queue in queues]
        for queue, index in zip(queues, taken, strict=True):
            if index is not None:
                made += 1
                if _fake_shard(plan, index):
                    queue.jump()
    assert plan.missing() == []
    assert len(plan) <= made <= 1.3 * len(plan), "in step they would make every shard twice"


def test_shards_that_appear_are_skipped_and_counted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 14)
    skipped: list[int] = []
    queue = ShardQueue(plan, None, skipped.append)
    assert queue.take() == 0
    _fake_shard(plan, 1)
    _fake_shard(plan, 3)
    queue._trusted_until = 0
    assert queue.take() == 2
    assert queue.take() is None
    assert skipped == [4, 2]


def test_nothing_is_left_when_another_command_has_merged(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 40)
    _fake_shard(plan, 0)
    queue = ShardQueue(plan, None, lambda images: None)
    assert queue.take() == 1
    shutil.rmtree(shards_root(plan.target))
    queue._trusted_until = 0
    assert queue.take() is None


class SweptOps(FileOps):
    """The folder of shards is removed once, just before a shard gets its name."""

    swept = False

    def before(self, operation: str, path: Path) -> None:
        if operation == "replace" and ".shards" in str(path) and not self.swept:
            self.swept = True
            shutil.rmtree(path.parent)


def test_work_goes_on_when_the_folder_of_shards_vanishes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    make(step(whole), STAGE, context(tmp_path))
    make(step(path), STAGE, context(tmp_path, SweptOps()))
    assert path.read_bytes() == whole.read_bytes()


class HopelessOps(FileOps):
    """The folder of shards is removed each time."""

    def before(self, operation: str, path: Path) -> None:
        if operation == "replace" and ".shards" in str(path):
            shutil.rmtree(path.parent)


def test_a_place_that_loses_every_shard_is_declared_unfit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shards vanish while they are worked on .*Choose another place"):
        make(step(tmp_path / "a.h5"), STAGE, context(tmp_path, HopelessOps()))


def test_more_than_a_hundred_thousand_shards_are_found(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 100_002, 1)
    for index in (0, 99_999, 100_000, 100_001, 100_002):
        _fake_shard(plan, index)
    (plan.directory / ".00001-0.h5.tmp").touch()
    assert sorted(plan.done()) == [0, 99_999, 100_000, 100_001]


def test_a_shard_that_was_there_is_noticed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 4)
    data = shard_bytes(SCHEMA, [(key, rows_of(key)) for key in plan.image_ids], [])
    assert not write_shard(FileOps(), plan, 0, data)
    assert write_shard(FileOps(), plan, 0, data)


# ------------------------------------------------------------------------------------------------ several processes


def _run(
    plan: ShardPlan, predictor: Predictor, gpus: tuple[str | None, ...]
) -> tuple[int, list[int], list[str]]:
    counted = [0, 0]
    warnings: list[str] = []

    def on_images(images: int, failed: int) -> None:
        counted[0] += images
        counted[1] += failed

    images = run_shards(Task(FileOps(), plan, predictor, None, on_images, warnings.append), gpus)
    return images, counted, warnings


def test_the_number_of_processes_does_not_change_the_bytes(tmp_path: Path) -> None:
    broken = ("i2", "i9")
    one, path = tmp_path / "one.h5", tmp_path / "a.h5"
    make(step(one, broken=broken), STAGE, context(tmp_path))
    make(step(path, broken=broken), STAGE, context(tmp_path, workers=3))
    assert path.read_bytes() == one.read_bytes()


@dataclass(frozen=True)
class Deadly:
    """Kills its process at image i4: once, or each time; each process notes which GPU it sees."""

    folder: Path
    always: bool = False

    def open(self) -> Overlapped[str]:
        (self.folder / f"gpu {os.environ.get(VISIBLE)}").touch()

        def compute(image_id: str, loaded: str) -> ImageRows:
            mark = self.folder / "killed"
            if image_id == "i4" and (self.always or not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return rows_of(image_id)

        return Overlapped(str, compute)


def test_the_shard_of_a_killed_worker_is_done_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "7")
    plan = plan_of(tmp_path / "a.h5", 20)
    images, counted, warnings = _run(plan, Deadly(tmp_path), ("3", "5"))
    assert plan.missing() == []
    assert (images, counted) == (20, [20, 0])
    assert warnings == ["a worker process died, most likely for lack of memory; its shard goes to the 1 left"]
    assert {path.name for path in tmp_path.glob("gpu *")} == {"gpu 3", "gpu 5"}


def test_a_shard_that_kills_two_workers_stops_the_stage(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 20)
    with pytest.raises(UserError, match=r"images i4 i5 \.\.\.: a worker process died.*fewer --workers"):
        _run(plan, Deadly(tmp_path, always=True), (None, None))
    assert 1 in plan.missing()


@dataclass(frozen=True)
class Faulty:
    """Fails at image i4 with an error that cannot be sent to another process."""

    def open(self) -> Overlapped[str]:
        class LocalError(Exception):
            pass

        def compute(image_id: str, loaded: str) -> ImageRows:
            if image_id == "i4":
                raise LocalError("odd")
            return rows_of(image_id)

        return Overlapped(str, compute)


def test_a_bug_in_a_worker_names_the_image_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        _run(plan_of(tmp_path / "a.h5", 20), Faulty(), (None, None))
    assert "while working on image 'i4'" in str(caught.value)
    assert 'raise LocalError("odd")' in str(caught.value)


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "expected"),
    [
        ("cpu", 1, [], [None]),
        ("cpu", 0, [], [None]),
        ("cpu", 3, ["0", "1"], [None, None, None]),
        ("cuda", 16, [], [None]),
        ("cuda", 16, ["0"], [None]),
        ("cuda", 1, ["0", "1"], [None]),
        ("cuda", 2, ["0", "1", "2"], ["0", "1"]),
        ("cuda", 16, ["2", "GPU-5f", "7"], ["2", "GPU-5f", "7"]),
        ("cuda:2", 16, ["0", "1", "2"], [None]),
    ],
)
def test_each_gpu_has_one_process(
    device: str, workers: int, gpus: list[str], expected: list[str | None]
) -> None:
    assert list(worker_gpus(device, workers, gpus)) == expected


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("3, 1", 2, ["3", "1"]),
        ("1,-1,2", 1, ["1"]),
        ("GPU-aa,GPU-bb", 2, ["GPU-aa", "GPU-bb"]),
    ],
)
def test_visible_gpus(variable: str | None, count: int, expected: list[str]) -> None:
    assert visible_gpus(variable, count) == expected


def test_a_worker_without_a_gpu_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "7")
    use_gpu(None)
    assert os.environ[VISIBLE] == "7"
    use_gpu("1")
    assert os.environ[VISIBLE] == "1"


def test_a_failed_image_is_counted_once(tmp_path: Path) -> None:
    images, counted, _ = _run(plan_of(tmp_path / "a.h5", 11), RowsPredictor(("i0", "i5")), (None,))
    assert (images, counted) == (11, [11, 2])
    assert not receipt_path(tmp_path / "a.h5").exists()


def test_threads_are_given_back() -> None:
    """A training in this process left torch with one thread for whatever came after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
