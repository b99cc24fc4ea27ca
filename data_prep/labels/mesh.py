"""The MeSH coding of the Indiana collection as labels.

Two coders listed what a report names as present, as headings with qualifiers ("Opacity/lung/base/left"), or `normal`.
A heading is not a statement about every observation, so the mapping has three outcomes:

- IU_LISTED: this heading (with one of these qualifiers, where any are given) says that the observation is present: 1;
  "borderline" makes it uncertain: -1.
- IU_UNDECIDED: the heading leaves the observation open (an old rib deformity may be a fracture, a blunted
  costophrenic angle may be an effusion or a scar): unknown.
- Everything else is 0: the coders list what they find, so an effusion that is not listed was not reported.
  The exception is Enlarged Cardiomediastinum, which they seldom code: unknown unless listed.

`normal` alone: No Finding 1 and all others 0. No Finding is 0 where one of the other observations (support devices
aside, as in CheXpert) is present or uncertain, and unknown otherwise (a degenerate spine is not normal, yet none of the
14). `No Indexing`, no heading at all, or nothing but a remark on image quality: everything unknown.
"""

from __future__ import annotations

from collections.abc import Iterable

from cogaze.observations import OBSERVATIONS

LUNG = frozenset({"lung", "retrocardiac", "base", "apex", "lingula", "lower lobe", "middle lobe", "upper lobe"})
PLEURA = frozenset({"pleura"})
BONES = frozenset(
    {"ribs", "clavicle", "humerus", "scapula", "shoulder", "spine", "sternum"}
    | {f"{part} vertebrae" for part in ("thoracic", "lumbar", "cervical")}
)
ANY: frozenset[str] = frozenset()

# heading -> [(qualifiers of which one must stand there; ANY: none needed, observation that is then present)]
IU_LISTED: dict[str, list[tuple[frozenset[str], str]]] = {
    "cardiomegaly": [(ANY, "Cardiomegaly")],
    "cardiac shadow": [(frozenset({"enlarged"}), "Cardiomegaly")],
    "mediastinum": [(frozenset({"enlarged", "prominent", "widened"}), "Enlarged Cardiomediastinum")],
    "opacity": [(LUNG, "Lung Opacity")],
    "density": [(LUNG, "Lung Opacity")],
    "airspace disease": [(ANY, "Lung Opacity")],
    "infiltrate": [(ANY, "Lung Opacity")],
    "nodule": [(LUNG, "Lung Lesion")],
    "multiple pulmonary nodules": [(ANY, "Lung Lesion")],
    "mass": [(LUNG, "Lung Lesion")],
    "lung neoplasms": [(ANY, "Lung Lesion")],
    "pulmonary edema": [(ANY, "Edema")],
    "consolidation": [(ANY, "Consolidation")],
    "pneumonia": [(ANY, "Pneumonia")],
    "bronchopneumonia": [(ANY, "Pneumonia")],
    "pulmonary atelectasis": [(ANY, "Atelectasis")],
    "pneumothorax": [(ANY, "Pneumothorax")],
    "hydropneumothorax": [(ANY, "Pneumothorax"), (ANY, "Pleural Effusion")],
    "hemopneumothorax": [(ANY, "Pneumothorax"), (ANY, "Pleural Effusion")],
    "pleural effusion": [(ANY, "Pleural Effusion")],
    "hemothorax": [(ANY, "Pleural Effusion")],
    "thickening": [(PLEURA, "Pleural Other")],
    "cicatrix": [(PLEURA, "Pleural Other")],
    "fibrosis": [(PLEURA, "Pleural Other")],
    "sclerosis": [(PLEURA, "Pleural Other")],
    "calcinosis": [(PLEURA, "Pleural Other")],
    "fractures, bone": [(ANY, "Fracture")],
    "catheters, indwelling": [(ANY, "Support Devices")],
    "medical device": [(ANY, "Support Devices")],
    "implanted medical device": [(ANY, "Support Devices")],
    "tube, inserted": [(ANY, "Support Devices")],
    "stents": [(ANY, "Support Devices")],
}

# heading -> [(qualifiers as above, observations that it leaves open where nothing else lists them)]
SHADOW = ("Lung Opacity", "Consolidation", "Pneumonia", "Atelectasis")
IU_UNDECIDED: dict[str, list[tuple[frozenset[str], tuple[str, ...]]]] = {
    "opacity": [(ANY, SHADOW), (frozenset({"round"}), ("Lung Lesion",)), (frozenset({"interstitial"}), ("Edema",))],
    "density": [(ANY, SHADOW), (frozenset({"round"}), ("Lung Lesion",))],
    "airspace disease": [(ANY, (*SHADOW, "Edema"))],
    "infiltrate": [(ANY, (*SHADOW, "Edema"))],
    "consolidation": [(ANY, ("Lung Opacity", "Pneumonia"))],
    "pneumonia": [(ANY, ("Lung Opacity", "Consolidation"))],
    "bronchopneumonia": [(ANY, ("Lung Opacity", "Consolidation"))],
    "pulmonary atelectasis": [(ANY, ("Lung Opacity",))],
    "pulmonary edema": [(ANY, ("Lung Opacity",))],
    "nodule": [(ANY, ("Lung Lesion", "Lung Opacity"))],
    "multiple pulmonary nodules": [(ANY, ("Lung Opacity",))],
    "mass": [(ANY, ("Lung Lesion", "Lung Opacity"))],
    "lung neoplasms": [(ANY, ("Lung Opacity",))],
    "cavitation": [(ANY, ("Lung Lesion",))],
    "cysts": [(ANY, ("Lung Lesion",))],
    "calcified granuloma": [(ANY, ("Lung Lesion",))],
    "granuloma": [(ANY, ("Lung Lesion",))],
    "granulomatous disease": [(ANY, ("Lung Lesion",))],
    "tuberculosis": [(ANY, ("Lung Lesion", "Lung Opacity", "Pneumonia"))],
    "calcinosis": [(LUNG, ("Lung Lesion",))],
    "cicatrix": [(LUNG, ("Lung Opacity",)), (frozenset({"costophrenic angle"}), ("Pleural Other",))],
    "fibrosis": [(ANY, ("Lung Opacity",))],
    "pulmonary fibrosis": [(ANY, ("Lung Opacity",))],
    "lung diseases, interstitial": [(ANY, ("Lung Opacity", "Edema"))],
    "lung": [(frozenset({"interstitial"}), ("Lung Opacity", "Edema"))],
    "markings": [(ANY, ("Lung Opacity", "Edema"))],
    "pulmonary congestion": [(ANY, ("Edema",))],
    "heart failure": [(ANY, ("Edema", "Cardiomegaly"))],
    "cardiac shadow": [(ANY, ("Cardiomegaly",))],
    "heart": [(ANY, ("Cardiomegaly",))],
    "heart atria": [(ANY, ("Cardiomegaly",))],
    "heart ventricles": [(ANY, ("Cardiomegaly",))],
    "pericardial effusion": [(ANY, ("Cardiomegaly",))],
    "costophrenic angle": [(ANY, ("Pleural Effusion", "Pleural Other"))],
    "sulcus": [(ANY, ("Pleural Effusion", "Pleural Other"))],
    "pleura": [(ANY, ("Pleural Effusion", "Pleural Other"))],
    "thickening": [(ANY, ("Pleural Other",))],
    "deformity": [(BONES, ("Fracture",))],
    "ribs": [(ANY, ("Fracture",))],
    "surgical instruments": [(ANY, ("Support Devices",))],
    "foreign bodies": [(ANY, ("Support Devices",))],
    "breast implants": [(ANY, ("Support Devices",))],
}
IU_NOT_CODED = frozenset({"Enlarged Cardiomediastinum"})  # too seldom listed for its absence to mean anything
IU_NO_STATEMENT = frozenset({"no indexing", "technical quality of image unsatisfactory"})


def iu_labels(headings: Iterable[str]) -> dict[str, int | None]:
    """Labels from the MeSH headings of one Indiana study ("Opacity/lung/base/left", ..., or "normal"); see above."""
    terms = [term for term in (_term(heading) for heading in headings) if term[0]]
    names = {name for name, _ in terms}
    if "no indexing" in names or not names - IU_NO_STATEMENT:
        return {}
    if names - IU_NO_STATEMENT == {"normal"}:
        return {name: int(name == "No Finding") for name in OBSERVATIONS}
    listed: dict[str, int] = {}
    undecided: set[str] = set(IU_NOT_CODED)
    for heading, qualifiers in terms:
        for needed, observation in IU_LISTED.get(heading, []):
            if not needed or needed & qualifiers:
                value = -1 if "borderline" in qualifiers else 1
                listed[observation] = max(value, listed.get(observation, -1))
        for needed, observations in IU_UNDECIDED.get(heading, []):
            if not needed or needed & qualifiers:
                undecided.update(observations)
    labels: dict[str, int | None] = {}
    for observation in OBSERVATIONS[:-1]:
        if observation in listed:
            labels[observation] = listed[observation]
        elif observation not in undecided:
            labels[observation] = 0
    if set(listed) - {"Support Devices"}:
        labels["No Finding"] = 0
    return labels


def _term(heading: str) -> tuple[str, frozenset[str]]:
    """("opacity", {"lung", "base", "left"}) from "Opacity/lung/base/left "."""
    name, *qualifiers = (" ".join(part.lower().split()) for part in heading.split("/"))
    return name, frozenset(qualifiers)
