"""The rows of a table, by its mapping, as records.

    table row (+ joined tables) -> filters -> image file -> ids, split, view, texts, labels -> ImageRecord

The mapping (data_prep/table/mapping.py) says which column means what. Every row, and with `image.glob` every file it
finds, ends in a record or in the quarantine. Rows that are equal in all the columns used count once; rows that
contradict each other about one image are all set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from cogaze.observations import VIEWS, view_index
from data_prep.images import ImageError
from data_prep.records import ImageRecord, Quarantine, SourceError
from data_prep.sections import LAST_PARAGRAPH, clean_text, sections
from data_prep.splits import one_spelling, share_of, split_by_hash
from data_prep.table.expressions import Lookup, expand
from data_prep.table.ids import Ids
from data_prep.table.images import Aside, Images
from data_prep.table.labels import labels_of
from data_prep.table.mapping import TableMapping, names_of
from data_prep.table.mapping_file import load_mapping
from data_prep.table.rows import CONTRADICTING, Cells, TableRows, plain
from data_prep.tables import MALFORMED, number, open_text

SPLIT_WORDS = {
    "train": "train", "training": "train", "validate": "validate", "validation": "validate", "valid": "validate",
    "val": "validate", "dev": "validate", "test": "test", "testing": "test",
}  # fmt: skip
TEXTS = ("findings", "impression", "indication", "history")
# Of a DICOM file, unless a filter of the mapping says otherwise (PS3.3 C.7.3.1.1.1; DR is common, though no such term).
# Left out beside CT and MR: RF (swallows and loops too), OT and SC (scanned paper too); a filter may take them in.
RADIOGRAPHS = ("CR", "DX", "DR", "RG", "")
# Those that a message names: in a damaged header anything may stand there.
OTHER_MODALITIES = (
    "CT", "MR", "NM", "PT", "US", "MG", "XA", "RF", "PX", "IO", "ES", "OT", "SC", "SR", "KO", "PR", "HC",
)  # fmt: skip
FILTERED = "left out by a filter of the mapping"
DUPLICATE = "duplicate row"
KEPT = (FILTERED, DUPLICATE)  # nothing of the data set is missing for these


def read(root: Path, quarantine: Quarantine, *, mapping: Path | str | None = None) -> Iterator[ImageRecord]:
    """The images that the table names, as records, in its order. `mapping`: a file, or the name of a shipped one.

    Set aside with a reason: rows that cannot be read, that a filter leaves out, whose image is missing or outside the
    root, without a report where the mapping requires one, with an unknown split word; files that no row names.
    Raises SourceError at once: no or a bad mapping, a missing table, list or column (with the nearest names there are).
    """
    if mapping is None:
        raise SourceError("--source table needs --mapping FILE (or the name of a shipped mapping); see docs/table.md")
    plan = load_mapping(mapping)
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder: give the one that the mapping's paths start from")
    tables = TableRows(root, plan, quarantine) if plan.table else None
    return _records(plan, tables, _Splits(root, plan), Images(root, plan), quarantine)


def _records(
    plan: TableMapping, tables: TableRows | None, splits: _Splits, files: Images, quarantine: Quarantine
) -> Iterator[ImageRecord]:
    context = _Context(plan, files)
    contradicting, shared = _contradicting(tables, context) if tables else (set(), set())
    seen: set[str] = set()
    for where, cells in tables.read(quarantine) if tables else files.rows():
        row = _Row(context, cells)
        try:
            image_id = row.image_id()
            if image_id in contradicting:
                raise Aside(CONTRADICTING, where)
            if row.relative in shared:
                raise Aside("one image file for several patients", where)
            if image_id in seen and tables is None:
                raise Aside("second file of one image id", "the first one is used")
            if image_id in seen:
                raise Aside(DUPLICATE, f"{where}; the first row is used")
            row.filter()
            record = row.record(image_id, splits)
            seen.add(image_id)
            yield record
        except Aside as aside:
            reason, detail = aside.args
            path = row.relative or None
            quarantine.add(plan.source, reason, id=row.known_id, path=path, detail=detail, kept=reason in KEPT)
        except ImageError as error:  # of a DICOM header
            quarantine.add(plan.source, error.reason, id=row.known_id, path=row.relative or None, detail=error.detail)
        except ValueError as error:
            quarantine.add(plan.source, MALFORMED, id=row.known_id, path=plan.table, detail=f"{where}: {error}")
    if tables:
        for path in files.unnamed():
            quarantine.add(plan.source, "image file that no row names", path=path)
    for path in files.copies:
        quarantine.add(plan.source, "second file of one image name", path=path, kept=True)


def _contradicting(tables: TableRows, context: _Context) -> tuple[set[str], set[str]]:
    """The image ids whose rows differ, and the files that globs find for rows of several patients ("frontal.png" in
    each patient's folder, and no more than that in the table).

    A pass of its own, so that memory holds a hash an image and no record.
    """
    first: dict[str, int] = {}
    patients: dict[str, str] = {}
    differing: set[str] = set()
    shared: set[str] = set()
    for _, cells in tables.read(Quarantine()):
        row = _Row(context, cells)
        try:
            image_id = row.image_id()
            if context.plan.image.glob:
                patient = one_spelling(row.value(context.plan.ids.patient))
                if patients.setdefault(row.relative, patient) != patient:
                    shared.add(row.relative)
        except (Aside, ValueError, ImageError):
            continue
        digest = hash(tuple(cells.values()))
        if first.setdefault(image_id, digest) != digest:
            differing.add(image_id)
    return differing, shared


# ------------------------------------------------------------------------------------------------ one row
class _Context:
    """What the rows of one reading share."""

    def __init__(self, plan: TableMapping, files: Images) -> None:
        self.plan, self.files = plan, files
        self.blank = frozenset(word.lower() for word in plan.blank)
        self.images, self.studies, self.patients = Ids("image"), Ids("study"), Ids("patient")
        named = [name for rule in plan.filters for name, _ in names_of(rule.column)]
        self.radiographs_only = "dicom.modality" not in named


class _Row:
    """One row and its image file, looked up name by name."""

    def __init__(self, context: _Context, cells: Cells) -> None:
        self.context, self.cells = context, cells
        self.plan, self.files, self.blank = context.plan, context.files, context.blank
        self.known_id: str | None = None
        self.relative = ""

    def image_id(self) -> str:
        """The row's image id, after finding its file. Raises Aside, ValueError, ImageError."""
        self.relative = self.files.find(self.of_cell) if self.plan.table else self.cells[""]
        self.known_id = found = self.context.images.clean(self.value(self.plan.ids.image))
        return found

    def of_cell(self, name: str) -> str:
        """A column; blank words are ""."""
        text = self.cells[plain(name)]
        return "" if text.lower() in self.blank else text

    def of_any(self, name: str) -> str:
        """A column, or one of the names with a dot."""
        if "." not in name:
            return self.of_cell(name)
        if name.startswith("dicom."):
            return str(getattr(self.files.header(self.relative), name.removeprefix("dicom.")))
        if name.startswith("file."):
            file = self.relative.rpartition("/")[2]
            return {"file.name": file, "file.stem": _stem(file), "file.path": self.relative}[name]
        if not name.startswith("path."):
            return self.of_cell(name)
        found = re.search(self.plan.path_regex, self.relative)
        if found is None:
            raise Aside("path does not fit path_regex", "")
        return found[name.removeprefix("path.")] or ""

    def value(self, expression: str) -> str:
        return expand(expression, self.of_any)

    def filter(self) -> None:
        for rule in self.plan.filters:
            word = self.value(rule.column).lower()
            words = {text.lower() for text in rule.keep or rule.drop}
            if (word in words) != bool(rule.keep):
                told = "" if "dicom." in rule.column else f": {word[:40] or 'blank'}"  # a header may name the patient
                raise Aside(FILTERED, f"{rule.column}{told}")

    def record(self, image_id: str, splits: _Splits) -> ImageRecord:
        plan = self.plan
        if not self.files.exists(self.relative):
            raise Aside("image file missing", "")
        if self.context.radiographs_only and self.files.is_dicom(self.relative):
            modality = self.files.header(self.relative).modality.upper()
            if modality not in RADIOGRAPHS:
                told = f"modality {modality}" if modality in OTHER_MODALITIES else "another modality"
                raise Aside("not a radiograph", f"{told}; a filter on dicom.modality may keep it")
        study = self.context.studies.clean(self.value(plan.ids.study)) if plan.ids.study else image_id
        patient = self.context.patients.clean(self.value(plan.ids.patient))
        texts = self.texts()
        if plan.text.required and texts["findings"] is None and texts["impression"] is None:
            raise Aside("report without findings and impression", f"study {study}")
        labels = labels_of(plan.labels, self.value)
        return ImageRecord(
            source=plan.source,
            image_id=image_id,
            study_id=study,
            patient_id=patient,
            split=splits.of(self.value, patient),
            view=self.view(),
            path=self.files.root / self.relative,
            relative_path=self.relative,
            labels=labels,
            label_source=plan.labels.source if plan.labels and labels else None,
            size=self.size(),
            **texts,
        )

    def view(self) -> str:
        if self.plan.view is None:
            return "UNKNOWN"
        word = " ".join(self.value(self.plan.view.column).lower().split())
        return self.plan.view.words.get(word, VIEWS[view_index(word)])

    def size(self) -> tuple[int, int] | None:
        """(width, height) in px of the table; None where it has none. Raises ValueError for what is no number."""
        if self.plan.size is None:
            return None
        width, height = number(self.value(self.plan.size.width)), number(self.value(self.plan.size.height))
        return (int(width), int(height)) if 1 <= width < 1e6 and 1 <= height < 1e6 else None

    def texts(self) -> dict[str, Any]:
        """The four texts: a column of its own goes before the section of a whole report."""
        spec = self.plan.text
        found = dict(_sections(report)) if (report := self._joined(spec.report, "\n")) else {}
        if found.get(LAST_PARAGRAPH):  # neither findings nor impression has a header
            found["findings"] = found[LAST_PARAGRAPH]
        own = {name: clean_text(self._joined(columns, " ")) for name in TEXTS if (columns := getattr(spec, name))}
        return {name: own.get(name) or found.get(name) for name in TEXTS}

    def _joined(self, expressions: tuple[str, ...], between: str) -> str:
        return between.join(text for text in map(self.value, expressions) if text)


def _stem(file: str) -> str:
    """As pathlib's, without the cost of a path."""
    dot = file.rfind(".")
    return file[:dot] if 0 < dot < len(file) - 1 else file


@lru_cache(maxsize=16)  # the images of a study have one report, and stand together in most tables
def _sections(report: str) -> dict[str, str | None]:
    return sections(report)


# ------------------------------------------------------------------------------------------------ splits
class _Splits:
    """The split of each image, by column, lists or hash."""

    def __init__(self, root: Path, plan: TableMapping) -> None:
        self.plan, self.source = plan.split, plan.source
        self.words = {**SPLIT_WORDS, **{word.lower(): split for word, split in plan.split.words.items()}}
        self.listed: dict[str, str] = {}
        for split, name in plan.split.lists.items():
            path = root / name
            try:
                with open_text(path) as stream:
                    lines = [line.split(",")[0].strip() for line in stream]
            except OSError as error:
                raise SourceError(f"{path}: the list of split.lists cannot be read ({error.strerror})") from None
            for line in filter(None, lines):
                if self.listed.setdefault(line, split) != split:
                    self.listed[line] = "several"

    def of(self, value: Lookup, patient: str) -> str:
        """train, validate or test. Raises Aside."""
        plan = self.plan
        if plan.shares:
            shares = plan.shares
            return split_by_hash(self.source, patient, shares.get("train", 0), shares.get("validate", 0), plan.seed)
        if plan.lists:
            name = value(plan.name)
            split = self.listed.get(name) or self.listed.get(Path(name).stem, "")
            if split == "several":
                raise Aside("image in two split lists", "")
            if not split:
                raise Aside("image in no split list", "")
        else:
            word = value(plan.column).lower()
            split = self.words.get(word, "")
            if not split:
                raise Aside("unknown split word", word[:40] or "blank")
        if split == "train" and plan.validate_share and share_of(self.source, patient, plan.seed) < plan.validate_share:
            return "validate"
        return split
