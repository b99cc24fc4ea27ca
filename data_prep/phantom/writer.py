"""Writes a phantom collection: studies are drawn in parallel, tables and gaze files afterwards in study order."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.phantom import egd_files, mimic_files, reflacx_files
from data_prep.phantom.canvas import Box
from data_prep.phantom.film import draw
from data_prep.phantom.gaze import Reading, readings_of
from data_prep.phantom.mark import MARK, digests
from data_prep.phantom.plan import FRONTAL_SHARE, REPORT, Study, make_study, patient_numbers
from data_prep.phantom.report import make_report
from data_prep.phantom.tables import image_path, write_text
from data_prep.processes import pool

JPEG_QUALITY = 92
RAW_GAZE_READINGS = 10  # readings of each system that also get raw samples when asked for
TRUTH = "truth.jsonl"


class PhantomError(ValueError):
    """Arguments or an output folder that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Drawn:
    """What one study's worker hands back; its images and its report are already on disk."""

    study: Study
    labels: dict[str, int]
    has: tuple[bool, bool]  # findings, impression
    boxes: tuple[tuple[tuple[Box, ...], ...], ...]  # per view, per finding
    regions: tuple[dict[str, Box], ...]  # per view
    readings: tuple[tuple[Reading, ...], ...]  # per view


@dataclass(frozen=True)
class Settings:
    out: Path
    seed: int
    size: int
    gaze_share: float
    context_share: float


def write(
    out: Path,
    studies: int,
    seed: int,
    *,
    size: int = 512,
    jobs: int = 1,
    gaze_share: float = 0.35,
    context_share: float = 0.75,
    raw_gaze: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a phantom collection under `out` and return its counts.

    The files depend on (studies, seed, size, gaze_share, context_share, raw_gaze) alone, not on `jobs`, and the first
    n studies are the same whatever the number of studies. `size` is the shortest side of an image in px, `gaze_share`
    the share of all images that have gaze (frontal films only), `context_share` that of the studies with indication
    or history; `raw_gaze` adds raw eye-tracker samples for a few readings. `progress(done, total)` is called per study.
    Layouts: MIMIC-CXR-JPG 2.1.0 and MIMIC-CXR, REFLACX 1.0.0, EGD 1.0.0; truth.jsonl holds what was drawn where, for
    tests only.

    Raises PhantomError for arguments out of range, and where `out` is a file or a folder that is not empty.
    """
    if studies < 1 or size < 64 or jobs < 1 or seed < 0:
        raise PhantomError("phantom: studies and jobs must be at least 1, size at least 64, seed at least 0")
    if not (0 <= gaze_share <= 1 and 0 <= context_share <= 1):
        raise PhantomError("phantom: gaze_share and context_share are shares between 0 and 1")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise PhantomError(f"{out} is a file: choose a new folder")
    if out.exists() and any(out.iterdir()):
        raise PhantomError(f"{out} is not empty: choose a new folder or delete it first")
    settings = Settings(out, seed, size, min(1.0, gaze_share / FRONTAL_SHARE), context_share)
    tasks = list(enumerate(patient_numbers(seed, studies)))
    drawn: list[Drawn] = []
    for done, item in enumerate(_run(partial(draw_study, settings), tasks, jobs), 1):
        drawn.append(item)
        if progress is not None:
            progress(done, studies)
    mimic_files.write_tables(out, [d.study for d in drawn], [d.labels for d in drawn], seed)
    raw = RAW_GAZE_READINGS if raw_gaze else 0
    reflacx = reflacx_files.write_reflacx(out, list(_reflacx_images(drawn)), seed, raw)
    egd = egd_files.write_egd(out, list(_egd_films(drawn)), seed, raw)
    write_text(out / TRUTH, "".join(f"{json.dumps(line, sort_keys=True)}\n" for d in drawn for line in truth_lines(d)))
    summary = _summary(drawn, reflacx, egd)
    mark = {
        "generator": "cogaze phantom",
        "seed": seed,
        "studies": studies,
        "size": size,
        "gaze_share": gaze_share,
        "context_share": context_share,
        "totals": summary,
        "files": dict(digests(out, (folder for folder in out.iterdir() if folder.is_dir()))),
    }
    write_text(out / MARK, json.dumps(mark, indent=1, sort_keys=True) + "\n")
    return summary


def _run(work: Callable[[tuple[int, int]], Drawn], tasks: list[tuple[int, int]], jobs: int) -> Iterator[Drawn]:
    """The studies in order."""
    if jobs == 1:
        yield from map(work, tasks)
        return
    with pool(jobs) as executor:
        yield from executor.map(work, tasks, chunksize=8)


def draw_study(settings: Settings, task: tuple[int, int]) -> Drawn:
    """Draw and write one study's images and report."""
    number, patient = task
    study = make_study(settings.seed, number, patient, settings.size, settings.context_share)
    report = make_report(study, np.random.default_rng([settings.seed, REPORT, number]))
    write_text(settings.out / mimic_files.DICOM / mimic_files.report_path(study), report.text)
    boxes, regions, readings = [], [], []
    for i, view in enumerate(study.views):
        film = draw(study, view)
        buffer = io.BytesIO()
        Image.fromarray(film.pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        path = settings.out / mimic_files.JPG / image_path(study, view, "jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        boxes.append(film.boxes)
        regions.append(film.regions)
        made = readings_of(study, film, i, settings.seed, settings.gaze_share) if view.frontal else []
        readings.append(tuple(made))
    has = (report.findings is not None, report.impression is not None)
    return Drawn(study, report.labels, has, tuple(boxes), tuple(regions), tuple(readings))


def _reflacx_images(drawn: list[Drawn]) -> Iterator[reflacx_files.ReadImage]:
    for d in drawn:
        for view, boxes, regions, readings in zip(d.study.views, d.boxes, d.regions, d.readings, strict=True):
            chosen = tuple(reading for reading in readings if reading.system == "reflacx")
            if chosen:
                right, left = regions["right lung"], regions["left lung"]
                chest = (right[0], min(right[1], left[1]), left[2], max(right[3], left[3]))
                yield reflacx_files.ReadImage(d.study, view, boxes, chest, chosen)


def _egd_films(drawn: list[Drawn]) -> Iterator[egd_files.DictatedImage]:
    for d in drawn:
        for view, regions, readings in zip(d.study.views, d.regions, d.readings, strict=True):
            for reading in readings:
                if reading.system == "egd":
                    yield egd_files.DictatedImage(d.study, view, d.labels, regions, reading)


def truth_lines(d: Drawn) -> Iterator[dict[str, Any]]:
    """One line an image: what was drawn where (boxes x0, y0, x1, y1 as fractions), for tests only."""
    for view, boxes, regions, readings in zip(d.study.views, d.boxes, d.regions, d.readings, strict=True):
        findings = [
            {
                **{"name": f.name, "kind": f.kind, "side": f.side, "zone": f.zone, "grade": f.grade, "sure": f.sure},
                "boxes": [[round(value, 4) for value in box] for box in places],
            }
            for f, places in zip(d.study.findings, boxes, strict=True)
        ]
        yield {
            "dicom_id": view.dicom_id,
            "study_id": d.study.study_id,
            "subject_id": d.study.patient.subject_id,
            "split": d.study.patient.split,
            "view": view.position,
            "findings": findings,
            "heart": round(d.study.heart, 4),
            "volume": d.study.volume,
            "regions": {name: [round(value, 4) for value in box] for name, box in regions.items()},
            "readings": [
                {"system": r.system, "sentences": [{"text": s.text, "finding": s.finding} for s in r.spoken]}
                for r in readings
            ],
        }


def _summary(drawn: list[Drawn], reflacx: dict[str, int], egd: dict[str, int]) -> dict[str, Any]:
    positions: dict[str, int] = {}
    splits: dict[str, int] = {}
    findings: dict[str, int] = {}
    for d in drawn:
        splits[d.study.patient.split] = splits.get(d.study.patient.split, 0) + 1
        for name in d.study.present or {"none"}:
            findings[name] = findings.get(name, 0) + 1
        for view in d.study.views:
            positions[view.position] = positions.get(view.position, 0) + 1
    return {
        "studies": len(drawn),
        "patients": len({d.study.patient.number for d in drawn}),
        "images": sum(positions.values()),
        "studies_with_context": sum(d.study.indication is not None or d.study.history is not None for d in drawn),
        "gaze_images": sum(bool(readings) for d in drawn for readings in d.readings),
        "reflacx_readings": reflacx["readings"],
        "reflacx_discarded": reflacx["discarded"],
        "egd_readings": egd["readings"],
        "studies_by_split": dict(sorted(splits.items())),
        "images_by_view": dict(sorted(positions.items())),
        "studies_by_finding": dict(sorted(findings.items())),
    }
