"""Where the data of a build come from: what is told to the user, to the quarantine and to the manifest."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import typer

from cogaze.cli.errors import UsageError

OPTIONAL = ("reports", "reflacx", "egd")  # parts of MIMIC-CXR that a build can do without


def folders(source: str, root: Path, options: Mapping[str, Any]) -> dict[str, Path]:
    """The folders of the source by name: those given as options, and for MIMIC-CXR those found."""
    given = {name: value for name, value in options.items() if isinstance(value, Path) and value.is_dir()}
    if source != "mimic-cxr":
        return given
    from data_prep.mimic_cxr import discover

    return {**discover(root), **given}


def parts(source: str, found: Mapping[str, Path], options: Mapping[str, Any]) -> dict[str, bool]:
    """Which optional parts of the source are there, told to the user and kept in the manifest."""
    if source != "mimic-cxr":
        return {}
    there = {name: name in found or name in options for name in OPTIONAL}
    missing = [name for name in OPTIONAL if not there[name]]
    names = ", ".join(name for name in OPTIONAL if there[name]) or "none"
    typer.echo(f"optional parts found: {names}" + (f"; not found: {', '.join(missing)}" if missing else ""), err=True)
    return there


def is_phantom(source: str, found: Mapping[str, Path]) -> bool:
    """Whether all that is read was drawn by `cogaze data phantom`, by the word of its mark; else the user is told.

    Text of phantoms is shown where that of patients is not, so what is not certain is real.
    """
    from data_prep.phantom.mark import MARK, home_of, stranger

    if source != "mimic-cxr" or "mimic-cxr-jpg" not in found:  # the one layout that phantoms have
        return False
    home = home_of(found["mimic-cxr-jpg"])
    if home is None:
        return False
    if foreign := stranger(home, found.values()):
        why = (
            "lists no files (draw the phantoms again)"
            if foreign == MARK
            else f"does not know a file in {PurePosixPath(foreign).parts[0]}"
        )
        typer.echo(f"{home / MARK} {why}: taken for real data, whose text is not shown", err=True)
    return not foreign


def refuse_idle_options(source: str, root: Path, found: Mapping[str, Path], options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that would change nothing."""
    if options.get("labels") == "none" and options.get("radiologist"):
        raise UsageError("--labels none leaves no labels: not those of --radiologist either")
    if "viewing_distance" in options:
        from data_prep.mimic_eye import PLACES

        patients = (folder for place in PLACES for folder in (root / place).glob("patient_*/EyeGaze"))
        there = "egd" in found or "egd" in options if source == "mimic-cxr" else next(patients, None) is not None
        if not there:
            raise UsageError("--viewing-distance is for EGD, which is not there")


def made_with(
    reader: Any, root: Path, options: Mapping[str, Any], filling: Mapping[str, Any], hashed: bool
) -> dict[str, dict[str, Any]]:
    """{"options": all options of the reader with their values, "paths": those given} for the manifest.

    Of files that decide what the records are (the mapping, CheXbert's weights, a label table) the sha256 stands there;
    no path is absolute, and with hashed ids no name is told.
    """
    values: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for name, parameter in inspect.signature(reader).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        value = options.get(name, parameter.default)
        if name == "mapping":
            from data_prep.table.mapping_file import mapping_path

            values[name] = _file(mapping_path(value), root, hashed)
        elif "Path" not in str(parameter.annotation):
            values[name] = list(value) if isinstance(value, tuple) else value
        elif name in options and (name == "label_table" or not hashed):
            paths[name] = _file(value, root, hashed) if name == "label_table" else _name(value, root)
    for name, value in filling.items():
        values[name] = _file(value, root, hashed) if isinstance(value, Path) else value
    return {"options": values, "paths": paths}


def _file(path: Path, root: Path, hashed: bool) -> dict[str, str]:
    """Name and sha256 of a file; of one that is not there no sha256 (its reader says so)."""
    from data_prep.heatmap_files import content_digest

    digest = content_digest(path)
    return ({} if hashed else {"name": _name(path, root)}) | ({"sha256": digest} if digest else {})


def _name(path: Path, root: Path) -> str:
    path, root = path.resolve(), root.resolve()
    inside = path.is_relative_to(root)
    return path.relative_to(root).as_posix() if inside else path.name
