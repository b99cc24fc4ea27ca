"""Simulated readings: sentences spoken one after another, and the eye that goes where they speak of.

Positions are fractions of the image, times are seconds on the clock of the transcript. Which place a sentence sends
the eye to is taken from the film itself (the finding's box, the anatomy's box in that view), so it moves with the
patient's shift, zoom and rotation and with the lesion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.phantom.canvas import Box
from data_prep.phantom.film import Film
from data_prep.phantom.plan import GAZE, Study
from data_prep.phantom.report import LUNG
from data_prep.phantom.wording import positive

ON_TARGET = 0.83  # share of fixations during a sentence that go where it speaks of; the rest is search
OFF_IMAGE = 0.035  # share of the search that goes beside the image
SIDES = ("right", "left")
READERS = 5


@dataclass(frozen=True)
class Spoken:
    """One spoken sentence: what it says, where it looks, and which finding of the study it is about (-1: none)."""

    text: str
    boxes: tuple[Box, ...]
    finding: int


@dataclass(frozen=True)
class Fixation:
    x: float
    y: float
    start: float
    end: float
    shown: Box  # the part of the image on the screen
    valid: bool  # False during a blink: position unknown


@dataclass(frozen=True)
class Reading:
    """`words` are (word, start, end), sentences end with the word "."; `spans` the same per sentence."""

    system: str  # reflacx | egd
    reader: int
    spoken: tuple[Spoken, ...]
    words: tuple[tuple[str, float, float], ...]
    spans: tuple[tuple[float, float], ...]
    fixations: tuple[Fixation, ...]
    degree: float  # one degree of visual angle as a fraction of the screen's image area


def sentences(study: Study, film: Film, rng: np.random.Generator) -> list[Spoken]:
    """What one reader says of one frontal film: 4 to 8 sentences, each with the boxes it is about."""
    region, present = film.regions, study.present

    def at(*names: str) -> tuple[Box, ...]:
        return tuple(region[name] for name in names)

    def both(name: str) -> tuple[Box, ...]:
        return at(*(f"{side} {name}" for side in SIDES))

    def say(options: list[str], boxes: tuple[Box, ...], finding: int = -1) -> Spoken:
        return Spoken(str(rng.choice(options)), boxes, finding)

    said = [Spoken(positive(rng, f).text.rstrip(".").lower(), film.boxes[i], i) for i, f in enumerate(study.findings)]
    normal: list[Spoken] = []
    if "Cardiomegaly" not in present:
        size = "top normal" if study.heart > 0.46 else "normal"
        normal.append(say([f"heart size is {size}", f"the heart is {size} in size"], at("cardiac silhouette")))
    if not present & set(LUNG):
        zones = tuple(box for zone in ("upper", "mid", "lower") for box in both(f"{zone} lung zone"))
        normal.append(say(["the lungs are clear", "lungs are clear", "no focal consolidation"], zones))
    apices, angles = both("apex"), both("costophrenic angle")
    if not present & {"Pleural Effusion", "Pneumothorax"} and rng.random() < 0.4:
        normal.append(say(["no pleural effusion or pneumothorax", "no effusion or pneumothorax"], angles + apices))
    else:
        if "Pleural Effusion" not in present:
            normal.append(say(["no pleural effusion", "no effusion", "costophrenic angles are sharp"], angles))
        if "Pneumothorax" not in present and rng.random() < 0.8:
            normal.append(say(["no pneumothorax", "there is no pneumothorax", "no apical pneumothorax"], apices))
    if study.patient.aorta < 0.5 and rng.random() < 0.4:
        normal.append(say(["mediastinal contours are normal", "the mediastinum is unremarkable"], at("mediastinum")))
    if rng.random() < 0.3:
        normal.append(say(["the hila are normal", "normal hilar contours"], both("hilar structures")))
    if "Fracture" not in present and rng.random() < 0.4:
        bones = both("ribs") + both("clavicle")
        normal.append(say(["no acute fracture", "no rib fracture", "bones are unremarkable"], bones))
    if study.volume != "normal":
        words = (
            ["lung volumes are low", "low lung volumes"] if study.volume == "low" else ["the lungs are hyperinflated"]
        )
        normal.append(say(words, both("diaphragm")))
    if study.raised:
        normal.append(say([f"the {study.raised} hemidiaphragm is elevated"], at(f"{study.raised} diaphragm")))
    if abs(study.patient.scoliosis) > 0.5:
        normal.append(say(["scoliosis of the thoracic spine", "there is thoracic scoliosis"], at("spine")))
    if study.patient.aorta > 0.5:
        normal.append(say(["the aorta is tortuous", "tortuous aorta with a prominent knob"], at("aortic knob")))
    if study.stomach:
        normal.append(say(["the stomach is distended with gas", "gas in a distended stomach"], at("stomach")))
    said += [normal[i] for i in rng.permutation(len(normal))[: max(3, 7 - len(said))]]
    return [said[i] for i in rng.permutation(len(said))] if rng.random() < 0.4 else said


def transcript(
    rng: np.random.Generator, spoken: list[Spoken], begin: float
) -> tuple[list[tuple[str, float, float]], list[tuple[float, float]]]:
    """Word times from `begin` on: 2 to 3 words a second, pauses between sentences."""
    pace, now = rng.uniform(0.30, 0.44), begin
    words: list[tuple[str, float, float]] = []
    spans = []
    for sentence in spoken:
        start = now
        for word in sentence.text.replace(",", " ,").split():
            length = 0.06 if word == "," else pace * (0.55 + 0.075 * len(word)) * rng.uniform(0.85, 1.2)
            words.append((word, round(now, 3), round(now + length, 3)))
            now += length + rng.exponential(0.03)
        words.append((".", round(now, 3), round(now + 0.08, 3)))
        spans.append((round(start, 3), round(now + 0.08, 3)))
        now += 0.08 + rng.uniform(0.4, 1.6)
    return words, spans


def look_at(rng: np.random.Generator, boxes: tuple[Box, ...]) -> tuple[float, float]:
    """A point in one of the boxes: mostly near its middle when small, spread over it when large."""
    sizes = np.array([np.sqrt(max((x1 - x0) * (y1 - y0), 1e-4)) for x0, y0, x1, y1 in boxes])
    x0, y0, x1, y1 = boxes[int(rng.choice(len(boxes), p=sizes / sizes.sum()))]
    # a beta(2,2) lies inside the box with its mass towards the middle; then the eye's own jitter
    return (
        float(x0 + (x1 - x0) * rng.beta(2.2, 2.2) + rng.normal(0, 0.008)),
        float(y0 + (y1 - y0) * rng.beta(2.2, 2.2) + rng.normal(0, 0.008)),
    )


def search(rng: np.random.Generator, film: Film) -> tuple[float, float]:
    """Free viewing: both lungs, the mediastinum, now and then anywhere, or beside the image."""
    draw = rng.random()
    if draw < OFF_IMAGE:
        return (-0.06 if rng.random() < 0.5 else 1.05) + float(rng.normal(0, 0.015)), float(rng.uniform(0.05, 0.5))
    if draw < 0.3:
        return float(rng.uniform(0.04, 0.96)), float(rng.uniform(0.04, 0.96))
    names = ("right lung", "left lung", "mediastinum")
    return look_at(rng, (film.regions[names[int(rng.choice(3, p=[0.4, 0.4, 0.2]))]],))


WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def zoomed(rng: np.random.Generator, boxes: tuple[Box, ...]) -> Box:
    """The part of the image shown when a reader magnifies the first box: about 60 % of each side around it."""
    x0, y0, x1, y1 = boxes[0]
    half = max(0.3, 0.6 * (x1 - x0), 0.6 * (y1 - y0))
    half = min(half, 0.5)
    cx = float(np.clip((x0 + x1) / 2, half, 1 - half))
    cy = float(np.clip((y0 + y1) / 2, half, 1 - half))
    return cx - half, cy - half, cx + half, cy + half


def make_reading(study: Study, film: Film, system: str, reader: int, rng: np.random.Generator) -> Reading:
    """One reading. The REFLACX clock starts with the recording, so looking may begin before it; EGD's starts with the
    image. The eye is ahead of the voice by 0.2 to 0.5 s."""
    spoken = sentences(study, film, rng)
    reflacx = system == "reflacx"
    first = -rng.uniform(0.2, 2.5) if reflacx and rng.random() < 0.5 else rng.uniform(0.0, 0.4)
    words, spans = transcript(rng, spoken, max(0.3, first + rng.uniform(2.0, 5.5)))
    ahead = rng.uniform(0.2, 0.5, len(spans))
    pace = rng.uniform(0.22, 0.34)
    zoom_in = int(rng.integers(len(spoken))) if reflacx and rng.random() < 0.15 else -1
    magnified = zoomed(rng, spoken[zoom_in].boxes) if zoom_in >= 0 and len(spoken[zoom_in].boxes) == 1 else WHOLE
    fixations: list[Fixation] = []
    now, finish = first, spans[-1][1] + rng.uniform(0.2, 1.0)
    next_blink = now + rng.exponential(5)
    while now < finish:
        if now > next_blink:
            length = rng.uniform(0.1, 0.22)
            fixations.append(Fixation(0.0, 0.0, round(now, 3), round(now + length, 3), WHOLE, False))
            now, next_blink = now + length + 0.03, now + length + rng.exponential(6) + 1
            continue
        length = float(np.clip(pace * np.exp(rng.normal(0, 0.45)), 0.08, 1.4))
        middle = now + length / 2
        # the eye turns to a sentence `ahead` seconds before it is spoken and leaves it as much before its end
        topic = next((i for i, (s, e) in enumerate(spans) if s - ahead[i] <= middle < e - 0.6 * ahead[i]), -1)
        on_target = topic >= 0 and rng.random() < ON_TARGET
        x, y = look_at(rng, spoken[topic].boxes) if on_target else search(rng, film)
        shown = magnified if topic >= 0 and topic == zoom_in else WHOLE
        if shown != WHOLE:
            x, y = float(np.clip(x, shown[0], shown[2])), float(np.clip(y, shown[1], shown[3]))
        fixations.append(Fixation(x, y, round(now, 3), round(now + length, 3), shown, True))
        now += length + rng.uniform(0.02, 0.06)
    return Reading(
        system=system,
        reader=reader,
        spoken=tuple(spoken),
        words=tuple(words),
        spans=tuple(spans),
        fixations=tuple(fixations),
        degree=float(rng.uniform(0.043, 0.054)),
    )


def readings_of(study: Study, film: Film, image: int, seed: int, share: float) -> list[Reading]:
    """The readings of one frontal film. `share`: probability that it has any. Of those films about two thirds are read
    in REFLACX (some by two or three readers), one third in EGD, a few in both."""
    rng = np.random.default_rng([seed, GAZE, study.number, image])
    if rng.random() >= share:
        return []
    draw = rng.random()
    reflacx, egd = draw < 0.68, draw >= 0.65
    several = int(rng.integers(2, 4)) if rng.random() < 0.17 else 1
    made = []
    if reflacx:
        readers = rng.permutation(READERS)[:several]
        made += [make_reading(study, film, "reflacx", int(reader) + 1, rng) for reader in readers]
    if egd:
        made.append(make_reading(study, film, "egd", 0, rng))
    return made
