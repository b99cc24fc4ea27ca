"""PHANTOM.json, the mark of a drawn collection: by it a build knows that what it reads was drawn.

Text of phantoms is shown where text of real data is not, so a file of that name somewhere near proves nothing. The mark
lists every file with text or ids that was written (reports, transcripts, tables) by its digest, and speaks for a
collection only if each of those that are there now is one of them. A picture cannot tell what nobody reads out of it,
and those that no table names are not read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.phantom.mimic_files import JPG

MARK = "PHANTOM.json"
TELLING = (".csv", ".csv.gz", ".txt", ".json")  # endings of the files that a reader takes text or ids from
DIGITS = 16  # hexadecimal, of the sha256: it must tell files apart, not withstand a forger


def digests(home: Path, folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(path below `home`, digest) of every telling file in these folders below it, in the order of their paths."""
    for folder in sorted(folders):
        for parent, inner, names in os.walk(folder):
            inner.sort()
            for path in (Path(parent, name) for name in sorted(names) if name.endswith(TELLING)):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
                yield path.relative_to(home).as_posix(), digest


def home_of(jpg: Path) -> Path | None:
    """The folder with the mark, for the mimic-cxr-jpg folder that a reader has found; None where there is none."""
    folder = jpg.resolve()
    return folder.parent if folder.name == JPG and (folder.parent / MARK).is_file() else None


def is_marked(home: Path) -> bool:
    """Whether the mark at `home` lists files; those of early versions did not, and speak for nothing."""
    return bool(_listed(home))


def stranger(home: Path, folders: Iterable[Path]) -> str:
    """The first thing in these folders that the mark at `home` does not speak for; "" where it speaks for all."""
    listed = _listed(home)
    if not listed:
        return MARK
    inside = sorted({folder.resolve() for folder in folders})
    for folder in inside:
        if not folder.is_relative_to(home.resolve()):
            return folder.name
    found = digests(home.resolve(), inside)
    return next((path for path, digest in found if listed.get(path) != digest), "")


def _listed(home: Path) -> dict[str, Any]:
    try:
        mark = json.loads((home / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    files = mark.get("files") if isinstance(mark, dict) else None
    return files if isinstance(files, dict) else {}
