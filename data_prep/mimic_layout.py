"""Where the parts of a MIMIC-CXR download lie: the layouts that people have them in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from data_prep.tables import find_table

METADATA = "mimic-cxr-2.0.0-metadata"


def discover(root: Path) -> dict[str, Path]:
    """What of "mimic-cxr-jpg", "dicom", "reports", "reflacx" and "egd" lies at, in or beside `root`, with its folder.

    `root` is the mimic-cxr-jpg folder or one that holds it (who works on the DICOM files may have laid the tables into
    mimic-cxr); every data set may have a version folder (2.1.0), and all may lie under physionet.org/files as wget
    leaves them. What is not found is not in the dict.
    """
    holders = [root, root / "physionet.org" / "files", root / "files"]
    found: dict[str, Path] = {}
    jpg = _dataset(holders, ("mimic-cxr-jpg", "mimic-cxr"), lambda folder: find_table(folder, METADATA) is not None)
    if jpg is not None:
        found["mimic-cxr-jpg"] = jpg
        if jpg in (root, *_versions(root)):  # the siblings lie beside it: .../mimic-cxr-jpg or .../mimic-cxr-jpg/2.1.0
            holders += [_above(jpg)]
    reports = _dataset(holders, ("mimic-cxr", "mimic-cxr-reports"), partial(_has_files, pattern="s*.txt"))
    if reports is None and jpg is not None and _has_files(jpg, "s*.txt"):
        reports = jpg
    dicom = _dataset(holders, ("mimic-cxr", "mimic-cxr-dicom"), partial(_has_files, pattern="s*/*.dcm", patients=3))
    gaze = {
        "reflacx": _dataset(holders, ("reflacx-xray-localization", "reflacx"), lambda f: (f / "main_data").is_dir()),
        "egd": _dataset(holders, ("egd-cxr", "egd"), lambda f: find_table(f, "master_sheet") is not None),
    }
    found.update(
        {name: path for name, path in {"reports": reports, "dicom": dicom, **gaze}.items() if path is not None}
    )
    return found


def study_folder(patient: str, study: str) -> Path:
    """p10/p10000032/s50414267, as below `files` of the separate downloads."""
    return Path(f"p{patient[:2]}", f"p{patient}", f"s{study}")


def image_files(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Names of the image files in a study's folder; one look at it in place of one at each file."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(suffixes) and entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def study_numbers(folder: Path) -> list[str]:
    """Numbers of the studies whose folders lie in a patient's."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name[1:] for e in entries if re.fullmatch(r"s\d+", e.name) and e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_files(folder: Path, pattern: str, patients: int = 100) -> bool:
    """Whether a patient's folder under folder/files or folder (p10/p10000032) has a file of that pattern.

    Every patient of the collection has reports and images, so the first few of each group tell; walking all 65,379
    takes minutes on a network disk.
    """
    for base in (folder / "files", folder):
        for group in sorted(base.glob("p[0-9][0-9]")):
            if any(next(patient.glob(pattern), None) for patient in islice(group.glob("p*"), patients)):
                return True
    return False


def _versions(folder: Path) -> list[Path]:
    """The version folders (2.1.0) in `folder`, newest first."""
    if not folder.is_dir():
        return []
    numbered = [p for p in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)+", p.name) and p.is_dir()]
    return sorted(numbered, key=lambda p: [int(part) for part in p.name.split(".")], reverse=True)


def versioned(folder: Path) -> Path:
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
