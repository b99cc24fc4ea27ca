"""One sample: its image, its JSON, its texts; its gaze in `gaze.py`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogaze.data.schema import parse_json, validate_meta
from cogaze.data.shards import Shard
from data_prep.check.alike import WORDS, looks_of
from data_prep.check.gaze import check_gaze
from data_prep.check.result import Findings, ShardFacts, hash64
from data_prep.images import MAX_PIXELS
from data_prep.splits import one_spelling

PIL_FORMAT = {"jpg": "JPEG", "png": "PNG"}
MAX_WORDS = 1000  # of one section; reports of MIMIC-CXR end well below it
MAX_LETTERS = 60  # of one word
MAX_SHAPE = 3.0  # long side over short side
CONTROL = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]")
WORD = re.compile(r"[^\W_]")  # a letter or digit


class Sample(NamedTuple):
    """A valid sample as it is compared with others; hashes stand for ids."""

    key: str
    study_id: str
    image: int
    study: int
    patient: int
    person: int  # the patient in one spelling
    file: int
    gaze: bool
    looks: NDArray[np.uint64]  # (0, 2 or V,4), of alike.py


def check_sample(
    shard: Shard, image_size: int, key: str, members: Mapping[str, bytes], facts: ShardFacts, deep: bool, copies: bool
) -> Sample | None:
    """Check one sample's members and count it; None where its JSON is no sample of this schema.

    deep: every gaze map, and the perceptual hash; copies: the hashes of its mirrored and turned copies too.
    """
    findings = facts.findings
    image = _image(shard, image_size, key, members, findings)
    meta = _meta(shard, key, members, findings)
    if meta is None:
        return None
    if image is not None:
        original = meta["original"]
        shape, was = image.width / image.height, original["width"] / original["height"]
        if abs(shape / was - 1) > 0.02 + 1 / image_size:
            findings.warn("image: another shape than the original", f"{shape:.2f}, was {was:.2f}", key)
    for kind, detail in _oddities(meta):
        findings.warn(kind, detail, key)
    check_gaze(key, meta, members, findings, every=deep)
    facts.totals.add(meta)
    source = meta["source"]
    return Sample(
        key,
        meta["study_id"],
        hash64(source, meta["image_id"]),
        hash64(source, meta["study_id"]),
        hash64(source, meta["patient_id"]),
        hash64(source, one_spelling(meta["patient_id"])),
        hash64(meta["original"]["sha256"]),
        bool(meta["readings"]),
        looks_of(image, copies) if deep else np.zeros((0, WORDS), np.uint64),
    )


def _image(
    shard: Shard, image_size: int, key: str, members: Mapping[str, bytes], findings: Findings
) -> Image.Image | None:
    """The decoded image; None where there is none that can be decoded."""
    if shard.image_format not in members:
        findings.fault(f"has no {shard.image_format} member", key)
        return None
    try:
        with Image.open(io.BytesIO(members[shard.image_format]), formats=[PIL_FORMAT[shard.image_format]]) as image:
            if image.mode != "L":
                findings.fault(f"image: mode {image.mode}, not 8-bit grey", key)
            if min(image.size) != image_size:
                size = f"{image.size[0]}x{image.size[1]} px"
                findings.fault(f"image: {size}, the shortest side is not {image_size}", key)
            if image.size[0] * image.size[1] > MAX_PIXELS:
                findings.fault("image: too large", key)
                return None
            grey = image.convert("L")
    except Exception as error:  # decoders raise whatever they like on damaged files
        findings.fault(f"image: cannot be decoded ({type(error).__name__})", key)
        return None
    low, high = grey.getextrema()
    if low == high:
        findings.warn("image: one grey level", f"{low}", key)
    if max(grey.size) > MAX_SHAPE * min(grey.size):
        findings.warn("image: extreme shape", f"{grey.width}x{grey.height} px", key)
    return grey


def _meta(shard: Shard, key: str, members: Mapping[str, bytes], findings: Findings) -> dict[str, Any] | None:
    """The parsed JSON if it fits the schema; what does not becomes faults."""
    if "json" not in members:
        findings.fault("has no json member", key)
        return None
    try:
        meta: dict[str, Any] = parse_json(members["json"])
    except ValueError as error:
        # Not the error itself: a decoder quotes the byte it met, or the place, and later versions might quote more.
        constant = re.match(r"-?(NaN|Infinity) is not JSON", str(error))
        findings.fault(f"json: cannot be parsed ({constant[0] if constant else type(error).__name__})", key)
        return None
    faults = validate_meta(meta)
    for text in faults:
        findings.fault(f"json: {text}", key)
    if faults:
        return None
    if meta["split"] != shard.entry["split"]:
        findings.fault(f"json: split {meta['split']} in a shard of {shard.entry['split']}", key)
    return meta


def _oddities(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, detail) of what is valid and yet looks wrong. No detail quotes a text or an id."""
    for field in ("image_id", "study_id", "patient_id"):
        if meta[field] != meta[field].strip():
            yield "id with blanks at its ends", field
        if re.fullmatch(r"\d+\.0*", meta[field]):
            yield "id that was read as a number", f"{field} ends in a point and zeros"
    labels = meta["labels"]
    found = [name for name, value in labels.items() if value == 1 and name not in ("No Finding", "Support Devices")]
    if labels.get("No Finding") == 1 and found:
        yield "labels: No Finding beside a finding", ", ".join(found)
    if labels and meta["label_source"] is None:
        yield "labels: no label_source", ""
    if all(text is None for text in meta["report"].values()):
        yield "text: no report", ""
    texts = {**meta["report"], **meta["context"]}
    for number, reading in enumerate(meta["readings"]):
        for row, sentence in enumerate(reading["sentences"]):
            texts[f"reading {number}, sentence {row}"] = sentence["text"]
    for field, text in texts.items():
        if text is None:
            continue
        words = text.split()
        if not WORD.search(text):
            yield "text: without a letter", f"{field}, {len(text)} characters"
        if CONTROL.search(text):
            yield "text: control characters", field
        if "\ufffd" in text:
            yield "text: characters that could not be decoded", field
        if len(words) > MAX_WORDS:
            yield "text: very long", f"{field}, {len(words):,} words"
        longest = max(map(len, words), default=0)
        if longest > MAX_LETTERS:
            yield "text: a very long word", f"{field}, {longest:,} letters"
