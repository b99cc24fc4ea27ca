"""What the page reads back from the shards for a sentence is that sentence's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cogaze.data.gaze import Crop
from cogaze.data.sample import build_sample
from cogaze.data.text import train_tokenizer
from cogaze.evaluate.examples import _sentence
from tests.data.fakes import WORDS, make_config, make_raw


@pytest.mark.parametrize("unseen", ["drop", "keep"])
def test_sentences_are_counted_as_the_loader_counts_them(unseen: str) -> None:
    """Three sentences, nothing looked at during the second: it is passed over, or is a segment of its own."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, 400)
    texts = (("small effusion", 0.0, 2.0), ("clear", 2.0, 3.0), ("rib", 3.0, 5.0))
    reading = {
        "id": "r",
        "reader": "a",
        "sentences": [dict(zip(("text", "start", "end"), t, strict=True)) for t in texts],
    }
    gaze = np.array([[0.25, 0.25, 0.0, 1.0, 0, 0], [0.75, 0.25, 4.0, 6.0, 0, 0]], np.float32)
    raw, config = make_raw(gaze={0: gaze}, readings=[reading]), make_config(unseen_sentences=unseen)
    segments = [s for s in build_sample(raw, 0, config, tokenizer, None).segments if not s.paragraph]
    assert len(segments) == {"drop": 2, "keep": 3}[unseen]
    for number, segment in enumerate(segments):
        text, dots = _sentence(raw, 0, number, Crop(), config)
        assert text is not None
        assert text.split() == tokenizer.convert_ids_to_tokens(segment.ids)[2:]
        assert segment.fixations is not None
        assert len(dots) == len(segment.fixations)
    assert _sentence(raw, 0, len(segments), Crop(), config) == (None, [])


@pytest.mark.parametrize("recipe", ["exact", "rendered", "egma"])
@pytest.mark.parametrize("unseen", ["drop", "keep"])
def test_sentences_of_heat_maps_are_counted_so_too(recipe: str, unseen: str) -> None:
    """The second sentence has no word; the pictures of "clear" and "heart" are black (EGMA takes the report's)."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, 400)
    texts = ("small effusion", " ", "clear", "rib", "heart")
    reading = {"id": "r", "reader": "a", "sentences": [{"text": text, "start": 0.0, "end": 0.0} for text in texts]}
    pictures = np.zeros((6, 128, 128), np.uint8)  # the report's, then one a sentence
    pictures[0, 8:56, 8:120] = pictures[1, 8:56, 8:56] = pictures[2, 70:120, 8:56] = pictures[4, 8:56, 70:120] = 200
    raw = make_raw(gaze={0: np.zeros((0, 6), np.float32)}, readings=[reading])
    raw = replace(raw, maps={0: pictures})
    config = make_config(unseen_sentences=unseen, gaze_maps=recipe)
    segments = [s for s in build_sample(raw, 0, config, tokenizer, None).segments if not s.paragraph]
    assert len(segments) == (4 if unseen == "keep" or recipe == "egma" else 2)
    for number, segment in enumerate(segments):
        text, dots = _sentence(raw, 0, number, Crop(), config)
        assert text is not None
        assert text.split() == tokenizer.convert_ids_to_tokens(segment.ids)[2:]
        assert dots == []
    assert _sentence(raw, 0, len(segments), Crop(), config) == (None, [])
