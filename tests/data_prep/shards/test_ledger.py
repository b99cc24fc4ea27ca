"""What a build remembers: killed it goes on, parts make what one build makes, a grown source adds shards."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cogaze.data.shards import ShardSet
from data_prep import build as build_module
from data_prep.build import BuildError, build
from data_prep.check import check
from data_prep.records import ImageRecord, Quarantine
from data_prep.shards.ledger import WORK, finish
from data_prep.shards.plan import LATE
from data_prep.shards.writer import ShardWriter
from tests.hand_made import IMAGE_SIZE, record, records

PER_SHARD: dict[str, Any] = {"image_size": IMAGE_SIZE, "images_per_shard": 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def made(tmp_path: Path) -> list[ImageRecord]:
    made = records(tmp_path / "raw")
    made[6].path.write_bytes(b"<html>")
    return made


@pytest.fixture
def whole(made: list[ImageRecord], tmp_path: Path) -> dict[str, bytes]:
    """The files of an undisturbed build."""
    build(made, tmp_path / "whole", quarantine=found_by_the_reader(), **PER_SHARD)
    return contents(tmp_path / "whole")


def found_by_the_reader() -> Quarantine:
    quarantine = Quarantine()
    quarantine.add("made", "study without a report", id="s-99")
    return quarantine


# ------------------------------------------------------------------------------------------------ killed and resumed
def killed_at(renames: int, made: list[ImageRecord], out: Path) -> int | None:
    """Build in a process that gets SIGKILL in place of its n-th rename; its exit code."""

    def child() -> None:
        left = renames
        rename = os.replace

        def count(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)

        os.replace = count  # type: ignore[assignment]
        build(made, out, quarantine=found_by_the_reader(), **PER_SHARD)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def test_killed_at_every_rename(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    """Plan, tar, index and note of each shard, quarantine, plan, manifest: whatever is not renamed is not there."""
    shards = sum(name.endswith(".tar") for name in whole)
    renames = 1 + 3 * shards + 3
    for kill in range(1, renames + 1):
        out = tmp_path / f"killed-{kill}"
        assert killed_at(kill, made, out) == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        left = {path.name: path.read_bytes() for path in out.glob("*-00*") if path.suffix != ".partial"}
        assert left == {name: whole[name] for name in left}  # what is there is whole
        noted, begun = divmod(min(max(0, kill - 2), 3 * shards), 3)
        assert len(left) == 2 * noted + begun
        calls: list[tuple[int, int]] = []
        build(
            made,
            out,
            quarantine=found_by_the_reader(),
            progress=lambda done, total: calls.append((done, total)),  # noqa: B023
            **PER_SHARD,
        )
        assert contents(out) == whole
        kept = sum(len(json.loads(line)["images"]) for line in whole["plan.jsonl"].splitlines()[:noted])
        assert (calls[0], calls[-1]) == ((kept, 14), (14, 14))
    assert killed_at(renames + 1, made, tmp_path / "not-killed") == 0
    assert contents(tmp_path / "not-killed") == whole


def test_killed_from_outside_with_processes(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import time; from pathlib import Path\n"
        "from data_prep.build import build; from tests.hand_made import records\n"
        "if __name__ == '__main__':\n"
        f" made = records(Path({str(tmp_path / 'again')!r})); made[6].path.write_bytes(b'<html>')\n"
        f" build(made, Path({str(out)!r}), jobs=2, image_size={IMAGE_SIZE}, images_per_shard=3,\n"
        "       progress=lambda done, total: time.sleep(0.05 if done < 6 else 60))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (out / "train-000000.index.json").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
    process.communicate(timeout=60)  # its workers hold the pipe too: they end with it
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    build(made, out, quarantine=found_by_the_reader(), **PER_SHARD)
    assert contents(out) == whole


def test_a_killed_worker_is_a_message(
    made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does when memory runs out; finished shards are kept and the build goes on."""
    monkeypatch.setattr(build_module, "CHUNK", 1)  # so that there is work left to hand out
    out = tmp_path / "out"

    def kill(done: int, total: int) -> None:
        if done == 4:
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(BuildError, match=r"a worker process died, .* try fewer --jobs; finished shards are kept"):
        build(made, out, quarantine=found_by_the_reader(), jobs=2, progress=kill, **PER_SHARD)
    left = {path.name for path in out.iterdir()}
    assert {"train-000000.tar", "train-000000.index.json"} <= left
    assert not [name for name in left if "partial" in name or name == "manifest.json"]
    build(made, out, quarantine=found_by_the_reader(), **PER_SHARD)
    assert contents(out) == whole


def test_an_interrupted_build_and_other_settings(
    made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Stopped in the third shard, then asked for something else: nothing of the first settings is kept."""
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(made, out, progress=stop, image_size=40, images_per_shard=2)
    names = {path.name for path in out.iterdir()}
    assert "train-000000.tar" in names
    assert not [name for name in names if "partial" in name or name == "manifest.json"]
    (out / "train-000077.tar.partial").touch()
    build(made, out, quarantine=found_by_the_reader(), **PER_SHARD)
    assert contents(out) == whole


def test_a_damaged_shard_is_made_again(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    """In a finished build and in one at work: another size, a changed index, a lost file, a damaged note."""
    out = tmp_path / "whole"
    for damage in (
        lambda: (out / "train-000001.tar").write_bytes(b"short"),
        lambda: (out / "train-000001.index.json").write_bytes(whole["train-000001.index.json"].replace(b"0", b"1")),
        lambda: (out / "train-000001.tar").unlink(),
    ):
        damage()
        calls: list[int] = []
        build(made, out, quarantine=found_by_the_reader(), progress=lambda n, _: calls.append(n), **PER_SHARD)  # noqa: B023
        assert contents(out) == whole
        assert 14 - calls[0] == 3  # its three images and no other
    assert killed_at(8, made, tmp_path / "work") == -signal.SIGKILL
    (tmp_path / "work" / WORK / "train-000000.json").write_text("{")
    build(made, tmp_path / "work", quarantine=found_by_the_reader(), **PER_SHARD)
    assert contents(tmp_path / "work") == whole


# ------------------------------------------------------------------------------------------------ parts
def test_parts_make_what_one_build_makes(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "parts"
    shards = len([name for name in whole if name.endswith(".tar")])
    done = 0
    for number, order in ((3, -1), (1, 1)):
        part = build(made[::order], out, quarantine=found_by_the_reader(), part=(number, 3), **PER_SHARD)
        done += part["shards"]
        assert part["kept"] == 0
    names = [json.loads(line)["name"] for line in whole["plan.jsonl"].splitlines()]
    with pytest.raises(
        BuildError, match=rf"{shards - done} of {shards} shards are missing: {', '.join(names[1::3])}\."
    ):
        finish(out)
    assert not (out / "manifest.json").exists()
    assert build(made, out, quarantine=found_by_the_reader(), part=(1, 2), **PER_SHARD)["kept"] > 0  # any n goes on
    build(made, out, quarantine=found_by_the_reader(), part=(2, 2), jobs=2, **PER_SHARD)
    manifest = finish(out)
    assert contents(out) == whole
    assert manifest == json.loads(whole["manifest.json"])
    with pytest.raises(BuildError, match="is finished already"):
        finish(out)
    with pytest.raises(BuildError, match="holds no build at work"):
        finish(tmp_path / "nothing")
    (tmp_path / "damaged" / WORK).mkdir(parents=True)
    (tmp_path / "damaged" / WORK / "plan.json").write_text("{")
    with pytest.raises(BuildError, match=r"is damaged .* start the build again"):
        finish(tmp_path / "damaged")


def test_parts_of_different_plans_do_not_mix(made: list[ImageRecord], tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(made, out, part=(1, 2), **PER_SHARD)
    for other, settings in ((made, {"image_size": 40, "images_per_shard": 3}), (made[:-1], PER_SHARD)):
        with pytest.raises(BuildError, match="another part planned something else"):
            build(other, out, part=(2, 2), **settings)
    with pytest.raises(BuildError, match="--overwrite and --part"):
        build(made, out, part=(2, 2), overwrite=True, **PER_SHARD)
    assert not list(out.rglob("*.partial"))


def test_two_builds_at_one_shard(made: list[ImageRecord], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    busy = r"train-000000\.tar\.partial: another build is writing this file"
    with ShardWriter(out, "train-000000"), pytest.raises(BuildError, match=busy):
        build(made, out, **PER_SHARD)
    build(made, out, **PER_SHARD)


# ------------------------------------------------------------------------------------------------ growth
def newcomers(root: Path) -> list[ImageRecord]:
    """Five images of three new studies, one of a known patient, and a late image of study-0."""
    return [
        record(root, "image-20-0", "study-20", "patient-0"),
        record(root, "image-20-1", "study-20", "patient-0"),
        record(root, "image-21-0", "study-21", "patient-21"),
        record(root, "image-22-0", "study-22", "patient-22", "test"),
        record(root, "image-0-9", "study-0", "patient-0"),
    ]


def test_a_grown_source_adds_shards(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "whole"
    grown = newcomers(tmp_path / "raw") + made
    manifest = build(grown, out, quarantine=found_by_the_reader(), **PER_SHARD)
    after = contents(out)
    tars = {name for name in whole if "-00" in name}
    assert {name: after[name] for name in tars} == {name: whole[name] for name in tars}
    old = json.loads(whole["manifest.json"])
    entries = {entry["name"]: entry for entry in manifest["shards"]}
    assert [entries[entry["name"]] for entry in old["shards"]] == old["shards"]
    new = [entry for entry in manifest["shards"] if entry not in old["shards"]]
    trains = sum(entry["split"] == "train" for entry in old["shards"])
    assert [(entry["name"], entry["images"]) for entry in new] == [(f"train-{trains:06d}", 3), ("test-000001", 1)]
    assert manifest["totals"]["images"] == old["totals"]["images"] + 4
    assert manifest["totals"]["patients"] == old["totals"]["patients"] + 2  # patient-0 is known
    assert manifest["quarantined"] == {**old["quarantined"], LATE: 1}
    assert check(out)["ok"]
    shards = ShardSet.open(out)
    images = {shards.read_meta("train", position)["image_id"] for position in range(shards.size("train"))}
    assert {"image-20-0", "image-20-1", "image-21-0"} <= images
    assert "image-0-9" not in images
    # The same again changes nothing; nor does growing in parts, or with other processes.
    build(grown[::-1], out, quarantine=found_by_the_reader(), jobs=2, **PER_SHARD)
    assert contents(out) == after
    build(made, tmp_path / "parts", quarantine=found_by_the_reader(), **PER_SHARD)
    for number in (1, 2):
        build(grown, tmp_path / "parts", quarantine=found_by_the_reader(), part=(number, 2), **PER_SHARD)
    assert (tmp_path / "parts" / "manifest.json").read_bytes() == whole["manifest.json"]  # readable all the while
    finish(tmp_path / "parts")
    assert contents(tmp_path / "parts") == after


def test_growth_killed_and_resumed(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    grown = made + newcomers(tmp_path / "raw")
    reference = tmp_path / "reference"
    for source in (made, grown):
        build(source, reference, quarantine=found_by_the_reader(), **PER_SHARD)
    for kill in range(1, 1 + 3 * 2 + 3 + 1):  # plan, three renames a new shard, quarantine, plan, manifest
        out = tmp_path / f"killed-{kill}"
        build(made, out, quarantine=found_by_the_reader(), **PER_SHARD)
        assert killed_at(kill, grown, out) == -signal.SIGKILL
        assert (out / "manifest.json").read_bytes() == whole["manifest.json"]  # the old build is there all the while
        assert ShardSet.open(out).size("train") == 8
        build(grown, out, quarantine=found_by_the_reader(), **PER_SHARD)
        assert contents(out) == contents(reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[1:], "1 images of the finished build are not in the source any more"),
        (lambda made: [replace(made[0], findings="New."), *made[1:]], "1 images .* described otherwise"),
        (lambda made: [replace(row, source="other") for row in made], "14 images .* not in the source"),
    ],
)
def test_a_source_that_shrank_or_changed_is_refused(
    change: Callable[[list[ImageRecord]], list[ImageRecord]],
    message: str,
    made: list[ImageRecord],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    out = tmp_path / "whole"
    with pytest.raises(BuildError, match=message):
        build(change(made), out, **PER_SHARD)
    assert contents(out) == whole
    build(change(made), out, overwrite=True, **PER_SHARD)
    assert check(out)["ok"]


def test_a_build_without_its_plan_cannot_grow(made: list[ImageRecord], whole: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "whole" / "plan.jsonl"
    lines = whole["plan.jsonl"].splitlines(keepends=True)
    for damage in (lines[1:], [*lines[:-1], lines[-1][:50]], [b"[]\n", *lines]):
        path.write_bytes(b"".join(damage))
        with pytest.raises(BuildError, match=r"plan\.jsonl: is damaged or of another build; --overwrite"):
            build(made, tmp_path / "whole", **PER_SHARD)
    path.unlink()
    with pytest.raises(BuildError, match=r"without the plan\.jsonl it could grow by; --overwrite"):
        build(made, tmp_path / "whole", **PER_SHARD)
    build(made, tmp_path / "whole", quarantine=found_by_the_reader(), overwrite=True, **PER_SHARD)
    assert contents(tmp_path / "whole") == whole
