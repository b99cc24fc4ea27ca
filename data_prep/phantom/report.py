"""The written report: sentences from the facts of a study, and the .txt file as MIMIC-CXR lays it out.

Whatever is said can be seen in the pictures. Each sentence carries the labels it gives, so that the label tables say
what the text says: 1 stated, 0 stated to be absent, -1 hedged, nothing where it is not spoken of.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np

from data_prep.phantom.plan import Study
from data_prep.phantom.wording import WORDINGS, Statement, positive

LUNG = ("Consolidation", "Lung Opacity", "Lung Lesion", "Edema", "Atelectasis")
# reports of which only one of the two sections exists
IMPRESSION_ONLY, FINDINGS_ONLY = 0.07, 0.10


@dataclass(frozen=True)
class Report:
    findings: str | None
    impression: str | None
    labels: dict[str, int]  # CheXbert name -> 1, 0, -1; an absent name is not mentioned
    text: str  # the whole .txt file


# ------------------------------------------------------------------------------------------------ absent, incidental
def views_statement(rng: np.random.Generator, study: Study) -> Statement:
    positions = [view.position for view in study.views]
    lateral = "LATERAL" in positions or "LL" in positions
    frontal = "PA" if "PA" in positions else "AP"
    if lateral:
        options = [
            f"{frontal} and lateral views of the chest.",
            f"{frontal} and lateral chest radiographs were obtained.",
        ]
    elif len(set(positions)) > 1:
        options = ["PA and AP views of the chest.", "PA and portable AP radiographs of the chest."]
    elif frontal == "AP":
        options = [
            "portable AP view of the chest.",
            "single portable AP radiograph.",
            "AP portable upright chest radiograph.",
        ]
    else:
        options = ["PA view of the chest.", "single PA radiograph of the chest."]
    text = str(rng.choice(options))
    return Statement(text[0].upper() + text[1:])


def pleura_and_lungs(rng: np.random.Generator, present: frozenset[str]) -> list[Statement]:
    """What is said to be absent in lungs and pleura."""
    said: list[Statement] = []
    absent = [name for name in ("Consolidation", "Pleural Effusion", "Pneumothorax") if name not in present]
    words = {
        "Consolidation": "focal consolidation",
        "Pleural Effusion": "pleural effusion",
        "Pneumothorax": "pneumothorax",
    }
    if not present & set(LUNG):
        said.append(Statement(str(rng.choice(["The lungs are clear.", "Lungs are clear.", "Both lungs are clear."]))))
    elif rng.random() < 0.3:
        said.append(
            Statement(str(rng.choice(["The lungs are otherwise clear.", "The remainder of the lungs is clear."])))
        )
    if absent and rng.random() < 0.9:
        listed = [words[name] for name in absent]
        text = (
            listed[0]
            if len(listed) == 1
            else ", ".join(listed[:-1]) + (", or " if len(listed) > 2 else " or ") + listed[-1]
        )
        form = str(rng.choice(["No {}.", "There is no {}.", "No evidence of {}.", "No {} is seen."]))
        said.append(Statement(form.format(text), dict.fromkeys(absent, 0)))
    if "Edema" not in present and rng.random() < 0.4:
        said.append(
            Statement(
                str(rng.choice(["No pulmonary edema.", "There is no evidence of pulmonary edema."])), {"Edema": 0}
            )
        )
    if not present & {"Consolidation", "Lung Opacity"} and rng.random() < 0.15:
        said.append(Statement("No evidence of pneumonia.", {"Pneumonia": 0}))
    if "Lung Lesion" not in present and rng.random() < 0.2:
        said.append(
            Statement(str(rng.choice(["No nodule or mass.", "No suspicious pulmonary nodule."])), {"Lung Lesion": 0})
        )
    return said


def normal_heart(rng: np.random.Generator, study: Study) -> Statement:
    if study.heart > 0.46:
        options = ["Heart size is top normal.", "The heart is at the upper limits of normal in size."]
    else:
        options = ["Heart size is normal.", "The cardiac silhouette is normal in size.", "The heart is normal in size."]
    return Statement(str(rng.choice(options)), {"Cardiomegaly": 0})


def incidental(rng: np.random.Generator, study: Study) -> list[Statement]:
    """Things to see that are no CheXbert observation, but tell one film from another."""
    patient, said = study.patient, []
    if study.volume == "low":
        said.append(rng.choice(["Lung volumes are low.", "Low lung volumes.", "Low inspiratory lung volumes."]))
    elif study.volume == "high":
        said.append(rng.choice(["The lungs are hyperinflated.", "Hyperinflated lungs with flat diaphragms."]))
    if study.raised:
        said.append(
            rng.choice(
                [f"The {study.raised} hemidiaphragm is elevated.", f"Elevation of the {study.raised} hemidiaphragm."]
            )
        )
    if abs(patient.scoliosis) > 0.5:
        side = "left" if patient.scoliosis > 0 else "right"
        said.append(
            rng.choice(
                [
                    f"Scoliosis of the thoracic spine convex to the {side}.",
                    f"There is thoracic scoliosis to the {side}.",
                ]
            )
        )
    if patient.aorta > 0.5:
        said.append(rng.choice(["The aorta is tortuous.", "Tortuous aorta with a prominent knob."]))
    if study.stomach:
        said.append(rng.choice(["The stomach is distended with gas.", "Gas distends the stomach."]))
    turn = [view.turn for view in study.views if abs(view.turn) > 0.5]
    if turn:
        said.append(f"The patient is rotated to the {'left' if turn[0] > 0 else 'right'}.")
    return [Statement(str(text)) for text in said]


def _findings(rng: np.random.Generator, study: Study) -> list[Statement]:
    present = study.present
    blocks = {name: [positive(rng, f) for f in study.findings if f.name == name] for name in WORDINGS}
    said = [views_statement(rng, study)] if rng.random() < 0.65 else []
    said += blocks["Support Devices"]
    said += incidental(rng, study)
    for name in (*LUNG, "Pleural Effusion", "Pneumothorax"):
        said += blocks[name]
    said += pleura_and_lungs(rng, present)
    heart = blocks["Cardiomegaly"] or [normal_heart(rng, study)]
    if study.patient.aorta < 0.5 and rng.random() < 0.4:
        contours = ["The mediastinal contours are normal.", "Mediastinal and hilar contours are unremarkable."]
        heart.append(Statement(str(rng.choice(contours)), {"Enlarged Cardiomediastinum": 0}))
    said = said + heart if rng.random() < 0.6 else [*said[:1], *heart, *said[1:]]
    said += blocks["Fracture"]
    if "Fracture" not in present and rng.random() < 0.4:
        said.append(
            Statement(
                str(rng.choice(["No acute fracture.", "No displaced rib fracture.", "No acute osseous fracture."])),
                {"Fracture": 0},
            )
        )
    return said


def _impression(rng: np.random.Generator, study: Study) -> list[Statement]:
    said = [positive(rng, f) for f in study.findings if f.name != "Support Devices" or rng.random() < 0.4]
    if study.present <= {"Support Devices"}:
        normal = [
            "No acute cardiopulmonary process.",
            "No acute cardiopulmonary abnormality.",
            "No acute intrathoracic process.",
        ]
        said = [Statement(str(rng.choice(normal))), *said]
    elif rng.random() < 0.25 and "Pneumothorax" not in study.present:
        said.append(Statement("No pneumothorax.", {"Pneumothorax": 0}))
    return said


def _joined(statements: list[Statement], numbered: bool = False) -> str:
    if numbered and len(statements) > 1:
        return "\n".join(f"{i}. {s.text}" for i, s in enumerate(statements, 1))
    return " ".join(s.text for s in statements)


def make_report(study: Study, rng: np.random.Generator) -> Report:
    """The report of a study. Labels are those of the sections written, plus No Finding as CheXpert defines it."""
    findings, impression = _findings(rng, study), _impression(rng, study)
    kind = rng.random()
    written = [*findings, *impression]
    findings_text: str | None = _joined(findings)
    impression_text: str | None = _joined(impression, numbered=rng.random() < 0.6)
    if kind < IMPRESSION_ONLY:
        # such reports are short but complete: absent findings move into the impression
        written = [*impression, *pleura_and_lungs(rng, study.present)]
        written += [] if "Cardiomegaly" in study.present else [normal_heart(rng, study)]
        written += [positive(rng, f) for f in study.findings if not any(f.name in s.labels for s in written)]
        findings_text, impression_text = None, _joined(written)
    elif kind < IMPRESSION_ONLY + FINDINGS_ONLY:
        written, impression_text = findings, None
    labels: dict[str, int] = {}
    for statement in written:
        for name, value in statement.labels.items():
            if labels.get(name, 0) == 0:
                labels[name] = value
    if not any(value for name, value in labels.items() if name != "Support Devices"):
        labels["No Finding"] = 1
    text = report_file(study, rng, findings_text, impression_text)
    return Report(findings_text, impression_text, labels, text)


# ------------------------------------------------------------------------------------------------ the .txt file
HEADERS = {
    "indication": ("INDICATION", "INDICATION", "INDICATION", "REASON FOR EXAM", "CLINICAL INDICATION"),
    "history": ("HISTORY", "HISTORY", "CLINICAL HISTORY", "CLINICAL INFORMATION"),
    "findings": ("FINDINGS",),
    "impression": ("IMPRESSION", "IMPRESSION", "IMPRESSION", "IMPRESSION", "CONCLUSION"),
}


def examination(study: Study) -> str:
    positions = {view.position for view in study.views}
    if positions & {"LATERAL", "LL"}:
        return "CHEST (PA AND LAT)" if "PA" in positions else "CHEST (AP AND LAT)"
    return "CHEST (PORTABLE AP)" if "AP" in positions else "CHEST (SINGLE VIEW)"


def report_file(study: Study, rng: np.random.Generator, findings: str | None, impression: str | None) -> str:
    """MIMIC-CXR's layout: an indented title, then every line begins with one space and has at most 79 characters."""
    header = {key: str(rng.choice(names)) for key, names in HEADERS.items()}
    sections: list[tuple[str, str]] = []
    if rng.random() < 0.7:
        sections.append(("EXAMINATION", examination(study)))
    if study.indication:
        sections.append((header["indication"], study.indication))
    if study.history:
        sections.append((header["history"], study.history))
    if rng.random() < 0.6:
        sections.append(
            ("TECHNIQUE", str(rng.choice(["Chest radiograph.", "Frontal chest radiograph.", "Chest, ___."])))
        )
    if rng.random() < 0.7:
        sections.append(
            ("COMPARISON", str(rng.choice(["None.", "___.", "Chest radiograph from ___.", "___ and ___."])))
        )
    if findings:
        sections.append((header["findings"], findings))
    if impression:
        sections.append((header["impression"], impression))
    lines = [" " * 33 + "FINAL REPORT"]
    if rng.random() < 0.02:
        lines = [" WET READ: ___ ___ ___ 8:15 AM", "  Lines and tubes reviewed.", " " + "_" * 78, *lines]
    for name, body in sections:
        block = "\n" in body or len(body) > 90
        parts = body.split("\n")
        if block:
            lines += [f" {name}: ", " "]
        else:
            parts[0] = f"{name}:  {parts[0]}"
        for part in parts:
            lines += textwrap.wrap(part, 79, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)
        lines.append(" ")
    return "\n".join(lines[:-1]) + "\n"
