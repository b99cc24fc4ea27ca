"""MIMIC-CXR-JPG 2.x with the reports of MIMIC-CXR, and the gaze of REFLACX and EGD where their folders are found.

    mimic-cxr-jpg/  files/p10/p10000032/s50414267/<dicom_id>.jpg
                    mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz (or .csv)
                    mimic-cxr-2.1.0-test-set-labeled.csv (a radiologist's labels of test studies; they override)
    mimic-cxr/      files/p10/p10000032/s50414267.txt (the reports; PhysioNet has them in the DICOM project)

Labels are a study's, so a lateral carries what its frontal shows. Memory: the tables stay (about 0.4 GB for the 377,110
images), reports are read study by study as the records are asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

from cogaze.observations import VIEWS, view_index
from data_prep import egd as egd_reader
from data_prep import reflacx as reflacx_reader
from data_prep.labels import LabelVector, as_labels, read_label_table
from data_prep.records import ImageRecord, Quarantine, Reading, SourceError
from data_prep.sections import decode_report, sections
from data_prep.tables import Keyed, clean_id, find_table, keyed, require_table

SOURCE = "mimic_cxr"
WHERE = "get MIMIC-CXR-JPG 2.1.0 (credentialed) from https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
WHERE_REPORTS = (
    "get mimic-cxr-reports.zip (credentialed) from https://physionet.org/content/mimic-cxr/, unpack it as "
    "mimic-cxr/files/ beside mimic-cxr-jpg/, or name the folder"
)
METADATA, SPLIT = "mimic-cxr-2.0.0-metadata", "mimic-cxr-2.0.0-split"
TEST_LABELS = "mimic-cxr-2.1.0-test-set-labeled"
SPLITS = {"train": "train", "validate": "validate", "val": "validate", "test": "test"}
CODE_MEANINGS = ("ViewCodeSequence_CodeMeaning", "ProcedureCodeSequence_CodeMeaning")
# What the code columns say where ViewPosition is blank. They are shifted in some rows, so each is searched.
VIEW_MEANINGS = {
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "lateral": "LATERAL",
    "left lateral": "LL",
    "right lateral": "LATERAL",
    "left anterior oblique": "LAO",
    "right anterior oblique": "RAO",
    "left posterior oblique": "LPO",
    "right posterior oblique": "RPO",
}


class _Image(NamedTuple):
    """One image of the plan, in the order in which records come out."""

    patient: str
    study: str
    dicom_id: str
    split: str
    view: str


def discover(root: Path) -> dict[str, Path]:
    """What of "mimic-cxr-jpg", "reports", "reflacx" and "egd" lies at, in or beside `root`, each with its folder.

    `root` is the mimic-cxr-jpg folder or one that holds it; every data set may have a version folder (2.1.0), and all
    may lie under physionet.org/files as wget leaves them. What is not found is not in the dict.
    """
    holders = [root, root / "physionet.org" / "files", root / "files"]
    found: dict[str, Path] = {}
    jpg = _dataset(holders, ("mimic-cxr-jpg",), lambda folder: find_table(folder, METADATA) is not None)
    if jpg is not None:
        found["mimic-cxr-jpg"] = jpg
        if jpg in (root, *_versions(root)):  # the siblings lie beside it: .../mimic-cxr-jpg or .../mimic-cxr-jpg/2.1.0
            holders += [_above(jpg)]
    reports = _dataset(holders, ("mimic-cxr", "mimic-cxr-reports"), _has_reports)
    if reports is None and jpg is not None and _has_reports(jpg):
        reports = jpg
    gaze = {
        "reflacx": _dataset(holders, ("reflacx-xray-localization", "reflacx"), lambda f: (f / "main_data").is_dir()),
        "egd": _dataset(holders, ("egd-cxr", "egd"), lambda f: find_table(f, "master_sheet") is not None),
    }
    found.update({name: path for name, path in {"reports": reports, **gaze}.items() if path is not None})
    return found


def read(
    root: Path,
    quarantine: Quarantine,
    *,
    reports: Path | None = None,
    reflacx: Path | None = None,
    egd: Path | None = None,
    labels: Literal["chexpert", "negbio"] = "chexpert",
) -> Iterator[ImageRecord]:
    """The images of the collection as records, ordered by patient, study and image id (as text).

    Folders that are not given are discovered; without gaze folders the images have no readings. `labels` picks the rule
    based table; studies with a radiologist's test labels have those (label_source "radiologist"). Set aside with a
    reason: duplicate, contradicting or malformed rows, an image without a split, a patient in two splits, a study of
    two patients, a study without a report or with neither findings nor impression, a missing image file, and what the
    gaze readers set aside.
    Raises SourceError at once when the root, a table, a column or the reports are missing.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder: name the one that holds mimic-cxr-jpg; {WHERE}")
    found = discover(root)
    if "mimic-cxr-jpg" not in found:
        raise SourceError(f"no {METADATA}.csv or .csv.gz in {root} nor in its mimic-cxr-jpg folder: {WHERE}")
    for name, given in (("reports", reports), ("reflacx", reflacx), ("egd", egd)):
        if given is not None and not given.is_dir():
            raise SourceError(f"the {name} folder {given} does not exist")
        if given is not None:
            found[name] = _versioned(given)
    if "reports" not in found:
        raise SourceError(f"no MIMIC-CXR reports (mimic-cxr/files/p10/...) at or beside {root}: {WHERE_REPORTS}")
    jpg = found["mimic-cxr-jpg"]
    plan = _plan(jpg, quarantine)
    tables: list[tuple[str, Path]] = [(labels, require_table(jpg, f"mimic-cxr-2.0.0-{labels}", WHERE))]
    if (test_labels := find_table(jpg, TEST_LABELS)) is not None:
        tables.insert(0, ("radiologist", test_labels))
    labelled = [(name, read_label_table(path, source=SOURCE, quarantine=quarantine)) for name, path in tables]
    gaze: defaultdict[str, list[Reading]] = defaultdict(list)
    for name, read_gaze in (("reflacx", reflacx_reader.read_gaze), ("egd", egd_reader.read_gaze)):
        if name in found:
            for dicom_id, readings in read_gaze(found[name], quarantine).items():
                gaze[dicom_id].extend(readings)
    return _records(jpg, found["reports"], plan, labelled, gaze, quarantine)


def _records(
    jpg: Path,
    reports: Path,
    plan: list[_Image],
    labelled: list[tuple[str, Keyed[LabelVector]]],
    gaze: dict[str, list[Reading]],
    quarantine: Quarantine,
) -> Iterator[ImageRecord]:
    files = jpg / "files"
    for (patient, study), images in groupby(plan, key=lambda image: (image.patient, image.study)):
        folder = Path(f"p{patient[:2]}", f"p{patient}", f"s{study}")
        text, fault = _report(reports, folder)
        label_source = next((name for name, table in labelled if study in table.rows), None)
        values = next((table.rows[study] for _, table in labelled if study in table.rows), None)
        for image in images:
            path = next(
                (p for ext in (".jpg", ".png") if (p := files / folder / f"{image.dicom_id}{ext}").is_file()), None
            )
            relative = (Path("files") / folder / f"{image.dicom_id}.jpg").as_posix()
            if fault:
                quarantine.add(SOURCE, fault, id=image.dicom_id, path=relative, detail=f"study {study}")
                continue
            if path is None:
                quarantine.add(SOURCE, "image file missing", id=image.dicom_id, path=relative, detail=f"study {study}")
                continue
            yield ImageRecord(
                source=SOURCE,
                image_id=image.dicom_id,
                study_id=study,
                patient_id=patient,
                split=image.split,
                view=image.view,
                path=path,
                relative_path=path.relative_to(jpg).as_posix(),
                findings=text["findings"],
                impression=text["impression"],
                indication=text["indication"],
                history=text["history"],
                labels=as_labels(values) if values is not None else {},
                label_source=label_source,
                readings=tuple(gaze.pop(image.dicom_id, ())),
            )
    for dicom_id, readings in sorted(gaze.items()):
        for reading in readings:
            detail = f"image {dicom_id} is not among the usable images"
            quarantine.add(reading.reader, "reading without its image", id=reading.id, detail=detail)


def _plan(jpg: Path, quarantine: Quarantine) -> list[_Image]:
    """Every usable image by patient, study and image; contradictions between and within the tables are set aside."""

    def pack_metadata(row: dict[str, str]) -> tuple[str, str, str]:
        return _digits(row["subject_id"]), _digits(row["study_id"]), _view(row)

    def pack_split(row: dict[str, str]) -> tuple[str, str, str]:
        word = row["split"].lower()
        if word not in SPLITS:
            raise ValueError(f"the split {row['split'][:40]!r} is none of train, validate, test")
        return _digits(row["subject_id"]), _digits(row["study_id"]), SPLITS[word]

    metadata = keyed(
        require_table(jpg, METADATA, WHERE),
        "dicom_id",
        ("subject_id", "study_id", "ViewPosition"),
        pack_metadata,
        source=SOURCE,
        quarantine=quarantine,
        optional=CODE_MEANINGS,
    )
    split = keyed(
        require_table(jpg, SPLIT, WHERE),
        "dicom_id",
        ("subject_id", "study_id", "split"),
        pack_split,
        source=SOURCE,
        quarantine=quarantine,
        conflict="image listed twice with another split or study",
    )
    plan, splits, patients = [], defaultdict(set), defaultdict(set)
    for dicom_id, (patient, study, view) in metadata.rows.items():
        if dicom_id in split.conflicts:
            continue
        if dicom_id not in split.rows:
            quarantine.add(SOURCE, "image not in the split table", id=dicom_id, detail=f"study {study}")
        elif split.rows[dicom_id][:2] != (patient, study):
            quarantine.add(SOURCE, "metadata and split tables disagree on patient or study", id=dicom_id)
        else:
            word = split.rows[dicom_id][2]
            plan.append(_Image(patient, study, dicom_id, word, view))
            splits[patient].add(word)
            patients[study].add(patient)
    for dicom_id in split.rows.keys() - metadata.rows.keys() - metadata.conflicts:
        quarantine.add(SOURCE, "image not in the metadata table", id=dicom_id)
    usable = []
    for image in sorted(plan):
        if len(splits[image.patient]) > 1:
            detail = f"patient {image.patient}: {', '.join(sorted(splits[image.patient]))}"
            quarantine.add(SOURCE, "patient in two splits", id=image.dicom_id, detail=detail)
        elif len(patients[image.study]) > 1:
            quarantine.add(SOURCE, "study of two patients", id=image.dicom_id, detail=f"study {image.study}")
        else:
            usable.append(image)
    return usable


def _report(reports: Path, folder: Path) -> tuple[dict[str, str | None], str]:
    """(the sections of the study's report, why it cannot be used or "")."""
    relative = folder.with_suffix(".txt")
    path = next((p for base in (reports / "files", reports) if (p := base / relative).is_file()), None)
    if path is None:
        return {}, "study without a report"
    try:
        text = sections(decode_report(path.read_bytes()))
    except OSError:
        return {}, "report cannot be read"
    if text["findings"] is None and text["impression"] is None:
        return {}, "report without findings and impression"
    return text, ""


def _view(row: dict[str, str]) -> str:
    """ViewPosition as a name of VIEWS; blank or odd ones from the code meanings, else UNKNOWN."""
    index = view_index(row["ViewPosition"])
    if index:
        return VIEWS[index]
    for column in CODE_MEANINGS:
        meaning = " ".join(row.get(column, "").lower().split())
        if meaning in VIEW_MEANINGS:
            return VIEW_MEANINGS[meaning]
    return VIEWS[0]


def _digits(text: str) -> str:
    name = clean_id(text)
    if not re.fullmatch(r"\d{3,}", name, re.ASCII):
        raise ValueError(f"{name[:40]!r} is not a subject or study id")
    return name


def _has_reports(folder: Path) -> bool:
    """Whether report files lie under folder/files or folder (p10/p10000032/s50414267.txt).

    Every patient of the collection has one, so the first hundred of each group tell; walking all 65,379 takes minutes
    on a network disk.
    """
    for base in (folder / "files", folder):
        for group in sorted(base.glob("p[0-9][0-9]")):
            if any(next(patient.glob("s*.txt"), None) for patient in islice(group.glob("p*"), 100)):
                return True
    return False


def _versions(folder: Path) -> list[Path]:
    """The version folders (2.1.0) in `folder`, newest first."""
    if not folder.is_dir():
        return []
    numbered = [p for p in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)+", p.name) and p.is_dir()]
    return sorted(numbered, key=lambda p: [int(part) for part in p.name.split(".")], reverse=True)


def _versioned(folder: Path) -> Path:
    """An explicitly named folder, or its newest version folder where it holds nothing but those."""
    versions = _versions(folder)
    return versions[0] if versions and len(versions) == len(list(folder.iterdir())) else folder


def _dataset(holders: list[Path], names: tuple[str, ...], is_it: Callable[[Path], bool]) -> Path | None:
    """The first folder that `is_it` accepts: a holder itself, holder/name, or one of their version folders."""
    for holder in holders:
        for folder in (holder, *(holder / name for name in names)):
            for candidate in (folder, *_versions(folder)):
                if candidate.is_dir() and is_it(candidate):
                    return candidate
    return None


def _above(jpg: Path) -> Path:
    """The folder in which the siblings of the mimic-cxr-jpg folder lie, whether or not `jpg` is its version folder."""
    folder = jpg.resolve()
    return folder.parent.parent if re.fullmatch(r"\d+(\.\d+)+", folder.name) else folder.parent
