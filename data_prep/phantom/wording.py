"""How a finding is said: several wordings each, with its side, place, size and kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_prep.phantom.plan import Finding

ADVERB = {"mild": "mildly", "moderate": "moderately", "severe": "severely"}


@dataclass(frozen=True)
class Statement:
    text: str
    labels: dict[str, int] = field(default_factory=dict)


def place(rng: np.random.Generator, side: str, zone: str) -> str:
    """A wording of a lung zone: 'right upper lobe', 'left lung base'."""
    words = {
        "upper": ("upper lobe", "upper lung zone", "upper lung"),
        "mid": ("mid lung", "mid lung zone"),
        "lower": ("lower lobe", "lower lung zone", "lung base"),
    }
    return f"{side} {rng.choice(words[zone])}"


def positive(rng: np.random.Generator, f: Finding) -> Statement:
    """One sentence that states the finding."""
    text = str(rng.choice(WORDINGS[f.name](rng, f)))
    labels = {f.name: 1 if f.sure else -1}
    if f.name == "Consolidation" and f.kind == "lobar":
        labels["Pneumonia"] = 1
    return Statement(text[0].upper() + text[1:], labels)


def _effusion(rng: np.random.Generator, f: Finding) -> list[str]:
    if not f.sure:
        where = "costophrenic angles" if f.side == "both" else f"{f.side} costophrenic angle"
        what = "small bilateral pleural effusions" if f.side == "both" else f"a small {f.side} pleural effusion"
        return [
            f"blunting of the {where} may represent {what}.",
            f"{what} cannot be excluded.",
            f"possible {what[2:] if what[:2] == 'a ' else what}.",
        ]
    if f.side == "both":
        return [
            f"{f.grade} bilateral pleural effusions.",
            f"there are {f.grade} bilateral pleural effusions.",
            f"bilateral pleural effusions are {f.grade} in size.",
        ]
    return [
        f"there is a {f.grade} {f.side} pleural effusion.",
        f"{f.grade} {f.side} pleural effusion is present.",
        f"a {f.grade} {f.side}-sided pleural effusion is seen.",
        f"{f.grade} pleural effusion on the {f.side}"
        + (" with blunting of the costophrenic angle." if f.grade == "small" else " obscuring the hemidiaphragm."),
    ]


def _cardiomegaly(rng: np.random.Generator, f: Finding) -> list[str]:
    return [
        f"there is {f.grade} cardiomegaly.",
        f"the heart is {ADVERB[f.grade]} enlarged.",
        f"{f.grade} cardiomegaly is present.",
        f"the cardiac silhouette is {ADVERB[f.grade]} enlarged.",
        f"heart size is {ADVERB[f.grade]} enlarged.",
    ]


def _consolidation(rng: np.random.Generator, f: Finding) -> list[str]:
    where = place(rng, f.side, f.zone)
    if not f.sure:
        return [f"possible consolidation in the {where}.", f"early consolidation in the {where} cannot be excluded."]
    if f.kind == "lobar":
        return [
            f"there is dense consolidation of the {where} compatible with pneumonia.",
            f"lobar consolidation in the {where} is consistent with pneumonia.",
            f"dense {where} consolidation with air bronchograms, compatible with pneumonia.",
        ]
    return [
        f"there is a focal consolidation in the {where}.",
        f"focal {where} consolidation is present.",
        f"a rounded area of consolidation is seen in the {where}.",
    ]


def _opacity(rng: np.random.Generator, f: Finding) -> list[str]:
    where = place(rng, f.side, f.zone)
    if not f.sure:
        return [f"possible faint opacity in the {where}.", f"faint opacities in the {where} cannot be excluded."]
    return [
        f"there are patchy opacities in the {where}.",
        f"patchy {where} opacities are present.",
        f"hazy patchy opacity is seen in the {where}.",
        f"ill-defined opacities in the {where}.",
    ]


def _pneumothorax(rng: np.random.Generator, f: Finding) -> list[str]:
    extra = {"small": "apical pneumothorax", "moderate": "pneumothorax", "large": "pneumothorax"}[f.grade]
    tail = " with collapse of the lung" if f.grade == "large" else ""
    return [
        f"there is a {f.grade} {f.side} {extra}{tail}.",
        f"{f.grade} {f.side} {extra} is present.",
        f"a {f.grade} {f.side}-sided pneumothorax is seen{tail}.",
    ]


def _lesion(rng: np.random.Generator, f: Finding) -> list[str]:
    if f.kind == "multiple":
        return [
            "multiple bilateral pulmonary nodules.",
            "there are multiple round nodules in both lungs.",
            "numerous pulmonary nodules are seen in both lungs.",
        ]
    where = place(rng, f.side, f.zone)
    size = "3 cm" if f.kind == "nodule" else ("5 cm" if f.extent < 0.5 else "7 cm")
    return [
        f"there is a {f.kind} in the {where}.",
        f"a {size} {f.kind} is seen in the {where}.",
        f"{where} {f.kind} measuring {size}.",
        f"a round {f.kind} projects over the {where}.",
    ]


def _fracture(rng: np.random.Generator, f: Finding) -> list[str]:
    if f.kind == "clavicle":
        return [
            f"there is a displaced fracture of the {f.side} clavicle.",
            f"displaced {f.side} clavicle fracture.",
            f"a fracture of the mid {f.side} clavicle is seen.",
        ]
    ribs = "lower ribs" if f.zone == "lower" else "mid ribs"
    return [
        f"there are displaced fractures of the {f.side} lateral {ribs}.",
        f"multiple displaced {f.side} rib fractures, involving the {ribs}.",
        f"{f.side} lateral rib fractures of the {ribs} are present.",
    ]


def _device(rng: np.random.Generator, f: Finding) -> list[str]:
    s = f.side
    return {
        "pacemaker": [
            f"a {s} chest wall pacemaker has leads in the right atrium and right ventricle.",
            f"{s}-sided pacemaker with two leads is in place.",
            f"dual lead pacemaker in the {s} chest.",
        ],
        "port": [f"a {s} chest wall port terminates in the svc.", f"{s}-sided port catheter with tip in the svc."],
        "jugular line": [
            f"a {s} internal jugular central venous catheter terminates in the svc.",
            f"{s} internal jugular line with tip in the svc.",
        ],
        "picc": [f"a {s} picc terminates in the low svc.", f"{s}-sided picc line with tip in the low svc."],
        "endotracheal tube": [
            "an endotracheal tube terminates above the carina.",
            "endotracheal tube tip is in standard position above the carina.",
        ],
        "enteric tube": [
            "an enteric tube courses below the diaphragm into the stomach.",
            "enteric tube tip is in the stomach.",
        ],
        "sternal wires": ["median sternotomy wires are intact.", "sternotomy wires are seen in the midline."],
        "chest tube": [f"a {s} chest tube is in place with tip at the apex.", f"{s}-sided chest tube is seen."],
    }[f.kind]


def _edema(rng: np.random.Generator, f: Finding) -> list[str]:
    return [
        f"there is {f.grade} pulmonary edema.",
        f"{f.grade} pulmonary edema with perihilar haze.",
        f"perihilar haze and vascular congestion compatible with {f.grade} pulmonary edema.",
    ]


def _atelectasis(rng: np.random.Generator, f: Finding) -> list[str]:
    where = "both lung bases" if f.side == "both" else f"the {f.side} lung base"
    side = "bibasilar" if f.side == "both" else f"{f.side} basilar"
    if not f.sure:
        return [f"possible {side} atelectasis.", f"faint bands at {where} may represent atelectasis."]
    return [
        f"linear atelectasis at {where}.",
        f"there is {side} linear atelectasis with volume loss.",
        f"bands of atelectasis are seen at {where}.",
    ]


WORDINGS = {
    "Pleural Effusion": _effusion,
    "Cardiomegaly": _cardiomegaly,
    "Consolidation": _consolidation,
    "Lung Opacity": _opacity,
    "Pneumothorax": _pneumothorax,
    "Lung Lesion": _lesion,
    "Fracture": _fracture,
    "Support Devices": _device,
    "Edema": _edema,
    "Atelectasis": _atelectasis,
}
