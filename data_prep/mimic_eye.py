"""MIMIC-Eye 1.0.0 (PhysioNet mimic-eye-multimodal-datasets): MIMIC-CXR-JPG, REFLACX and EGD arranged by patient.

    patient_<subject_id>/CXR-JPG/s<study_id>/<dicom_id>.jpg
    patient_<subject_id>/CXR-DICOM/s<study_id>.txt        the report
    patient_<subject_id>/REFLACX/metadata.csv, main_data/<id>/fixations.csv, ...   (in drafts <id>/ without main_data)
    patient_<subject_id>/EyeGaze/master_sheet.csv, fixations.csv, audio_segmentation_transcripts/<dicom_id>/...
    spreadsheets/cxr_meta.csv                             MIMIC's metadata with in_eye_gaze, in_reflacx, stay_id
    spreadsheets/CXR-JPG/cxr_{split,chexpert,negbio}.csv

The tables in a patient's folder are the patient's rows of those of the whole, with an index column in front. What is
read is what the separate downloads give for the same images (`source` is "mimic_cxr" too, so that a study in both is
one study); the clinical tables (Hosp, ICU, ED) are not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep import egd, reflacx
from data_prep.fixations import report_counts
from data_prep.labels.tables import read_label_table
from data_prep.mimic_cxr import SOURCE, TEST_LABELS, plan_of, read_report, records_of
from data_prep.records import ImageRecord, Quarantine, Reading, SourceError
from data_prep.tables import find_table, require_table

WHERE = "get MIMIC-Eye 1.0.0 (credentialed) from https://physionet.org/content/mimic-eye-multimodal-datasets/1.0.0/"
RELEASE = Path("mimic-eye-multimodal-datasets", "1.0.0", "mimic-eye")
PLACES = (Path(), Path("mimic-eye"), Path("1.0.0", "mimic-eye"), RELEASE, Path("physionet.org", "files") / RELEASE)
# MIMIC-Eye's split table covers more images than it holds; those are none of this source.
ELSEWHERE = "image not in the metadata table"


def read(
    root: Path,
    quarantine: Quarantine,
    *,
    labels: Literal["chexpert", "negbio"] = "chexpert",
    viewing_distance: float = egd.VIEWING_DISTANCE,
) -> Iterator[ImageRecord]:
    """The images as records, ordered by patient, study and image id (as text), each with its readings.

    `root` is the folder with the patient_<id> folders, or one of those that a download makes around it. The options
    are those of `mimic_cxr.read` and `egd.read_gaze`. A radiologist's labels of test studies, which MIMIC-Eye does not
    have, are read where their table has been laid into spreadsheets/CXR-JPG. What is set aside, and why, is as in the
    readers of the separate downloads; a patient's gaze folder that cannot be read costs that patient's gaze alone.
    Raises SourceError at once when the root or a table of the whole is missing or lacks a column.
    """
    home = next((root / place for place in PLACES if (root / place / "spreadsheets").is_dir()), None)
    if home is None:
        raise SourceError(f"no spreadsheets folder in {root}: name the one that holds it and patient_<id>; {WHERE}")
    egd.px_per_degree(viewing_distance)  # a wrong distance is the caller's fault, not that of every patient's folder
    tables = home / "spreadsheets" / "CXR-JPG"
    metadata = require_table(home / "spreadsheets", "cxr_meta", WHERE)
    planning = Quarantine()  # of its own, also because the counts are none to compare with MIMIC-CXR's published ones
    plan, named = plan_of(metadata, require_table(tables, "cxr_split", WHERE), planning)
    quarantine.rows += [row for row in planning.rows if row["reason"] != ELSEWHERE]
    labelled: list[tuple[str, Path]] = [(labels, require_table(tables, f"cxr_{labels}", WHERE))]
    if (test_labels := find_table(tables, TEST_LABELS)) is not None:
        labelled.insert(0, ("radiologist", test_labels))
    values = [(name, read_label_table(path, source=SOURCE, quarantine=quarantine)) for name, path in labelled]

    def folder(patient: str, study: str) -> Path:
        return Path(f"patient_{patient}", "CXR-JPG", f"s{study}")

    def report(patient: str, study: str) -> tuple[dict[str, str | None], str]:
        return read_report(home / f"patient_{patient}" / "CXR-DICOM" / f"s{study}.txt")

    gaze = _gaze(home, viewing_distance, quarantine)
    return records_of(plan, named, home, folder, report, values, gaze, quarantine)


def _gaze(home: Path, viewing_distance: float, quarantine: Quarantine) -> dict[str, list[Reading]]:
    """dicom_id -> its readings, those of REFLACX first, each in the order of their ids."""
    found: defaultdict[str, list[Reading]] = defaultdict(list)
    counts: dict[str, Counter[str]] = {reflacx.SOURCE: Counter(), egd.SOURCE: Counter()}
    for patient in sorted(home.glob("patient_*")):
        for source, folder in ((reflacx.SOURCE, patient / "REFLACX"), (egd.SOURCE, patient / "EyeGaze")):
            if not folder.is_dir():
                continue
            try:
                if source == reflacx.SOURCE:
                    readings = reflacx.collect(folder, quarantine, counts[source])
                else:
                    readings = egd.collect(folder, quarantine, counts[source], viewing_distance)
            except SourceError as error:
                where = folder.relative_to(home)
                quarantine.add(source, "patient's gaze folder cannot be read", path=where, detail=str(error))
                continue
            for dicom_id, its in readings.items():
                found[dicom_id].extend(its)
    for source, counted in counts.items():
        report_counts(counted, source, quarantine)
    return dict(found)
