"""What a phantom study is, before anything is drawn or written: patient, findings, views, context, readings.

Everything is drawn from `numpy.random.default_rng([seed, stream, number])`, a stream of its own per patient and per
study, so that study 17 is the same study whatever the number of studies or processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from data_prep.phantom import context

# The observations that are drawn, with the weight each has when a study's findings are picked.
DRAWN: dict[str, float] = {
    "Pleural Effusion": 1.2,
    "Cardiomegaly": 1.2,
    "Consolidation": 1.1,
    "Lung Opacity": 1.1,
    "Pneumothorax": 1.1,
    "Lung Lesion": 1.1,
    "Fracture": 1.1,
    "Support Devices": 1.2,
    "Edema": 0.9,
    "Atelectasis": 0.9,
}
FINDINGS_PER_STUDY = (0.27, 0.31, 0.27, 0.15)  # probability of 0, 1, 2, 3 findings
HEDGED_SHARE = 0.15  # of the findings below: drawn faintly and reported as possible, label -1
HEDGEABLE = ("Pleural Effusion", "Consolidation", "Lung Opacity", "Atelectasis")
DEVICES = (
    "pacemaker",
    "port",
    "jugular line",
    "picc",
    "endotracheal tube",
    "enteric tube",
    "chest tube",
    "sternal wires",
)
FRONTAL_SHARE = 0.78  # of all images, as VIEW_SETS below gives it
# Views of one study and how often; PA and AP are drawn equally often for every finding, so a view tells nothing.
VIEW_SETS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.27, ("PA",)),
    (0.29, ("AP",)),
    (0.20, ("PA", "LATERAL")),
    (0.07, ("AP", "LL")),
    (0.05, ("PA", "AP")),
    (0.05, ("AP", "AP")),
    (0.07, ("PA", "PA", "LL")),
)
SPLIT_BLOCK = ("train",) * 37 + ("validate",) * 4 + ("test",) * 9  # every 50 patients: 74 %, 8 %, 18 %
PATIENT, STUDY, IDS, SPLIT, GAZE, REPORT, TABLES = range(1, 8)  # names of the random streams


@dataclass(frozen=True)
class Finding:
    """One abnormality or device of a study.

    `extent` runs 0..1 inside its grade and sets the drawn size; `seed` is the drawing's own random stream, so that
    taking a finding away leaves the rest of the picture as it was.
    """

    name: str  # a CheXbert observation
    kind: str
    side: str  # right | left | both | "" (midline)
    zone: str  # upper | mid | lower | ""
    grade: str  # small | moderate | large, mild | moderate | severe, or ""
    extent: float
    sure: bool
    seed: int


@dataclass(frozen=True)
class Patient:
    """What stays the same over a patient's studies. Lengths are in half thorax widths."""

    number: int
    subject_id: int
    split: str
    sex: str  # F | M
    decade: int  # age is within decade .. decade + 10
    fat: float  # soft tissue beside the chest wall
    tall: float  # chest height over its usual value
    slope: float  # how steeply the ribs fall
    scoliosis: float  # sideways bend of the spine, 0 = straight; positive bends to the patient's left
    aorta: float  # 0 = normal, 1 = tortuous with a large knob
    seed: int


@dataclass(frozen=True)
class View:
    """One exposure: where the patient stands in it and how it was taken. Shifts are fractions of the short side."""

    position: str  # PA | AP | LATERAL | LL
    dicom_id: str
    width: int
    height: int
    shift_x: float
    shift_y: float
    zoom: float
    tilt: float  # radians
    turn: float  # -1..1, the patient's rotation about the vertical axis; positive turns to the patient's left
    exposure: float
    contrast: float
    noise: float
    collimation: float  # 0 = none
    seed: int

    @property
    def frontal(self) -> bool:
        return self.position in ("PA", "AP")


@dataclass(frozen=True)
class Study:
    number: int
    study_id: int
    patient: Patient
    findings: tuple[Finding, ...]
    heart: float  # cardiothoracic ratio without cardiomegaly
    volume: str  # low | normal | high
    raised: str  # side of an elevated hemidiaphragm or ""
    stomach: bool  # distended with gas
    views: tuple[View, ...]
    indication: str | None
    history: str | None
    seed: int

    def without(self, name: str) -> Study:
        """The same study with every finding of that name taken away."""
        return replace(self, findings=tuple(f for f in self.findings if f.name != name))

    @property
    def present(self) -> frozenset[str]:
        return frozenset(finding.name for finding in self.findings)


def number_of_ids(seed: int, stream: int, number: int, base: int) -> int:
    """The number-th 8-digit id: a bijection (multiply and add modulo a prime), so ids are unique and not in order."""
    prime = 9_999_991
    rng = np.random.default_rng([seed, IDS, stream])
    factor, offset = int(rng.integers(1_000_000, prime)), int(rng.integers(prime))
    return base + (number * factor + offset) % prime


def dicom_id(seed: int, study: int, image: int) -> str:
    """40 hexadecimal digits in five groups of eight."""
    digits = hashlib.sha1(f"phantom {seed} {study} {image}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def patient_numbers(seed: int, studies: int) -> list[int]:
    """Patient number of every study; about three in ten patients come twice, with consecutive studies."""
    rng = np.random.default_rng([seed, PATIENT])
    numbers: list[int] = []
    patient = 0
    while len(numbers) < studies:
        numbers += [patient] * (2 if rng.random() < 0.3 else 1)
        patient += 1
    return numbers[:studies]


def make_patient(seed: int, number: int) -> Patient:
    rng = np.random.default_rng([seed, PATIENT, number])
    block, place = divmod(number, len(SPLIT_BLOCK))
    order = np.random.default_rng([seed, SPLIT, block]).permutation(len(SPLIT_BLOCK))
    scoliosis = rng.choice([-1, 1]) * rng.uniform(0.6, 1.0) if rng.random() < 0.12 else rng.uniform(-0.12, 0.12)
    return Patient(
        number=number,
        subject_id=number_of_ids(seed, PATIENT, number, 10_000_000),
        split=SPLIT_BLOCK[order[place]],
        sex="F" if rng.random() < 0.48 else "M",
        decade=int(rng.integers(2, 8)) * 10,
        fat=float(rng.beta(2, 3) * 0.5),
        tall=float(rng.uniform(0.94, 1.08)),
        slope=float(rng.uniform(0.7, 1.3)),
        scoliosis=float(scoliosis),
        aorta=float(rng.uniform(0.75, 1.0)) if rng.random() < 0.15 else float(rng.uniform(0, 0.15)),
        seed=int(rng.integers(2**62)),
    )


def make_study(seed: int, number: int, patient_number: int, size: int = 512, context_share: float = 0.75) -> Study:
    """Study `number`, images with the shortest side `size` px. A pure function of its arguments."""
    rng = np.random.default_rng([seed, STUDY, number])
    patient = make_patient(seed, patient_number)
    findings = make_findings(rng)
    names = [finding.name for finding in findings]
    volume = str(rng.choice(["low", "normal", "high"], p=[0.2, 0.66, 0.14]))
    raised = str(rng.choice(["right", "left"])) if rng.random() < 0.1 else ""
    if "Atelectasis" in names or "Pleural Effusion" in names:
        raised = ""  # those move or hide the diaphragm themselves
    heart = rng.uniform(0.475, 0.495) if rng.random() < 0.2 else rng.uniform(0.39, 0.445)
    positions = VIEW_SETS[int(rng.choice(len(VIEW_SETS), p=[share for share, _ in VIEW_SETS]))][1]
    turned = float(rng.choice([-1, 1]) * rng.uniform(0.7, 1.0)) if rng.random() < 0.12 else 0.0
    views = tuple(
        make_view(rng, position, dicom_id(seed, number, i), size, turned) for i, position in enumerate(positions)
    )
    indication, history = None, None
    if rng.random() < context_share:
        indication, history = context.make_context(rng, names, patient.sex)
    return Study(
        number=number,
        study_id=number_of_ids(seed, STUDY, number, 50_000_000),
        patient=patient,
        findings=findings,
        heart=float(heart),
        volume=volume,
        raised=raised,
        stomach=bool(rng.random() < 0.13),
        views=views,
        indication=indication,
        history=history,
        seed=int(rng.integers(2**62)),
    )


def make_view(rng: np.random.Generator, position: str, dicom: str, size: int, turned: float) -> View:
    """One exposure. PA films are larger in the frame and quieter; AP ones are portable, noisier, more tilted."""
    portable = position == "AP"
    aspect = rng.uniform(1.0, 1.18)
    landscape = rng.random() < (0.35 if portable else 0.12)
    long_side = round(size * aspect)
    width, height = (long_side, size) if landscape else (size, long_side)
    return View(
        position=position,
        dicom_id=dicom,
        width=width,
        height=height,
        shift_x=float(rng.uniform(-0.09, 0.09)),
        shift_y=float(rng.uniform(-0.07, 0.07)),
        zoom=float(rng.uniform(0.80, 1.06)),
        tilt=float(rng.normal(0, 0.045 if portable else 0.02)),
        turn=turned if turned and position != "LATERAL" else float(rng.uniform(-0.15, 0.15)),
        exposure=float(rng.uniform(0.86, 1.16)),
        contrast=float(rng.uniform(0.85, 1.2)),
        noise=float(rng.uniform(0.012, 0.03) * (1.4 if portable else 1.0)),
        collimation=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.35 else 0.0,
        seed=int(rng.integers(2**62)),
    )


# ------------------------------------------------------------------------------------------------ findings
def make_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """0-3 observations (a support-device study may hold several devices); no two share a lung zone."""
    count = int(rng.choice(len(FINDINGS_PER_STUDY), p=FINDINGS_PER_STUDY))
    weights = np.array(list(DRAWN.values()))
    chosen = rng.choice(list(DRAWN), size=count, replace=False, p=weights / weights.sum())
    taken: set[tuple[str, str]] = set()
    findings: list[Finding] = []
    for name in sorted(chosen, key=list(DRAWN).index):
        findings += _place(rng, str(name), taken)
    return tuple(findings)


def _grade(rng: np.random.Generator, words: tuple[str, str, str], p: tuple[float, float, float]) -> tuple[str, float]:
    return words[int(rng.choice(3, p=p))], float(rng.random())


def _free(rng: np.random.Generator, cells: list[tuple[str, str]], taken: set[tuple[str, str]]) -> tuple[str, str]:
    """A (side, zone) among `cells` that no other finding holds; any of them if all are held."""
    open_cells = [cell for cell in cells if cell not in taken] or cells
    side, zone = open_cells[int(rng.integers(len(open_cells)))]
    taken.add((side, zone))
    return side, zone


def _place(rng: np.random.Generator, name: str, taken: set[tuple[str, str]]) -> list[Finding]:
    sides, zones = ("right", "left"), ("upper", "mid", "lower")
    lung = [(side, zone) for side in sides for zone in zones]
    kind, side, zone, grade, extent = "", "", "", "", float(rng.random())
    if name == "Pleural Effusion":
        grade, extent = _grade(rng, ("small", "moderate", "large"), (0.35, 0.35, 0.3))
        side = str(rng.choice(["right", "left", "both"], p=[0.4, 0.4, 0.2]))
        if side == "both" and grade == "large":
            grade = "moderate"
        for one in sides if side == "both" else (side,):
            taken.add((one, "lower"))
            if grade == "large":
                taken.add((one, "mid"))
    elif name == "Cardiomegaly":
        grade, extent = _grade(rng, ("mild", "moderate", "severe"), (0.3, 0.4, 0.3))
    elif name in ("Consolidation", "Lung Opacity"):
        side, zone = _free(rng, lung, taken)
        kind = "lobar" if name == "Consolidation" and rng.random() < 0.45 else "focal"
    elif name == "Pneumothorax":
        grade, extent = _grade(rng, ("small", "moderate", "large"), (0.3, 0.4, 0.3))
        side, _ = _free(rng, [("right", "upper"), ("left", "upper")], taken)
        if grade == "large":
            taken.add((side, "mid"))
    elif name == "Lung Lesion":
        kind = str(rng.choice(["nodule", "mass", "multiple"], p=[0.35, 0.4, 0.25]))
        side, zone = ("both", "") if kind == "multiple" else _free(rng, lung, taken)
    elif name == "Fracture":
        kind = str(rng.choice(["ribs", "clavicle"], p=[0.65, 0.35]))
        side = str(rng.choice(sides))
        zone = str(rng.choice(["mid", "lower"])) if kind == "ribs" else "upper"
    elif name == "Edema":
        grade, extent = _grade(rng, ("mild", "moderate", "severe"), (0.3, 0.4, 0.3))
        side = "both"
    elif name == "Atelectasis":
        side = _free(rng, [("right", "lower"), ("left", "lower")], taken)[0]
        if ("right", "lower") not in taken or ("left", "lower") not in taken:
            side = "both" if rng.random() < 0.25 else side
        zone = "lower"
    else:
        return [_device(rng, str(device)) for device in rng.permutation(DEVICES)[: 1 + int(rng.random() < 0.45)]]
    sure = not (name in HEDGEABLE and rng.random() < HEDGED_SHARE)
    if not sure:
        grade, kind = ("small" if name == "Pleural Effusion" else grade), ("focal" if kind == "lobar" else kind)
    return [Finding(name, kind, side, zone, grade, extent, sure, int(rng.integers(2**62)))]


def _device(rng: np.random.Generator, kind: str) -> Finding:
    midline = kind in ("endotracheal tube", "enteric tube", "sternal wires")
    side = "" if midline else str(rng.choice(["right", "left"]))
    if kind == "pacemaker":
        side = str(rng.choice(["right", "left"], p=[0.25, 0.75]))
    return Finding("Support Devices", kind, side, "", "", float(rng.random()), True, int(rng.integers(2**62)))
