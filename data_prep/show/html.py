"""The sheet as a page to browse: heat and gaze path of one sentence at a time, filters by view, label and gaze."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

from PIL import Image

from cogaze import __version__, pages
from data_prep.show.cards import Card, Segment
from data_prep.show.pictures import heat_png

HEAT_PIXELS = 128  # side of a heat layer


def html(cards: list[Card], title: str, *, of: int, phantom: bool, texts: bool, blur: bool, lead: float) -> bytes:
    """The page of some cards out of `of` images; every string in it is escaped, nothing is fetched."""
    labels = Counter(label.removesuffix("?") for c in cards for label in c.labels)
    template = pages.environment("data_prep.show").get_template("sheet.html")
    page = template.render(
        cards=[_view(c) for c in cards],
        title=title,
        version=__version__,
        of=of,
        phantom=phantom,
        texts=texts,
        blur=blur,
        lead=lead,
        views=sorted(Counter(c.view for c in cards).items()),
        labels=sorted(labels.items()),
        gaze=sum(bool(c.looks) for c in cards),
    )
    return page.encode("utf-8", "replace")  # a lone surrogate in a text must not end it


def _view(c: Card) -> dict[str, Any]:
    height, width = c.grey.shape
    stream = io.BytesIO()
    Image.fromarray(c.grey).save(stream, "JPEG", quality=85)
    return {
        "key": c.key,
        "view": c.view,
        "labels": c.labels,
        "names": [label.removesuffix("?") for label in c.labels],
        "image": _data_uri(stream.getvalue(), "jpeg"),
        "width": width,
        "height": height,
        "looks": [
            {"name": look.name, "segments": [_segment(s, width, height) for s in look.segments]} for look in c.looks
        ],
        "texts": c.texts,
    }


def _segment(segment: Segment, width: int, height: int) -> dict[str, Any]:
    heat = heat_png(segment.heat, HEAT_PIXELS, HEAT_PIXELS)  # stretched by the page, which smooths it
    longest = max(width, height)
    return {
        "caption": segment.caption,
        "text": segment.text,
        "heat": heat and _data_uri(heat, "png"),
        "path": [(x * width, y * height, 0.02 * longest * seconds**0.5) for x, y, seconds in segment.path],
    }


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
