"""What a reader yields: plain records, one per image, with nothing decoded yet.

    raw files -- reader --> ImageRecord ... -- build --> shard samples

A reader is one module with one function, `read(root, quarantine, **options) -> Iterator[ImageRecord]`. Whatever it
cannot use it hands to the Quarantine with a reason; it never raises for a bad row and never drops one silently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Columns of Reading.fixations, float32. x, y are fractions of the image (0..1 inside, outside allowed), start and end
# are seconds on the clock of the transcript, sigma_* is one degree of visual angle as a fraction of width / height.
FIXATION_COLUMNS = ("x", "y", "start", "end", "sigma_x", "sigma_y")


class SourceError(ValueError):
    """The source as a whole cannot be read (missing root, missing table); the message names path and remedy."""


@dataclass(frozen=True)
class Sentence:
    """One spoken sentence; start and end in seconds on the reading's clock."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Reading:
    """One radiologist's look at one image: what was said, and the fixations, float32 (F,6) as FIXATION_COLUMNS.

    A source that has heat maps but no fixations names their picture files in `heatmaps`: the whole report's, then one
    a sentence, None where a sentence has none. The fixations are then (0,6) and the sentences have no times (0, 0).
    """

    id: str
    reader: str
    sentences: tuple[Sentence, ...]
    fixations: np.ndarray
    heatmaps: tuple[Path | None, ...] = ()


@dataclass(frozen=True)
class ImageRecord:
    """One image of one study, as the shard sample wants it (schema in cogaze/data/shards.py).

    `labels` holds CheXbert names: 1 positive, 0 negative, -1 uncertain, None labelled but not mentioned; an absent name
    is unknown. Texts are None when absent, never "".
    """

    source: str  # "mimic_cxr", "iu_xray", ...
    image_id: str
    study_id: str
    patient_id: str
    split: str  # train | validate | test
    view: str  # a name of observations.VIEWS
    path: Path  # the image file to decode
    relative_path: str  # the same, as it stands in the source
    findings: str | None = None
    impression: str | None = None
    indication: str | None = None
    history: str | None = None
    labels: dict[str, int | None] = field(default_factory=dict)
    label_source: str | None = None
    readings: tuple[Reading, ...] = ()
    size: tuple[int, int] | None = None  # (width, height) in px that the source's tables say; the file is held to it


class Quarantine:
    """Everything set aside or noted, with its reason: one JSON line each in quarantine.jsonl.

    A row means a loss (something of the source is not in the shards) unless it is marked as `kept`. `roots` are the
    folders of the source, the one the user named first: no row says where they lie on this machine (`placed`).
    """

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self.rows: list[dict[str, Any]] = []
        self.noted: Counter[str] = Counter()

    def add(
        self,
        source: str,
        reason: str,
        *,
        id: str | None = None,
        path: Path | str | None = None,
        detail: str = "",
        count: int = 1,
        kept: bool = False,
    ) -> None:
        """Set something aside. `reason` is a short fixed phrase (it is counted), `detail` says the particulars.

        `count` is the number of things where one row stands for several. `kept`: nothing of the data set is missing for
        it (an image kept in spite of its table, fixations cleaned by rule, what is no part of the data set); such a row
        is told apart in the summary and does not fail --strict.
        """
        row: dict[str, Any] = {"source": source, "reason": reason}
        if id is not None:
            row["id"] = id
        if path is not None:
            row["path"] = str(path)
        if detail:
            row["detail"] = detail
        if count != 1:
            row["count"] = count
        if kept:
            row["kept"] = True
        self.rows.append(row)

    def note(self, name: str, number: int = 1) -> None:
        """Count something that was read and is no fault: what published counts are compared with ("images/train")."""
        self.noted[name] += number

    def counts(self) -> Counter[str]:
        """Reason -> number of things, kept ones too."""
        lost, kept = counts_of(self.rows)
        return lost + kept

    def placed(self) -> Iterator[dict[str, Any]]:
        """The rows, with paths from the first root; below another one they begin with its name, elsewhere they are the
        file's name alone. Details are freed of the roots too."""
        for row in self.rows:
            changed = dict(row)
            if "path" in row:
                changed["path"] = self._place(Path(row["path"]))
            if "detail" in row:
                changed["detail"] = self._without_roots(row["detail"])
            yield changed

    def lines(self) -> Iterator[str]:
        """The rows as JSON lines in a stable order, so that the file does not depend on the number of jobs."""
        yield from sorted(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in self.rows)

    def _place(self, path: Path) -> str:
        for number, root in enumerate(self.roots):
            if path.is_relative_to(root):
                below = path.relative_to(root)
                return (Path(root.name, below) if number else below).as_posix()
        return path.name if path.is_absolute() else path.as_posix()

    def _without_roots(self, text: str) -> str:
        """Paths below a root as `_place` gives them. A relative root of one word could be any word: it is left."""
        for number, root in enumerate(self.roots):
            if not root.name or len(root.parts) < 2:
                continue
            begun = rf"(?<![\w./-]){re.escape(str(root))}"
            below = f"{root.name}/" if number else ""
            text = re.sub(rf"{begun}/", lambda _, below=below: below, text)  # type: ignore[misc]
            text = re.sub(rf"{begun}(?![\w-]|\.\w)", lambda _, name=root.name: name, text)  # type: ignore[misc]
        return text


def counts_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Reason -> number of things, of the rows that mean a loss and of those that are kept."""
    lost: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for row in rows:
        (kept if row.get("kept") else lost)[row["reason"]] += row.get("count", 1)
    return lost, kept
