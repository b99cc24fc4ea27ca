"""A tiny hand-written collection in the layout of MIMIC-CXR-JPG 2.1.0."""

from __future__ import annotations

import gzip
from pathlib import Path

from cogaze.observations import OBSERVATIONS
from data_prep import mimic_cxr
from data_prep.records import Quarantine

META = "dicom_id,subject_id,study_id,ViewPosition,Rows,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning"
REPORT = " FINAL REPORT\n INDICATION:  ___M with cough.\n\n FINDINGS:  Clear {}.\n\n IMPRESSION:  Normal.\n"


class Collection:
    """Writes the tables and files row by row; `write` puts the tables down."""

    def __init__(self, root: Path) -> None:
        self.root, self.jpg = root, root / "mimic-cxr-jpg"
        self.meta, self.split, self.chexpert, self.test = [META], ["dicom_id,study_id,subject_id,split"], [], []
        self.chexpert = ["subject_id,study_id," + ",".join(sorted(OBSERVATIONS))]

    def image(self, dicom, patient=10000001, study=50000001, view="PA", split="train", meanings=",", report=True):
        self.meta.append(f"{dicom},{patient},{study},{view},3000,{meanings}")
        self.split.append(f"{dicom},{study},{patient},{split}")
        folder = Path("files", f"p{str(patient)[:2]}", f"p{patient}")
        file = self.jpg / folder / f"s{study}" / f"{dicom}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not decoded here")
        text = self.root / "mimic-cxr" / folder / f"s{study}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        if report:
            text.write_text(REPORT.format(study) if report is True else report)
        return file

    def write(self, zipped: bool = False) -> Path:
        self.jpg.mkdir(parents=True, exist_ok=True)
        for name, lines in (
            ("metadata", self.meta), ("split", self.split), ("chexpert", self.chexpert), ("negbio", self.chexpert[:1]),
        ):  # fmt: skip
            text = "".join(f"{line}\n" for line in lines)
            path = self.jpg / f"mimic-cxr-2.0.0-{name}.csv"
            if zipped:
                Path(f"{path}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                path.write_text(text)
        return self.root


def labels(study: int, patient: int = 10000001, **values: str) -> str:
    cells = [values.get(name.replace(" ", "_"), "") for name in sorted(OBSERVATIONS)]
    return f"{patient},{study}," + ",".join(cells)


def read(root: Path, **options):
    quarantine = Quarantine()
    return list(mimic_cxr.read(root, quarantine, **options)), quarantine
