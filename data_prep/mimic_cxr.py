"""MIMIC-CXR-JPG 2.x with the reports of MIMIC-CXR, and the gaze of REFLACX and EGD where their folders are found.

    mimic-cxr-jpg/  files/p10/p10000032/s50414267/<dicom_id>.jpg (or .png, where somebody made smaller copies)
                    mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz (or .csv)
                    mimic-cxr-2.1.0-test-set-labeled.csv (a radiologist's labels of test studies; they override)
    mimic-cxr/      files/p10/p10000032/s50414267.txt (the reports; PhysioNet has them in the DICOM project)
                    files/p10/p10000032/s50414267/<dicom_id>.dcm (instead of the JPGs, when asked for)

Labels are a study's, so a lateral carries what its frontal shows. Memory: the tables stay (about 0.4 GB for the 377,110
images), reports are read study by study as the records are asked for. What is counted for the comparison with the
published numbers (data_prep.expected) goes to `Quarantine.note`.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from cogaze.observations import VIEWS, view_index
from data_prep import egd as egd_reader
from data_prep import reflacx as reflacx_reader
from data_prep.hand_set import study_sections
from data_prep.labels.tables import LabelVector, as_labels, read_label_table
from data_prep.mimic_layout import METADATA, discover, image_files, study_folder, study_numbers, versioned
from data_prep.records import ImageRecord, Quarantine, Reading, SourceError
from data_prep.sections import LAST_PARAGRAPH, decode_report
from data_prep.tables import Keyed, clean_id, find_table, keyed, number, require_table

SOURCE = "mimic_cxr"
WHERE = "get MIMIC-CXR-JPG 2.1.0 (credentialed) from https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
WHERE_REPORTS = (
    "get mimic-cxr-reports.zip (credentialed) from https://physionet.org/content/mimic-cxr/, unpack it as "
    "mimic-cxr/files/ beside mimic-cxr-jpg/, or name the folder"
)
SPLIT = "mimic-cxr-2.0.0-split"
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


class Named(NamedTuple):
    """The ids that the tables name, also where their rows contradict each other."""

    images: set[str]
    studies: set[str]


class PlannedImage(NamedTuple):
    """One image of the plan, in the order in which records come out."""

    patient: str
    study: str
    dicom_id: str
    split: str
    view: str
    size: tuple[int, int] | None = None  # (Columns, Rows) of the metadata table


def read(
    root: Path,
    quarantine: Quarantine,
    *,
    reports: Path | None = None,
    reflacx: Path | None = None,
    egd: Path | None = None,
    labels: Literal["chexpert", "negbio", "chexbert", "none"] = "chexpert",
    label_table: Path | None = None,
    radiologist: bool = True,
    images: Path | None = None,
    pixels: Literal["jpg", "dicom"] = "jpg",
    without_text: bool = False,
    viewing_distance: float = egd_reader.VIEWING_DISTANCE,
) -> Iterator[ImageRecord]:
    """The images of the collection as records, ordered by patient, study and image id (as text).

    Folders that are not given are discovered; without gaze folders the images have no readings.
    `labels` picks the table: CheXpert's or NegBio's of the collection, CheXbert's output with a column study_id, or
    none at all; `label_table` names its file where it is another. Unless `radiologist` is False, studies with a
    radiologist's test labels have those (label_source "radiologist").
    `pixels` says whether the JPGs or the DICOM files are taken, `images` where they lie (the folder with files/p10 or
    p10). `without_text` keeps images whose study has no report or one without findings and impression: they have
    labels and gaze alone. Else those are set aside, as are duplicate, contradicting or malformed rows, an image
    without a split, a patient in two splits, a study of two patients, a missing image file, and what the gaze readers
    set aside. A report without both has its last paragraph as findings. `viewing_distance` is that of EGD's reader
    from the screen, in inches.
    Raises SourceError at once when the root, a table, a column, the images' folder or the reports are missing.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder: name the one that holds mimic-cxr-jpg; {WHERE}")
    found = discover(root)
    if "mimic-cxr-jpg" not in found:
        raise SourceError(f"no {METADATA}.csv or .csv.gz in {root} nor in its mimic-cxr-jpg folder: {WHERE}")
    for name, given in (("reports", reports), ("reflacx", reflacx), ("egd", egd), ("images", images)):
        if given is not None and not given.is_dir():
            raise SourceError(f"the {name} folder {given} does not exist")
        if given is not None:
            found[name] = versioned(given)
    if "reports" not in found and not without_text:
        raise SourceError(f"no MIMIC-CXR reports (mimic-cxr/files/p10/...) at or beside {root}: {WHERE_REPORTS}")
    jpg = found["mimic-cxr-jpg"]
    pictures = found.get("images") or found.get("dicom" if pixels == "dicom" else "mimic-cxr-jpg")
    if pictures is None:
        raise SourceError(f"no DICOM files (mimic-cxr/files/p10/p.../s.../*.dcm) at or beside {root}: name the folder")
    plan, named = plan_of(require_table(jpg, METADATA, WHERE), require_table(jpg, SPLIT, WHERE), quarantine)
    labelled = _label_tables(jpg, labels, label_table, radiologist, quarantine)
    studies = {image.study for image in plan}
    for name, table in labelled:
        quarantine.note(f"studies in the {name} table", len(studies & table.rows.keys()))
    gaze: defaultdict[str, list[Reading]] = defaultdict(list)
    read_egd = partial(egd_reader.read_gaze, viewing_distance=viewing_distance)
    for name, read_gaze in (("reflacx", reflacx_reader.read_gaze), ("egd", read_egd)):
        if name in found:
            for dicom_id, readings in read_gaze(found[name], quarantine).items():
                gaze[dicom_id].extend(readings)

    def report(patient: str, study: str) -> tuple[dict[str, str | None], str]:
        relative = study_folder(patient, study).with_suffix(".txt")
        places = (found["reports"] / "files", found["reports"]) if "reports" in found else ()
        return read_report(*(place / relative for place in places))

    def folder(patient: str, study: str) -> Path:
        return below / study_folder(patient, study)

    below = Path("files") if (pictures / "files").is_dir() else Path()
    suffixes = (".dcm",) if pixels == "dicom" else (".jpg", ".png")
    return records_of(plan, named, pictures, folder, report, labelled, gaze, quarantine, suffixes, without_text)


def _label_tables(
    jpg: Path, labels: str, label_table: Path | None, radiologist: bool, quarantine: Quarantine
) -> list[tuple[str, Keyed[LabelVector]]]:
    """(label source, study -> labels) in the order of precedence."""
    if labels == "none" and label_table is not None:
        raise SourceError(f"a label table ({label_table}), but labels are set to none: say whose they are")
    tables: list[tuple[str, Path]] = []
    if radiologist and labels != "none" and (test_labels := find_table(jpg, TEST_LABELS)) is not None:
        tables.append(("radiologist", test_labels))
    if label_table is not None and not label_table.is_file():
        raise SourceError(f"the label table {label_table} does not exist")
    if labels != "none":
        remedy = "run CheXbert and name its output" if labels == "chexbert" else WHERE
        tables.append((labels, label_table or require_table(jpg, f"mimic-cxr-2.0.0-{labels}", remedy)))
    read = [(name, read_label_table(path, source=SOURCE, quarantine=quarantine)) for name, path in tables]
    if label_table is None:
        return read
    # tables of one's own often keep the study as its report file is called, s50414267
    return [(name, Keyed({key.removeprefix("s"): row for key, row in t.rows.items()}, t.conflicts)) for name, t in read]


def records_of(
    plan: list[PlannedImage],
    named: Named,
    root: Path,
    folder_of: Callable[[str, str], Path],
    report_of: Callable[[str, str], tuple[dict[str, str | None], str]],
    labelled: list[tuple[str, Keyed[LabelVector]]],
    gaze: dict[str, list[Reading]],
    quarantine: Quarantine,
    suffixes: tuple[str, ...] = (".jpg", ".png"),
    without_text: bool = False,
) -> Iterator[ImageRecord]:
    """The planned images as records. `folder_of` and `report_of` take patient and study: the images' folder below
    `root`, and what `read_report` returns; `labelled` tables come in the order of their precedence; of the files
    <image id><suffix> the first that exists is taken; `without_text` keeps images whose report cannot be used. What
    lies beside them in the patients' folders and is in no table (`named`) is set aside too."""
    last = ""
    for (patient, study), images in groupby(plan, key=lambda image: (image.patient, image.study)):
        folder = folder_of(patient, study)
        files = image_files(root / folder, suffixes)
        for name in sorted(files):
            if Path(name).stem not in named.images:
                quarantine.add(SOURCE, "image file that no table names", id=Path(name).stem, path=folder / name)
        if patient != last:
            last = patient
            for other in study_numbers(root / folder.parent):
                if other not in named.studies:
                    quarantine.add(SOURCE, "study folder that no table names", path=folder.with_name(f"s{other}"))
        text, fault = report_of(patient, study)
        quarantine.note(_kind_of(text, fault))
        label_source = next((name for name, table in labelled if study in table.rows), None)
        values = next((table.rows[study] for _, table in labelled if study in table.rows), None)
        for image in images:
            file = next((name for end in suffixes if (name := f"{image.dicom_id}{end}") in files), None)
            quarantine.note("image files", int(file is not None))
            relative = (folder / f"{image.dicom_id}{suffixes[0]}").as_posix()
            if fault and not without_text:
                quarantine.add(SOURCE, fault, id=image.dicom_id, path=relative, detail=f"study {study}")
                continue
            if file is None:
                quarantine.add(SOURCE, "image file missing", id=image.dicom_id, path=relative, detail=f"study {study}")
                continue
            yield ImageRecord(
                source=SOURCE,
                image_id=image.dicom_id,
                study_id=study,
                patient_id=patient,
                split=image.split,
                view=image.view,
                path=root / folder / file,
                relative_path=(folder / file).as_posix(),
                findings=text.get("findings"),
                impression=text.get("impression"),
                indication=text.get("indication"),
                history=text.get("history"),
                labels=as_labels(values) if values is not None else {},
                label_source=label_source,
                readings=tuple(gaze.pop(image.dicom_id, ())),
                size=image.size,
            )
    for dicom_id, readings in sorted(gaze.items()):
        for reading in readings:
            detail = f"image {dicom_id} is not among the usable images"
            quarantine.add(reading.reader, "reading without its image", id=reading.id, detail=detail)


def plan_of(metadata_table: Path, split_table: Path, quarantine: Quarantine) -> tuple[list[PlannedImage], Named]:
    """Every usable image by patient, study and image, and what the tables name at all.

    Contradictions between and within the tables are set aside.
    """

    def pack_metadata(row: dict[str, str]) -> tuple[str, str, str, str, tuple[int, int] | None]:
        position = " ".join(row["ViewPosition"].upper().split())
        position = sys.intern(position or "blank")
        return _digits(row["subject_id"]), _digits(row["study_id"]), _view(row), position, _size(row)

    def pack_split(row: dict[str, str]) -> tuple[str, str, str]:
        word = row["split"].lower()
        if word not in SPLITS:
            raise ValueError(f"the split {row['split'][:40]!r} is none of train, validate, test")
        return _digits(row["subject_id"]), _digits(row["study_id"]), SPLITS[word]

    metadata = keyed(
        metadata_table,
        "dicom_id",
        ("subject_id", "study_id", "ViewPosition"),
        pack_metadata,
        source=SOURCE,
        quarantine=quarantine,
        optional=(*CODE_MEANINGS, "Rows", "Columns"),
    )
    split = keyed(
        split_table,
        "dicom_id",
        ("subject_id", "study_id", "split"),
        pack_split,
        source=SOURCE,
        quarantine=quarantine,
        conflict="image listed twice with another split or study",
    )
    plan, splits, patients = [], defaultdict(set), defaultdict(set)
    for dicom_id, (patient, study, view, position, size) in metadata.rows.items():
        if dicom_id in split.conflicts:
            continue
        if dicom_id not in split.rows:
            quarantine.add(SOURCE, "image not in the split table", id=dicom_id, detail=f"study {study}")
        elif split.rows[dicom_id][:2] != (patient, study):
            quarantine.add(SOURCE, "metadata and split tables disagree on patient or study", id=dicom_id)
        else:
            word = split.rows[dicom_id][2]
            plan.append(PlannedImage(patient, study, dicom_id, word, view, size))
            quarantine.note(f"view {position}")
            splits[patient].add(word)
            patients[study].add(patient)
    for dicom_id in split.rows.keys() - metadata.rows.keys() - metadata.conflicts:
        quarantine.add(SOURCE, "image not in the metadata table", id=dicom_id)
    _note_sizes(plan, quarantine)
    usable = []
    for image in sorted(plan):
        if len(splits[image.patient]) > 1:
            detail = f"patient {image.patient}: {', '.join(sorted(splits[image.patient]))}"
            quarantine.add(SOURCE, "patient in two splits", id=image.dicom_id, detail=detail)
        elif len(patients[image.study]) > 1:
            quarantine.add(SOURCE, "study of two patients", id=image.dicom_id, detail=f"study {image.study}")
        else:
            usable.append(image)
    images = set[str]().union(metadata.rows, metadata.conflicts, split.rows, split.conflicts)
    return usable, Named(images, {row[1] for table in (metadata, split) for row in table.rows.values()})


def read_report(*candidates: Path) -> tuple[dict[str, str | None], str]:
    """(the sections of the first of the files that is there, why the study cannot be used or "")."""
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        return {}, "study without a report"
    try:
        text = study_sections(decode_report(path.read_bytes()), path.stem.removeprefix("s"))
    except OSError:
        return {}, "report cannot be read"
    if text["findings"] is None and text["impression"] is None:
        if text[LAST_PARAGRAPH] is None:
            return text, "report without findings and impression"
        text["findings"] = text[LAST_PARAGRAPH]
    return text, ""


def _kind_of(text: dict[str, str | None], fault: str) -> str:
    """What a study's report has, in the words of data_prep.expected."""
    if not text:
        return "studies without a report"
    if fault:
        return "reports with none of these"
    if text["impression"]:
        return "reports with impression"
    return "reports with last paragraph only" if text[LAST_PARAGRAPH] else "reports with findings only"


def _note_sizes(plan: list[PlannedImage], quarantine: Quarantine) -> None:
    """Images, studies and patients of all and of each split, before anything is set aside for what it contradicts."""
    for split in ("", *dict.fromkeys(SPLITS.values())):
        images = [image for image in plan if split in ("", image.split)]
        name = f"{split} ".lstrip()
        quarantine.note(f"{name}images", len(images))
        quarantine.note(f"{name}studies", len({image.study for image in images}))
        quarantine.note(f"{name}patients", len({image.patient for image in images}))
        if split:
            for kind, views in (("frontal", {"PA", "AP"}), ("lateral", {"LATERAL", "LL"})):
                quarantine.note(f"{name}{kind}", sum(image.view in views for image in images))
            quarantine.note(f"{name}other", sum(image.view not in {"PA", "AP", "LATERAL", "LL"} for image in images))


def _size(row: dict[str, str]) -> tuple[int, int] | None:
    """(Columns, Rows) in px; None where the table has none, or nothing that is a size."""
    try:
        width, height = number(row.get("Columns", "")), number(row.get("Rows", ""))
    except ValueError:
        return None
    return (int(width), int(height)) if 1 <= width < 1e6 and 1 <= height < 1e6 else None


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
