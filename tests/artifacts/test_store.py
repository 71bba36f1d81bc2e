"""The artifact store: what is written, what survives a fault at any file operation, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.artifacts.helpers import SCHEMA, STAGE, FaultyOps, context, entries, rows_of, step
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.digest import of_file
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import read_receipt, receipt_path, verify, write_receipt
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema, concatenate
from weaksam_cli.artifacts.shards import remove_shards, shard_bytes, shards_root, write_shard
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.steps import Step, identify, make
from weaksam_cli.errors import IncompleteError, UserError


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "cam" / "trainval.h5"
    make(step(path), STAGE, context(tmp_path))
    with open_artifact(path, SCHEMA) as artifact:
        assert artifact.image_ids == [f"i{number}" for number in range(11)]
        assert artifact.table("kind_names") == ["a", "b"]
        for image_id in artifact:
            expected = rows_of(image_id)
            np.testing.assert_array_equal(artifact.rows(image_id, "boxes"), expected.columns["boxes"])
            np.testing.assert_array_equal(artifact.rows(image_id, "kind"), expected.columns["kind"])
            np.testing.assert_array_equal(artifact.image_value(image_id, "score"), expected.image["score"])
            blobs = artifact.blobs(image_id, "values")
            assert [len(blob) for blob in blobs] == [len(blob) for blob in expected.blobs["values"]]
            for blob, want in zip(blobs, expected.blobs["values"], strict=True):
                np.testing.assert_array_equal(blob, want)


def test_three_lines_of_h5py_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "cam" / "trainval.h5"
    make(step(path), STAGE, context(tmp_path))
    with h5py.File(path) as file:
        index = file["image_ids"].asstr()[...].tolist().index("i4")
        boxes = file["boxes"][file["offsets"][index] : file["offsets"][index + 1]]
    np.testing.assert_array_equal(boxes, rows_of("i4").columns["boxes"])


@pytest.mark.parametrize("images", [0, 1, 4, 5, 11])
def test_the_bytes_do_not_depend_on_interruptions(tmp_path: Path, images: int) -> None:
    whole = tmp_path / "whole" / "a.h5"
    make(step(whole, images), STAGE, context(tmp_path / "whole"))
    counter = FaultyOps()
    make(step(tmp_path / "count" / "a.h5", images), STAGE, context(tmp_path / "count", counter))
    for k in range(len(counter.log)):
        root = tmp_path / f"k{k}"
        path = root / "a.h5"
        with pytest.raises(OSError, match="No space left"):
            make(step(path, images), STAGE, context(root, FaultyOps(fail_at=k)))
        assert not list(root.rglob("*.tmp")), f"operation {k} ({counter.log[k]}) left a temporary file"
        if receipt_path(path).exists():
            open_artifact(path, SCHEMA).close()
        make(step(path, images), STAGE, context(root))
        assert path.read_bytes() == whole.read_bytes(), f"operation {k} ({counter.log[k]})"


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    counter = FaultyOps()
    make(step(tmp_path / "n" / "a.h5"), STAGE, context(tmp_path / "n", counter))
    shard_writes = [k for k, name in enumerate(counter.log) if name == "write"]
    with pytest.raises(OSError):
        make(step(path), STAGE, context(tmp_path, FaultyOps(fail_at=shard_writes[2])))
    assert len(list(shards_root(path).rglob("*.h5"))) == 2
    after = FaultyOps()
    make(step(path), STAGE, context(tmp_path, after))
    assert after.log.count("write") == counter.log.count("write") - 2
    assert not shards_root(path).exists()


def test_a_fresh_artifact_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    before = {item: item.stat().st_mtime_ns for item in tmp_path.rglob("*")}
    ops = FaultyOps()
    make(step(path), STAGE, context(tmp_path, ops))
    assert ops.log == []
    assert {item: item.stat().st_mtime_ns for item in tmp_path.rglob("*")} == before


def test_another_recipe_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    with pytest.raises(UserError, match=r"recipe knob: 1 -> 2.*--overwrite"):
        make(step(path, knob=2), STAGE, context(tmp_path))
    record = make(step(path, knob=2), STAGE, context(tmp_path, overwrite=True))
    assert record.identity.recipe == {"knob": 2}


def test_overwrite_leaves_what_is_fresh(tmp_path: Path) -> None:
    """The model that a day of training made stays, when only what is made from it has another recipe."""
    path = tmp_path / "a.h5"
    record = make(step(path), STAGE, context(tmp_path))
    made = path.stat().st_ino
    assert make(step(path), STAGE, context(tmp_path, overwrite=True)) == record
    assert path.stat().st_ino == made


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spoil_receipt(path: Path) -> None:
    receipt_path(path).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "said"), [(flip_a_byte, "damaged or was changed"), (spoil_receipt, "the receipt is damaged")]
)
def test_overwrite_makes_a_damaged_artifact_again(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    """As the error says."""
    path = tmp_path / "a.h5"
    record = make(step(path), STAGE, context(tmp_path))
    spoil(path)
    with pytest.raises(UserError, match=rf"{said}.*--overwrite"):
        make(step(path), STAGE, context(tmp_path))
    again = make(step(path), STAGE, context(tmp_path, overwrite=True))
    assert again.sha256 == record.sha256
    assert make(step(path), STAGE, context(tmp_path)) == again


def test_overwrite_tries_failed_images_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(step(path, broken=("i2",)), STAGE, context(tmp_path))
    mended = step(path)
    assert make(mended, STAGE, context(tmp_path)).failed
    assert not make(mended, STAGE, context(tmp_path, overwrite=True)).failed


def test_failed_images_are_listed_and_strict_ends_with_code_3(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    record = make(step(path, broken=("i2", "i9")), STAGE, context(tmp_path))
    assert [failure.image for failure in record.failed] == ["i2", "i9"]
    assert record.images == 9
    with open_artifact(path) as artifact:
        assert artifact.failed == {"i2": "truncated", "i9": "truncated"}
        with pytest.raises(UserError, match=r"i9.*failed in this stage: truncated"):
            artifact.span("i9")
    strict = tmp_path / "strict" / "a.h5"
    with pytest.raises(IncompleteError) as caught:
        make(step(strict, broken=("i2",)), STAGE, context(tmp_path, strict=True))
    assert caught.value.exit_code == 3
    assert read_receipt(strict) is not None


@pytest.mark.parametrize("position", [0, 9, 100, 1000, -1])
def test_one_flipped_byte_is_noticed(tmp_path: Path, position: int) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged or was changed"):
        open_artifact(path, SCHEMA)


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole.h5"
    make(step(whole), STAGE, context(tmp_path))
    path = tmp_path / "a.h5"
    counter = FaultyOps()
    make(step(tmp_path / "n.h5"), STAGE, context(tmp_path, counter))
    last_write = max(k for k, name in enumerate(counter.log) if name == "append")
    with pytest.raises(OSError):
        make(step(path), STAGE, context(tmp_path, FaultyOps(fail_at=last_write)))
    shard = sorted(shards_root(path).rglob("*.h5"))[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    make(step(path), STAGE, context(tmp_path))
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not written by weaksam"),
        ({"format": "weaksam/points"}, "holds points, expected test"),
        ({"format_version": 99}, "version 99, this program reads up to 1"),
    ],
)
def test_foreign_and_newer_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    receipt_path(path).unlink()
    with h5py.File(path, "r+") as file:
        for name, value in change.items():
            file.attrs[name] = value
    with pytest.raises(UserError, match=message):
        open_artifact(path, SCHEMA)


@pytest.mark.parametrize("damage", ["text", "no_offsets", "short_offsets", "falling_offsets", "short_column"])
def test_files_that_only_look_like_artifacts_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    receipt_path(path).unlink()
    if damage == "text":
        path.write_text("hello")
    else:
        with h5py.File(path, "r+") as file:
            if damage == "no_offsets":
                del file["offsets"]
            elif damage == "short_offsets":
                file["offsets"].resize((3,))
            elif damage == "falling_offsets":
                file["offsets"][2] = 100
            else:
                file["kind"].resize((1,))
    with pytest.raises(UserError, match=r"damaged|not a readable|lacks"):
        open_artifact(path, SCHEMA)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_artifact(tmp_path / "none.h5")


def test_wrong_shapes_name_image_column_and_both_shapes() -> None:
    rows = rows_of("i3")
    bad = ImageRows({**rows.columns, "kind": np.zeros((6, 2))}, rows.image, rows.blobs)
    with pytest.raises(ValueError, match=r"i3: column kind: expected shape \(6,\), got \(6, 2\)"):
        concatenate(SCHEMA, [("i3", bad)])


def test_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    newer = Schema(SCHEMA.name, 2, SCHEMA.columns, SCHEMA.image_columns, SCHEMA.blobs)
    open_artifact(path, newer).close()


def test_temporary_files_of_dead_processes_go_and_those_of_other_machines_stay_a_day(tmp_path: Path) -> None:
    ops, finished = FileOps(), 2**22 + 1  # no process has a number above the kernel's limit
    mine = ops.temporary_name(tmp_path / "a.h5")
    token = f"-{os.getpid()}-"
    foreign = tmp_path / f".a.h5.00000bad-{finished}-0123abcd.tmp"
    kept = [mine, foreign, tmp_path / f".a.h5.00000bad-{os.getpid()}-0123abcd.tmp"]
    gone = [mine.with_name(mine.name.replace(token, f"-{finished}-")), foreign.with_name(f".b{foreign.name}")]
    for path in (*kept, *gone):
        path.touch()
    os.utime(gone[1], (0, 0))
    assert sorted(ops.remove_stale_temporaries(tmp_path)) == sorted(gone)
    assert all(path.exists() for path in kept)


def test_temporary_files_of_other_programs_stay_and_so_do_links_and_folders_that_are_called_like_ours(
    tmp_path: Path,
) -> None:
    ops = FileOps()
    stale = ops.temporary_name(tmp_path / "a.h5").name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    (tmp_path / stale).symlink_to(tmp_path)
    (tmp_path / f".b{stale}").mkdir()
    for name in (".odd.tmp", ".~lock.tmp", f"{stale}.bak", stale.replace(str(2**22 + 1), "9" * 30)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert ops.remove_stale_temporaries(tmp_path) == []


def test_a_link_in_the_place_of_the_shards_is_refused_and_what_it_points_to_stays(tmp_path: Path) -> None:
    """A link named OUT.h5.shards made `propose` empty the folder that it points to (F2)."""
    precious = tmp_path / "photographs"
    precious.mkdir()
    (precious / "checkpoint.pt").write_bytes(b"x")
    path = tmp_path / "run" / "a.h5"
    path.parent.mkdir()
    shards_root(path).symlink_to(precious)
    with pytest.raises(UserError, match="is a link"):
        make(step(path), STAGE, context(tmp_path))
    remove_shards(FileOps(), path)
    assert (precious / "checkpoint.pt").exists()


KEY, SHARD = "0123456789abcdef", "00000-0123456789abcdef.h5"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("child.jpg", "file"),
        (f"{SHARD}.bak", "file"),
        (".rsync.tmp", "file"),
        ("photographs/checkpoint.pt", "file"),
        (SHARD, "folder"),
        (SHARD, "link"),
        (KEY, "link"),
        (KEY, "file"),
        ("checkpoint.pt", "link"),
        (f"{KEY}/{SHARD}", "folder"),
        (f"{KEY}/{SHARD}", "link"),
        (f"{KEY}/{SHARD}", "pipe"),
        (f"{KEY}/checkpoint.pt", "link"),
    ],
)
def test_what_somebody_else_put_among_the_shards_is_refused_and_stays(
    tmp_path: Path, name: str, kind: str
) -> None:
    precious = tmp_path / "photographs"
    precious.mkdir()
    (precious / SHARD).write_bytes(b"x")
    path = tmp_path / "run" / "a.h5"
    foreign = shards_root(path) / name
    foreign.parent.mkdir(parents=True)
    if kind == "link":
        foreign.symlink_to(precious / SHARD if "." in foreign.name else precious)
    elif kind == "folder":
        foreign.mkdir()
    elif kind == "pipe":
        os.mkfifo(foreign)
    else:
        foreign.write_bytes(b"x")
    with pytest.raises(UserError, match="which weaksam did not write"):
        make(step(path), STAGE, context(tmp_path))
    remove_shards(FileOps(), path)
    assert os.path.lexists(foreign)
    assert (precious / SHARD).read_bytes() == b"x"


def test_a_file_of_somebody_else_in_a_folder_of_shards_stays(tmp_path: Path) -> None:
    """What a file system or a desktop puts there (`.nfs0001`, `.DS_Store`) is no reason to stop."""
    path = tmp_path / "a.h5"
    foreign = shards_root(path) / KEY / ".nfs0001"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"x")
    make(step(path), STAGE, context(tmp_path))
    assert foreign.exists()


@pytest.mark.parametrize("name", ["a.h5", "a.h5.receipt.json"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    ops = FaultyOps()
    with pytest.raises(UserError, match="folder"):
        make(step(tmp_path / "a.h5"), STAGE, context(tmp_path, ops, overwrite=True))
    assert ops.log == []


@pytest.mark.parametrize("content", [b"mine", b"", None])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_foreign_file_or_a_link_to_one_is_replaced_with_overwrite_alone(
    tmp_path: Path, content: bytes | None, is_link: bool
) -> None:
    precious, path = tmp_path / "photographs.h5", tmp_path / "a.h5"
    place = precious if is_link else path
    if content is None:
        with h5py.File(place, "w") as file:
            file["pixels"] = [1, 2, 3]
    else:
        place.write_bytes(content)
    if is_link:
        path.symlink_to(precious)
    before = place.read_bytes()
    with pytest.raises(UserError, match=r"which weaksam did not write.*--overwrite"):
        make(step(path), STAGE, context(tmp_path))
    make(step(path), STAGE, context(tmp_path, overwrite=True))
    open_artifact(path, SCHEMA).close()
    assert not path.is_symlink()
    assert not is_link or precious.read_bytes() == before


def test_a_link_in_the_place_of_a_receipt_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    path, precious = tmp_path / "a.h5", tmp_path / "b.json"
    record = make(step(path), STAGE, context(tmp_path))
    receipt_path(path).rename(precious)
    receipt_path(path).symlink_to(precious)
    before = precious.read_bytes()
    assert make(step(path), STAGE, context(tmp_path)) == record
    make(step(path, knob=2), STAGE, context(tmp_path, overwrite=True))
    assert precious.read_bytes() == before
    receipt_path(path).unlink()
    receipt_path(path).symlink_to(receipt_path(path))
    make(step(path), STAGE, context(tmp_path))
    assert not receipt_path(path).is_symlink()


def test_a_schema_may_get_columns_and_old_files_are_read(tmp_path: Path) -> None:
    """A version-1 file under a reader with one more column was called damaged."""
    path = tmp_path / "cam" / "a.h5"
    make(step(path), STAGE, context(tmp_path))
    younger = replace(
        SCHEMA,
        version=2,
        columns=(*SCHEMA.columns, Column("score", "float32", since=2, fill=np.nan)),
        image_columns=(*SCHEMA.image_columns, Column("weight", "int8", (2,), since=2, fill=1)),
        blobs=(*SCHEMA.blobs, Column("more", "uint8", since=2)),
    )
    younger = replace(
        younger, columns=tuple(replace(c, name="gain") if c.name == "score" else c for c in younger.columns)
    )
    with open_artifact(path, younger) as artifact:
        assert artifact.format_version == 1
        assert np.isnan(artifact.column("gain")).all() and len(artifact.column("gain")) == len(
            artifact.column("kind")
        )
        assert artifact.rows("i4", "gain").shape == (7,)
        assert artifact.image_value("i4", "weight").tolist() == [1, 1]
        assert [len(blob) for blob in artifact.blobs("i4", "more")] == [0] * 7
        np.testing.assert_array_equal(artifact.rows("i4", "boxes"), rows_of("i4").columns["boxes"])
    with pytest.raises(UserError, match="damaged"):
        open_artifact(path, replace(younger, columns=tuple(replace(c, since=1) for c in younger.columns)))


@pytest.mark.parametrize("kind", ["rows", "entries"])
def test_a_shard_under_another_number_is_made_again(tmp_path: Path, kind: str) -> None:
    """It was merged, certified by a receipt, and `--overwrite` called it fresh."""

    def item(path: Path) -> Step:
        return step(path) if kind == "rows" else entries(path.with_suffix(".json"))

    whole = item(tmp_path / "whole.h5")
    make(whole, STAGE, context(tmp_path))
    again = item(tmp_path / "a.h5")
    plan = again.run.plan(Job(context(tmp_path), again.path, identify(again, STAGE, context(tmp_path))))  # type: ignore[attr-defined]
    function = again.run.predictor.open()  # type: ignore[attr-defined]
    first = [(image, function(image)) for image in plan.images(0)]
    data = shard_bytes(plan.schema, first, [])
    for index in range(len(plan)):
        write_shard(FileOps(), plan, index, data)
    make(again, STAGE, context(tmp_path))
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_overwrite_looks_at_what_a_receipt_certifies(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    record = make(step(path), STAGE, context(tmp_path))
    expected = path.read_bytes()
    with h5py.File(path, "r+") as handle:
        handle["image_ids"][1] = handle["image_ids"][0]
    forged = record.model_copy(update={"sha256": of_file(path), "size": path.stat().st_size})
    write_receipt(FileOps(), path, forged)
    make(step(path), STAGE, context(tmp_path, overwrite=True))
    assert path.read_bytes() == expected


@dataclass
class Meanwhile(FileOps):
    """Another command finishes just before the artifact gets its name."""

    target: Path
    other: Callable[[], object]
    done: bool = False

    def before(self, operation: str, path: Path) -> None:
        if operation == "replace" and path == self.target and not self.done:
            self.done = True
            self.other()


@pytest.mark.parametrize(
    ("knob", "overwrite", "told"), [(2, False, True), (2, True, False), (1, False, False)]
)
def test_of_two_recipes_for_one_file_the_later_is_told(
    tmp_path: Path, knob: int, overwrite: bool, told: bool
) -> None:
    """Both ended with 0, and one was lost."""
    path = tmp_path / "a.h5"
    ops = Meanwhile(path, lambda: make(step(path, knob=1), STAGE, context(tmp_path)))
    later = context(tmp_path, ops, overwrite=overwrite)
    if told:
        with pytest.raises(UserError, match=r"another command made it .*--overwrite .*--variant"):
            make(step(path, knob=knob), STAGE, later)
    else:
        make(step(path, knob=knob), STAGE, later)
    record = read_receipt(path)
    assert record is not None
    verify(path, record)
    assert record.identity.recipe == {"knob": 1 if told else knob}
    assert not [item for item in tmp_path.iterdir() if item.name.endswith(".tmp")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_receipt_is_never_written_for_the_file_of_another_command(tmp_path: Path, overwrite: bool) -> None:
    """It was about whatever lay there when it was written."""
    path = tmp_path / "a.h5"
    ops = Meanwhile(
        receipt_path(path), lambda: make(step(path, knob=2), STAGE, context(tmp_path, overwrite=True))
    )
    with pytest.raises(UserError, match="another command replaced it meanwhile"):
        make(step(path, broken=("i2",)), STAGE, context(tmp_path, ops, overwrite=overwrite))
    record = read_receipt(path)
    assert record is not None
    verify(path, record)
    assert record.identity.recipe == {"knob": 2}


def test_two_processes_with_two_recipes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    children = []
    for knob in (1, 2):
        child = os.fork()
        if not child:
            try:
                make(step(path, knob=knob), STAGE, context(tmp_path))
            except UserError:
                os._exit(2)
            os._exit(0)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, 2]
    record = read_receipt(path)
    assert record is not None
    verify(path, record)
