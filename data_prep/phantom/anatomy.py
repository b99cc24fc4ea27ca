"""The frontal chest: where its parts are, in body coordinates (see canvas.py).

Side signs: the patient's right is on the left of the film, so right = -1, left = +1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_prep.phantom.canvas import curve
from data_prep.phantom.plan import Study, View

SIGN = {"right": -1.0, "left": 1.0}
VOLUME = {"low": 0.80, "normal": 1.0, "high": 1.13}
WALL_Y = np.array([0.0, 0.12, 0.42, 0.85, 1.3, 1.65, 1.85, 3.0])
WALL_X = np.array([0.34, 0.58, 0.78, 0.92, 0.985, 0.99, 0.965, 0.96])
# grade -> cardiothoracic ratio range, shared with the wording of the report
HEART_GRADES = {"mild": (0.55, 0.58), "moderate": (0.61, 0.65), "severe": (0.69, 0.75)}
RIBS = 10


@dataclass
class FrontalAnatomy:
    """Outlines in body coordinates. `base` is the height of the costophrenic angles."""

    base: float
    dome: dict[str, float]  # height of the top of each hemidiaphragm
    lung: dict[str, np.ndarray]
    medial: dict[str, np.ndarray]
    diaphragm: dict[str, np.ndarray]
    heart: np.ndarray
    heart_edge: dict[str, np.ndarray]  # border of mediastinum and heart on each side, from the top down
    heart_box: np.ndarray
    mediastinum: np.ndarray
    clavicle: dict[str, np.ndarray]
    posterior: dict[str, list[np.ndarray]]
    anterior: dict[str, list[np.ndarray]]
    spine: np.ndarray  # centre line (n,2)
    trachea: np.ndarray
    hilum: dict[str, tuple[float, float]]
    regions: dict[str, np.ndarray] = field(default_factory=dict)

    def wall(self, y: float | np.ndarray) -> np.ndarray:
        """Distance of the inner chest wall from the midline at height y."""
        return np.interp(np.asarray(y) * 1.85 / self.base, WALL_Y, WALL_X)

    def zone(self, zone: str) -> tuple[float, float]:
        """Heights between which the upper, mid or lower lung zone lies."""
        top = 0.08
        thirds = np.linspace(top, self.base - 0.16, 4)
        i = ("upper", "mid", "lower").index(zone)
        return float(thirds[i]), float(thirds[i + 1])

    def place(self, rng: np.random.Generator, side: str, zone: str, spread: float = 0.5) -> tuple[float, float]:
        """A point inside a lung zone, between the heart or mediastinum and the wall."""
        low, high = self.zone(zone)
        y = low + (high - low) * (0.5 + spread * rng.uniform(-0.5, 0.5))
        inner = self.inner(side, y)
        outer = float(self.wall(y)) - 0.06
        return SIGN[side] * (inner + (outer - inner) * (0.5 + spread * rng.uniform(-0.5, 0.5))), y

    def inner(self, side: str, y: float) -> float:
        """Distance from the midline at which aerated lung shows beside heart and mediastinum."""
        edge = self.heart_edge[side]
        return float(np.interp(y, edge[:, 1], np.abs(edge[:, 0])))


def heart_ratio(study: Study, view: View) -> float:
    """Cardiothoracic ratio as drawn; an AP film magnifies the heart a little."""
    ratio = study.heart
    for finding in study.findings:
        if finding.name == "Cardiomegaly":
            low, high = HEART_GRADES[finding.grade]
            ratio = low + (high - low) * finding.extent
    return ratio + (0.015 if view.position == "AP" else 0.0)


def frontal_anatomy(study: Study, view: View) -> FrontalAnatomy:
    patient = study.patient
    base = 1.85 * VOLUME[study.volume] * patient.tall * (0.95 if view.position == "AP" else 1.0)
    raised = {side: 0.26 if study.raised == side else 0.0 for side in SIGN}
    for finding in study.findings:
        if finding.name == "Atelectasis" and finding.sure:
            for side in SIGN:
                raised[side] += 0.12 if finding.side in (side, "both") else 0.0
    dome_height = 0.30 if study.volume != "high" else 0.16
    dome = {side: base - dome_height - raised[side] - (0.06 if side == "right" else 0.0) for side in SIGN}
    lean = 0.10 * view.turn  # rotation moves what lies in front of the axis
    ratio = 2 * 0.985 * heart_ratio(study, view)
    k = base / 1.85

    # the heart's borders: right atrium to the left of the film, left ventricle to the right
    atrium, ventricle = -0.33 * ratio + lean, 0.67 * ratio + lean
    knob = 0.24 + 0.13 * patient.aorta
    right_edge = curve(
        [
            *[(-0.15, -0.12), (-0.16, 0.3 * k), (-0.19 + lean, 0.62 * k), (-0.18 + lean, 0.86 * k)],
            *[(atrium * 0.92, 1.12 * k), (atrium, 1.36 * k), (atrium * 0.86, 1.62 * k), (atrium * 0.5, base - 0.08)],
        ]
    )
    left_edge = curve(
        [
            *[(0.13, -0.12), (0.15, 0.26 * k), (knob + lean, 0.46 * k), (knob * 0.92 + lean, 0.58 * k)],
            *[(0.19 + lean, 0.7 * k), (0.2 + 0.2 * (ratio - 0.85) + lean, 0.84 * k), (0.62 * ventricle, 1.06 * k)],
            *[(0.93 * ventricle, 1.36 * k), (ventricle, 1.56 * k), (ventricle * 0.86, 1.72 * k), (0.3, base - 0.02)],
        ]
    )
    edges = {"right": right_edge, "left": left_edge}
    mediastinum = np.concatenate([right_edge, left_edge[::-1]])
    heart = mediastinum[mediastinum[:, 1] > 0.8 * k]

    lungs, medial, diaphragm = {}, {}, {}
    for side, sign in SIGN.items():
        wall_y = np.linspace(0.0, base, 26)
        outer = np.stack([np.interp(wall_y / k, WALL_Y, WALL_X), wall_y], 1)
        top = dome[side]
        floor = curve(
            [
                *[(0.955, base), (0.87, base - 0.14 - 0.3 * raised[side]), (0.72, top + 0.06), (0.48, top)],
                *[(0.26, top + 0.04), (0.06, top + 0.10)],
            ]
        )
        inside = curve([(0.06, top + 0.10), (0.07, 0.9 * k), (0.09, 0.45 * k), (0.17, 0.12), (0.26, 0.02), (0.34, 0.0)])
        apex = curve([(0.34, 0.0), (0.46, 0.015), (0.58, 0.12)])
        outline = np.concatenate([apex, outer[outer[:, 1] > 0.15 * k], floor, inside])
        lungs[side] = outline * (sign, 1)
        medial[side] = inside * (sign, 1)
        diaphragm[side] = floor * (sign, 1)

    bend = patient.scoliosis
    spine_y = np.linspace(-0.6, base + 1.2, 24)
    spine = np.stack([0.16 * bend * np.sin((spine_y + 0.2) / (base + 0.4) * np.pi), spine_y], 1)
    lift = 0.10 if view.position == "AP" else 0.0
    clavicle = {
        side: curve(
            [(0.1, 0.17), (0.34, 0.13 - lift), (0.62, 0.03 - lift), (0.9, -0.12 - lift), (1.08, -0.1 - lift)], 5
        )
        * (sign, 1)
        + (0.4 * lean, 0)
        for side, sign in SIGN.items()
    }
    posterior: dict[str, list[np.ndarray]] = {}
    anterior: dict[str, list[np.ndarray]] = {}
    for side, sign in SIGN.items():
        posterior[side], anterior[side] = [], []
        t = np.linspace(0, 1, 22)
        for rib in range(RIBS):
            y0 = (-0.03 + 0.17 * rib) * k
            fall = (0.10 + 0.028 * rib) * patient.slope
            end = y0 + fall
            out = float(np.interp(end / k, WALL_Y, WALL_X)) + 0.025
            back = np.stack(
                [0.1 + (out - 0.1) * np.sin(t * np.pi / 2) ** 0.9, y0 - 0.07 * np.sin(t * np.pi) + fall * t**2], 1
            )
            back[:, 0] += np.interp(back[:, 1], spine[:, 1], spine[:, 0]) * sign * (1 - t)
            posterior[side].append(back * (sign, 1))
            if 0 < rib < 8:
                reach = out - 0.40
                front = np.stack(
                    [out - reach * t**1.3, end + (0.30 + 0.02 * rib) * patient.slope * (1 - (1 - t) ** 1.6)], 1
                )
                anterior[side].append(front * (sign, 1))
    anatomy = FrontalAnatomy(
        base=base,
        dome=dome,
        lung=lungs,
        medial=medial,
        diaphragm=diaphragm,
        heart=heart,
        heart_box=heart[heart[:, 1] < base],
        mediastinum=mediastinum,
        clavicle=clavicle,
        posterior=posterior,
        anterior=anterior,
        spine=spine,
        trachea=np.array([(0.0, -0.7), (0.01 + 0.5 * lean, 0.1), (0.015 + lean, 0.66 * k)]),
        hilum={"right": (-0.22 + lean, 0.88 * k), "left": (0.25 + lean, 0.83 * k)},
        heart_edge=edges,
    )
    anatomy.regions = _regions(anatomy)
    return anatomy


def _rectangle(side: str, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    sign = SIGN.get(side, 1.0)
    return np.array([(sign * x0, y0), (sign * x1, y1)])


def _regions(a: FrontalAnatomy) -> dict[str, np.ndarray]:
    """The 17 named places of EGD's bounding_boxes.csv plus those that sentences speak of; points to be boxed."""
    places: dict[str, np.ndarray] = {
        "cardiac silhouette": a.heart_box,
        "trachea": a.trachea[1:] + np.array([(-0.07, 0), (0.07, 0)]),
    }
    places["mediastinum"] = a.mediastinum[a.mediastinum[:, 1] < 1.0]
    for side in SIGN:
        places[f"{side} lung"] = a.lung[side]
        places[f"{side} clavicle"] = a.clavicle[side]
        x, y = a.hilum[side]
        places[f"{side} hilar structures"] = np.array([(x - 0.16, y - 0.2), (x + 0.16, y + 0.22)])
        places[f"{side} costophrenic angle"] = _rectangle(side, 0.68, 0.99, a.base - 0.3, a.base + 0.04)
        places[f"{side} apex"] = _rectangle(side, 0.2, 0.72, 0.0, 0.34)
        places[f"{side} diaphragm"] = a.diaphragm[side]
        places[f"{side} ribs"] = _rectangle(side, 0.62, 1.02, 0.3, a.base - 0.2)
        for zone in ("upper", "mid", "lower"):
            low, high = a.zone(zone)
            places[f"{side} {zone} lung zone"] = _rectangle(side, 0.12, float(a.wall((low + high) / 2)), low, high)
    places["spine"] = a.spine[(a.spine[:, 1] > 0) & (a.spine[:, 1] < a.base + 0.3)] + [[0.0, 0.0]]
    places["stomach"] = _rectangle("left", 0.15, 0.8, a.dome["left"] + 0.05, a.dome["left"] + 0.5)
    places["aortic knob"] = np.array([(0.1, 0.36), (0.42, 0.66)])
    return places
