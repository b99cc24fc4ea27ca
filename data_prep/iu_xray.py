"""Indiana University chest X-rays (Open-i): publisher XML reports, the two Kaggle tables, images in any copy.

    reports_xml/ or ecgen-radiology/   <uid>.xml: text, MeSH headings, the ids of the study's images (CXR<image id>)
    indiana_reports.csv                uid, MeSH, Problems, image, indication, comparison, findings, impression
    indiana_projections.csv            uid, filename (<image id>.dcm.png), projection (Frontal or Lateral)
    dicom_view_metadata.csv            imageid (CXR<image id>), View Position, ... (optional)
    images*/, NLMCXR*/                 <image id>.dcm.png, <image id>.dcm.jpg, CXR<image id>.png, ...

How the parts are reconciled:
- A study is a uid of any part; its images are those that the projections or its XML name. An image id is the file name
  without CXR and extensions ("1000_IM-0003-1001").
- Each text is the CSV's, else the XML's. "None" is text (comparisons say it), blank is absent; removed words (XXXX) go.
- View: the projection decides between frontal and lateral, since it was assigned by looking at the images, while DICOM
  says PA for 177 laterals of the 490 studies that were examined. Lateral is LATERAL; Frontal is AP where DICOM says AP,
  else PA. An image without a projection takes LATERAL (or LL) and AP from DICOM; PA and blank there say too little:
  UNKNOWN.
- Several copies of an image: the largest kind is used, in the order of IMAGE_FOLDERS (the 256 px copies come last).
- Patients are not published, so each study counts as one patient; splits are drawn by a hash of the uid, which keeps
  a study where it is however the collection grows.
- Labels come from the MeSH headings (data_prep/labels/mesh.py), of the CSV, else the XML, else the CSV's Problems.
Every study, listed image and image file ends in a record or in the quarantine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from data_prep.labels.mesh import iu_labels
from data_prep.records import ImageRecord, Quarantine, SourceError
from data_prep.sections import clean_text
from data_prep.splits import split_by_hash
from data_prep.tables import clean_id, find_table, keyed

SOURCE = "iu_xray"
WHERE = (
    "get reports and images from https://openi.nlm.nih.gov/faq (Indiana University Chest X-ray Collection) or the "
    "tables indiana_reports.csv and indiana_projections.csv with images_normalized/ from Kaggle"
)
XML_FOLDERS = ("reports_xml", "ecgen-radiology", "NLMCXR_reports")
IMAGE_FOLDERS = ("images_normalized", "images_orig", "nlmcxr", "images")  # best first, by prefix; "_256" always last
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
TEXTS = ("findings", "impression", "indication")


@dataclass
class _Study:
    """What all parts together say of one study."""

    texts: dict[str, str] = field(default_factory=dict)  # of TEXTS, the non-blank ones
    headings: list[str] = field(default_factory=list)  # MeSH
    images: set[str] = field(default_factory=set)
    reported: bool = False  # a row of the reports table or an XML is there


class _Xml(NamedTuple):
    texts: dict[str, str]
    headings: list[str]
    images: list[str]


def read(
    root: Path,
    quarantine: Quarantine,
    *,
    images: Path | None = None,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> Iterator[ImageRecord]:
    """The images of the collection as records, ordered by study and image id (as text).

    `images` names the image folder (default: every images* and NLMCXR* folder of `root`); `fractions` are the shares of
    train, validate and test, drawn with `seed` (see split_of). Set aside with a reason: a study without images, images
    of a study without a report or with neither findings nor impression, a missing image file, an image file that no
    table names, bad rows and XML.
    Raises SourceError at once when the root, all reports or all images are missing, ValueError for bad fractions.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder: {WHERE}")
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"the split fractions must be three shares that sum to 1, not {tuple(fractions)}")
    studies, projections = _studies(root, quarantine)
    if not studies:
        raise SourceError(f"{root} holds no indiana_reports.csv, no indiana_projections.csv and no report XML: {WHERE}")
    folders = [images] if images is not None else _image_folders(root)
    if not folders or not all(folder.is_dir() for folder in folders):
        raise SourceError(f"no image folder {images or root / 'images*'}: {WHERE}")
    views = _dicom_views(root, quarantine)
    return _records(root, studies, projections, views, _image_files(folders), tuple(fractions), seed, quarantine)


def split_of(uid: str, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> str:
    """The split of a study by its hash (data_prep.splits), cut at the fractions."""
    return split_by_hash(SOURCE, uid, fractions[0], fractions[1], seed)


def view_of(projection: str, dicom_view: str) -> str:
    """A name of observations.VIEWS from the table's projection and the DICOM view position (either may be blank)."""
    projection, dicom_view = projection.strip().lower(), dicom_view.strip().upper()
    if projection == "lateral" or (projection != "frontal" and dicom_view in {"LL", "LATERAL"}):
        return "LATERAL"
    if dicom_view == "AP":
        return "AP"
    return "PA" if projection == "frontal" else "UNKNOWN"


def image_id_of(name: str) -> str:
    """ "1000_IM-0003-1001" from any spelling: 1000_IM-0003-1001.dcm.png, CXR1000_IM-0003-1001.jpg, ..."""
    stem = name.strip().removeprefix("CXR")
    while True:
        shorter = re.sub(r"\.(png|jpe?g|dcm)$", "", stem, flags=re.IGNORECASE)
        if shorter == stem:
            return stem
        stem = shorter


def _records(
    root: Path,
    studies: dict[str, _Study],
    projections: dict[str, str],
    views: dict[str, str],
    files: dict[str, Path],
    fractions: tuple[float, ...],
    seed: int,
    quarantine: Quarantine,
) -> Iterator[ImageRecord]:
    owner: dict[str, str] = {}  # image -> the study that came first
    for uid, study in sorted(studies.items()):
        texts = {name: clean_text(study.texts.get(name)) for name in TEXTS}
        labels = iu_labels(study.headings)
        if not study.images:
            quarantine.add(SOURCE, "study without images", id=uid)
        for image_id in sorted(study.images):
            path = files.get(image_id)
            reason = ""
            if owner.setdefault(image_id, uid) != uid:
                reason = "image named by two studies"
            elif not study.reported:
                reason = "study without a report"
            elif texts["findings"] is None and texts["impression"] is None:
                reason = "report without findings and impression"
            elif path is None:
                reason = "image file missing"
            if reason or path is None:
                quarantine.add(SOURCE, reason, id=image_id, detail=f"study {uid}")
                continue
            yield ImageRecord(
                source=SOURCE,
                image_id=image_id,
                study_id=uid,
                patient_id=uid,
                split=split_of(uid, fractions, seed),
                view=view_of(projections.get(image_id, ""), views.get(image_id, "")),
                path=path,
                relative_path=Path(os.path.relpath(path, root)).as_posix(),
                findings=texts["findings"],
                impression=texts["impression"],
                indication=texts["indication"],
                labels=labels,
                label_source="mesh" if labels else None,
            )
    for image_id, path in sorted(files.items()):
        if image_id not in owner:
            quarantine.add(SOURCE, "image file that no table names", id=image_id, path=os.path.relpath(path, root))


def _studies(root: Path, quarantine: Quarantine) -> tuple[dict[str, _Study], dict[str, str]]:
    """(uid -> study, image id -> projection) from the two tables and the XML files."""
    studies: dict[str, _Study] = {}
    problems: dict[str, list[str]] = {}
    if (table := find_table(root, "indiana_reports")) is not None:
        columns = ("MeSH", "Problems", *TEXTS)
        reports = keyed(table, "uid", columns, dict, source=SOURCE, quarantine=quarantine)
        for uid in reports.conflicts:
            studies[uid] = _Study()
        for uid, row in reports.rows.items():
            headings = [term for term in row["MeSH"].split(";") if term.strip()]
            studies[uid] = _Study({name: row[name] for name in TEXTS if row[name]}, headings, reported=True)
            problems[uid] = [term for term in row["Problems"].split(";") if term.strip()]
    for uid, report in _xml_reports(root, quarantine).items():
        study = studies.setdefault(uid, _Study())
        study.texts = {**report.texts, **study.texts}
        study.headings = study.headings or report.headings
        study.images.update(report.images)
        study.reported = True
    for uid, terms in problems.items():
        studies[uid].headings = studies[uid].headings or terms
    projections: dict[str, str] = {}
    if (table := find_table(root, "indiana_projections")) is not None:
        listed = keyed(
            table,
            "filename",
            ("uid", "projection"),
            lambda row: (clean_id(row["uid"]), row["projection"]),
            source=SOURCE,
            quarantine=quarantine,
        )
        for name, (uid, projection) in listed.rows.items():
            projections[image_id_of(name)] = projection
            studies.setdefault(uid, _Study()).images.add(image_id_of(name))
    return studies, projections


def _xml_reports(root: Path, quarantine: Quarantine) -> dict[str, _Xml]:
    """uid -> what its XML says. Bad files, and a second file of one uid, are set aside."""
    reports: dict[str, _Xml] = {}
    paths = [path for name in XML_FOLDERS for path in sorted((root / name).rglob("*.xml"))]
    for path in paths:
        relative = path.relative_to(root)
        try:
            uid, report = _xml_report(ElementTree.parse(path).getroot(), path.stem)
        except (OSError, ParseError, DefusedXmlException, ValueError, LookupError) as error:
            quarantine.add(SOURCE, "unreadable report XML", path=relative, detail=f"{type(error).__name__}: {error}")
            continue
        if uid in reports:
            quarantine.add(SOURCE, "second report XML of a study", id=uid, path=relative)
        else:
            reports[uid] = report
    return reports


def _xml_report(top: Element, stem: str) -> tuple[str, _Xml]:
    named = next((element.get("id", "") for element in top.iter("uId")), "")
    uid = clean_id((named or stem).removeprefix("CXR"))
    texts = {
        label: text
        for element in top.iter("AbstractText")
        if (label := element.get("Label", "").lower()) in TEXTS and (text := "".join(element.itertext()).strip())
    }
    headings = [text for element in top.iter("major") if (text := "".join(element.itertext()).strip())]
    images = [image_id_of(name) for element in top.iter("parentImage") if (name := element.get("id", ""))]
    return uid, _Xml(texts, headings, images)


def _dicom_views(root: Path, quarantine: Quarantine) -> dict[str, str]:
    table = find_table(root, "dicom_view_metadata")
    if table is None:
        return {}
    found = keyed(
        table, "imageid", ("View Position",), lambda row: row["View Position"], source=SOURCE, quarantine=quarantine
    )
    return {image_id_of(name): view for name, view in found.rows.items()}


def _image_folders(root: Path) -> list[Path]:
    """The image folders of the root, best copies first."""

    def rank(folder: Path) -> tuple[bool, int, str]:
        prefixes = [i for i, prefix in enumerate(IMAGE_FOLDERS) if folder.name.lower().startswith(prefix)]
        return folder.name.endswith("_256"), prefixes[0], folder.name

    folders = [p for p in root.iterdir() if p.is_dir() and p.name.lower().startswith(("images", "nlmcxr"))]
    return sorted((p for p in folders if p.name not in XML_FOLDERS), key=rank)


def _image_files(folders: list[Path]) -> dict[str, Path]:
    """image id -> its file; of several copies that of the first folder, and there the one named as in the table."""
    files: dict[str, Path] = {}
    for folder in folders:
        found = sorted(
            (Path(parent, name) for parent, _, names in os.walk(folder) for name in names),
            key=lambda path: (".dcm." not in path.name.lower(), path.suffix.lower() != ".png", path.as_posix()),
        )
        for path in found:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                files.setdefault(image_id_of(path.name), path)
    return files
