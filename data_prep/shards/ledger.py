"""The memory of a build: the common plan, what each finished shard holds, and how both become a manifest.

    OUT/.work/plan.json      the plan at work: settings, shards with their digests, what was set aside while planning
    OUT/.work/NAME.json      one finished shard: its entry in the manifest, counts, images, what was set aside of it
    OUT/plan.jsonl           the same lines of all shards of a finished build, for the day when the source has grown

A shard is finished when its line is there, carries the plan's digest, and its two files have the size and hash the
line says. Several processes may finish shards of one plan; the manifest is written once all are there, and last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogaze.data.schema import ShardError, parse_json
from cogaze.data.shards import MANIFEST, QUARANTINE, read_manifest
from data_prep.records import counts_of
from data_prep.shards.writer import write_whole
from data_prep.stats import Totals

WORK, HEADER, PLAN = ".work", "plan.json", "plan.jsonl"
OURS = re.compile(
    r"([a-z][a-z0-9_]*-[0-9]{6}\.(tar|index\.json)|manifest\.json|quarantine\.jsonl|plan\.jsonl)(\.partial)?|\.work"
)
NAMED = 5  # missing shards that a message names


class BuildError(ValueError):
    """The build cannot be done as asked; the message says why and what to do."""


class Ledger:
    """The finished shards of a folder by name: those of the build at work before those of the finished build."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._places: dict[str, tuple[int, int]] = {}  # offset and size of each line of plan.jsonl
        self._damaged = False
        with suppress(FileNotFoundError), open(out / PLAN, "rb") as lines:
            offset = 0
            for line in lines:
                try:
                    self._places[parse_json(line)["name"]] = (offset, len(line))
                except (ValueError, KeyError, TypeError):
                    self._damaged = True
                offset += len(line)

    def line(self, name: str, digest: str) -> bytes | None:
        """The line of a shard that is finished as this plan wants it; None otherwise."""
        for found in (self._from_work(name), self._from_plan(name)):
            with suppress(KeyError, TypeError, ValueError, OSError):
                row = parse_json(found or b"")
                if row["digest"] == digest and self._files_fit(name, row["entry"]):
                    return found
        return None

    def earlier(self, manifest: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
        """Name and image digests of each shard of the finished build. Raises BuildError where its plan is damaged."""
        if self._damaged or any(entry["name"] not in self._places for entry in manifest["shards"]):
            raise BuildError(f"{self.out / PLAN}: is damaged or of another build; --overwrite builds anew")
        for name in self._places:
            yield name, parse_json(self._from_plan(name) or b"")["images"]

    def stands(self, name: str, manifest: Mapping[str, Any] | None) -> bool:
        """Whether a shard belongs to the finished build (its manifest, None without one): then it stays as it is."""
        return manifest is not None and name in self._places

    def _from_work(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self.out / WORK / f"{name}.json").read_bytes()
        return None

    def _from_plan(self, name: str) -> bytes | None:
        if name not in self._places:
            return None
        offset, size = self._places[name]
        with open(self.out / PLAN, "rb") as lines:
            lines.seek(offset)
            return lines.read(size)

    def _files_fit(self, name: str, entry: Mapping[str, Any] | None) -> bool:
        """Size of the tar, hash of the index: cheap, and the tar was on the disk before it got its name."""
        if entry is None:  # none of its images could be used
            return True
        tar, index = self.out / f"{name}.tar", self.out / f"{name}.index.json"
        fits: bool = tar.stat().st_size == entry["bytes"]
        return fits and hashlib.sha256(index.read_bytes()).hexdigest() == entry["index_sha256"]


def record_finished(out: Path, line: Mapping[str, Any]) -> None:
    """Note that a shard, whose files are there, is finished."""
    data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
    write_whole(out / WORK / f"{line['name']}.json", data + b"\n")


def finished_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a finished build at `out`, None where there is none. Raises BuildError for one without plan."""
    if not (out / MANIFEST).exists():
        return None
    try:
        manifest = read_manifest(out)
    except ShardError as error:
        raise BuildError(f"{error} (--overwrite replaces it)") from None
    if not (out / PLAN).exists():
        raise BuildError(f"{out}: already holds a build, without the {PLAN} it could grow by; --overwrite replaces it")
    return manifest


# ------------------------------------------------------------------------------------------------ the common plan
def write_header(out: Path, header: Mapping[str, Any], shared: bool) -> None:
    """Write down the plan at work. `shared`: other processes work on it too, so a different one there is refused."""
    data = json.dumps(header, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n"
    path = out / WORK / HEADER
    if not shared:
        write_whole(path, data)
        return
    mine = path.with_name(f"{HEADER}.{os.getpid()}-{os.uname().nodename}.partial")
    write_whole(mine, data)
    try:
        os.link(mine, path)  # the first part wins, whoever it is
    except FileExistsError:
        if path.read_bytes() != data:
            raise BuildError(
                f"{path}: another part planned something else: the source, the settings or the version changed in "
                f"between. Remove {out} and start all parts again"
            ) from None
    finally:
        mine.unlink()


def finish(out: Path) -> dict[str, Any]:
    """Put the manifest together from the finished shards of the plan at work, write it, and return it.

    Raises BuildError: no plan, shards missing (the message names them and says what to do), not one usable image.
    """
    try:
        header = parse_json((out / WORK / HEADER).read_bytes())
    except FileNotFoundError:
        if (out / MANIFEST).exists():
            raise BuildError(f"{out}: is finished already, there is nothing to merge") from None
        raise BuildError(f"{out}: holds no build at work; start one with `cogaze data build --part 1/N`") from None
    except ValueError as error:
        raise BuildError(f"{out / WORK / HEADER}: is damaged ({error}); start the build again") from None
    ledger = Ledger(out)
    missing = [s["name"] for s in header["shards"] if ledger.line(s["name"], s["digest"]) is None]
    if missing:
        names = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise BuildError(
            f"{out}: {len(missing)} of {len(header['shards'])} shards are missing: {names}. Start the parts that did "
            "not finish again (any --part i/n of the same command goes on, or the command without --part)"
        )
    entries, totals, rows = [], Totals(), list(header["quarantine"])
    versions: dict[str, dict[str, None]] = {}
    partial = out / f"{PLAN}.partial"
    with open(partial, "wb") as lines:
        for shard in header["shards"]:
            data = ledger.line(shard["name"], shard["digest"]) or b""
            line = parse_json(data)
            lines.write(data)
            rows += line["quarantine"]
            for name, version in line["made_by"].items():
                versions.setdefault(name, {})[version] = None
            if line["entry"] is not None:
                entries.append({"name": line["name"], "split": line["split"], **line["entry"]})
                totals.merge(Totals.restored(line["totals"]))
        lines.flush()
        os.fsync(lines.fileno())
    lost, kept = counts_of(rows)
    ordered = sorted(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
    text = "".join(f"{row}\n" for row in ordered).encode("utf-8", "backslashreplace")
    write_whole(out / QUARANTINE, text)
    if not entries:
        partial.unlink()
        shutil.rmtree(out / WORK)
        worst = ", ".join(f"{number}x {reason}" for reason, number in lost.most_common(4))
        raise BuildError(f"not one usable image ({worst or 'the source is empty'}); see {out / QUARANTINE}")
    os.replace(partial, out / PLAN)
    manifest = {
        **header["manifest"],
        "shards": entries,
        "totals": totals.as_dict(),
        "quarantined": dict(sorted(lost.items())),
        "noted": dict(sorted(kept.items())),
    }
    manifest["build"] |= {name: ", ".join(found) for name, found in versions.items()}
    _remove_strays(out, {shard["name"] for shard in header["shards"]})
    write_whole(out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode() + b"\n")
    shutil.rmtree(out / WORK)
    return manifest


# ------------------------------------------------------------------------------------------------ the folder
def refuse_if_in_use(out: Path) -> None:
    """Raises BuildError when `out` is a file or holds what a build never writes."""
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: is a file; --out must be a folder")
    if not out.exists():
        return
    foreign = sorted(path.name for path in out.iterdir() if not OURS.fullmatch(path.name))
    if foreign:
        raise BuildError(f"{out}: holds other files ({', '.join(foreign[:3])}); give an empty or a new folder")


def clear(out: Path) -> None:
    """Remove an earlier build, the manifest first: from then on the folder counts as unfinished."""
    for path in sorted(out.iterdir(), key=lambda path: path.name != MANIFEST):
        if path.name != WORK:
            path.unlink()
    for path in (out / WORK).iterdir():
        path.unlink()


def _remove_strays(out: Path, planned: set[str]) -> None:
    """Remove what an earlier, other plan left: shards that nobody names."""
    for path in out.iterdir():
        name = path.name.partition(".")[0]
        if path.suffix == ".partial" or (re.fullmatch(r"[a-z][a-z0-9_]*-[0-9]{6}", name) and name not in planned):
            path.unlink()
