"""Indication and history: why the film was taken and what is known, before anyone looked.

Each is drawn from a list common to all patients, or, for a small share, from the reasons that go with one of the
study's findings. So context and finding are correlated, as they are in a clinic, but the same reason is mostly given
for films without that finding. LINK sets how much: at 0.15 the best guess of a finding from a context alone reaches
an AUROC below 0.60 (tests/data_prep/phantom/test_context.py measures it).
"""

from __future__ import annotations

import numpy as np

LINK = 0.15  # share of contexts whose reason is drawn from the findings' own

# reason -> (base weight, wordings)
REASONS: dict[str, tuple[float, tuple[str, ...]]] = {
    "cough": (1.5, ("cough", "productive cough", "cough for two weeks", "persistent cough")),
    "fever": (1.3, ("fever", "fever and chills", "fever, evaluate for infection", "fever and elevated white count")),
    "dyspnea": (1.8, ("shortness of breath", "dyspnea", "dyspnea on exertion", "increasing shortness of breath")),
    "pain": (1.5, ("chest pain", "left sided chest pain", "right sided chest pain", "pleuritic chest pain")),
    "trauma": (
        1.0,
        ("status post fall", "fall from standing", "motor vehicle collision", "trauma, evaluate for injury"),
    ),
    "hypoxia": (1.0, ("hypoxia", "low oxygen saturation", "new oxygen requirement")),
    "line": (1.0, ("evaluate line placement", "check position of tubes and lines", "status post procedure")),
    "swelling": (0.8, ("leg swelling", "weight gain and leg swelling", "volume overload, evaluate")),
    "weight loss": (0.8, ("weight loss", "weight loss and night sweats", "abnormal outside film")),
    "surgery": (1.1, ("preoperative evaluation", "postoperative day ___", "status post surgery")),
    "weakness": (1.1, ("weakness", "dizziness", "altered mental status", "syncope")),
}
HISTORIES: dict[str, tuple[float, tuple[str, ...]]] = {
    "heart failure": (1.0, ("congestive heart failure", "heart failure", "cardiomyopathy")),
    "coronary": (
        1.2,
        ("coronary artery disease", "coronary artery disease and hypertension", "prior myocardial infarction"),
    ),
    "hypertension": (1.5, ("hypertension", "hypertension and diabetes", "high blood pressure")),
    "lung disease": (1.2, ("asthma", "chronic lung disease", "emphysema and smoking", "smoking")),
    "cancer": (1.0, ("breast cancer", "lymphoma on chemotherapy", "colon cancer", "melanoma")),
    "arrhythmia": (0.9, ("atrial fibrillation", "arrhythmia", "heart block")),
    "kidney": (0.9, ("chronic kidney disease", "end stage renal disease on dialysis")),
    "liver": (0.8, ("cirrhosis", "liver disease")),
    "bone": (0.7, ("osteoporosis", "recent fall", "alcohol use")),
    "surgery": (1.0, ("recent abdominal surgery", "recent surgery", "recent hospital stay")),
    "none": (1.0, ("no significant past medical history", "none", "unknown")),
}
LINKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Pleural Effusion": (("dyspnea", "swelling", "hypoxia"), ("heart failure", "liver", "kidney")),
    "Cardiomegaly": (("swelling", "dyspnea"), ("heart failure", "coronary", "hypertension")),
    "Consolidation": (("fever", "cough"), ("lung disease", "surgery")),
    "Lung Opacity": (("cough", "fever", "hypoxia"), ("lung disease", "cancer")),
    "Pneumothorax": (("pain", "trauma", "line"), ("lung disease", "none")),
    "Lung Lesion": (("weight loss", "cough"), ("cancer", "lung disease")),
    "Fracture": (("trauma", "pain", "weakness"), ("bone", "none")),
    "Support Devices": (("line", "surgery"), ("arrhythmia", "coronary", "cancer")),
    "Edema": (("dyspnea", "hypoxia", "swelling"), ("heart failure", "kidney")),
    "Atelectasis": (("surgery", "hypoxia"), ("surgery", "liver")),
}
NO_FINDING: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("pain", "surgery", "weakness", "cough"),
    ("none", "hypertension", "surgery"),
)


def draw_reasons(rng: np.random.Generator, names: list[str]) -> tuple[str, str]:
    """Keys of REASONS and HISTORIES for a study with these findings."""
    drawn = []
    for column, table in enumerate((REASONS, HISTORIES)):
        keys = list(table)
        if rng.random() < LINK:
            linked = LINKED[names[int(rng.integers(len(names)))]] if names else NO_FINDING
            drawn.append(str(rng.choice(linked[column])))
        else:
            weights = np.array([table[key][0] for key in keys])
            drawn.append(keys[int(rng.choice(len(keys), p=weights / weights.sum()))])
    return drawn[0], drawn[1]


def make_context(rng: np.random.Generator, names: list[str], sex: str) -> tuple[str | None, str | None]:
    """Indication and history for a study with these findings; either may be absent, not both."""
    reason, history = draw_reasons(rng, names)
    reason = str(rng.choice(REASONS[reason][1]))
    history = str(rng.choice(HISTORIES[history][1]))
    person = {"F": ("woman", "female"), "M": ("man", "male")}[sex][int(rng.integers(2))]
    link = str(rng.choice(["with", "presenting with", "//"]))
    indication = str(
        rng.choice(
            [f"___ year old {person} {link} {reason}", reason.capitalize(), f"___-year-old {person} {link} {reason}"]
        )
    )
    if rng.random() < 0.25:
        indication += str(rng.choice([", evaluate for acute process", ", please evaluate", " // eval"]))
    past = str(rng.choice([f"History of {history}", history.capitalize(), f"Past history of {history}"]))
    if history in ("none", "unknown", "no significant past medical history"):
        past = history.capitalize()
    kind = rng.random()
    if kind < 0.30:
        return f"{indication}.", None
    if kind < 0.42:
        return None, f"{indication}. {past}."
    return f"{indication}.", f"{past}."
