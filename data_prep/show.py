"""A contact sheet of a shard folder: images with what the radiologists looked at while they spoke.

One file, a PNG or a self-contained HTML page. Report and transcript text stands in it only when that is allowed: by
default for phantom data alone.
"""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib import colormaps
from PIL import Image, ImageDraw

from cogaze.data.gaze import Crop, patch_maps, segment_weights
from cogaze.data.shards import RawSample, ShardSet

SIDE = 320  # px, long side of a panel
HEAT_GRID = 96  # cells along a side of the heat map, before it is smoothed to the panel
MAX_SENTENCES = 8  # panels a reading


class ShowError(ValueError):
    """A contact sheet that cannot be made as asked."""


@dataclass(frozen=True)
class Panel:
    """One picture of a card: RGB (h,w,3) and what stands under it."""

    pixels: np.ndarray
    caption: str
    text: str = ""  # what was said; empty where texts are hidden


@dataclass(frozen=True)
class Card:
    """One image of the sheet with its panels: the plain image, then per reading all fixations and each sentence."""

    key: str
    facts: str  # view, labels
    panels: list[Panel]
    texts: list[tuple[str, str]]  # (section, text); empty where texts are hidden


def contact_sheet(
    shards: ShardSet,
    out: Path,
    *,
    split: str | None = None,
    n: int = 12,
    gaze_only: bool = False,
    show_text: bool | None = None,
    seed: int = 0,
) -> list[str]:
    """Write a sheet of `n` images drawn with `seed` to `out` (.html or .png); returns their keys.

    `split` None takes the first one. Half of the images have gaze where there are enough of them, or all with
    `gaze_only`. `show_text` None shows texts of phantom data alone. Raises ShowError: another suffix, no image with
    gaze, a file that cannot be written; ShardError for an unknown split.
    """
    if out.suffix not in (".html", ".png"):
        raise ShowError(f"{out}: the sheet is a .html or .png file; give --out with one of these endings")
    if n < 1:
        raise ShowError(f"{n} images: give at least 1")
    split = shards.splits[0] if split is None else split
    texts = shards.is_phantom if show_text is None else show_text
    cards = [card(shards.read(split, position), texts) for position in pick(shards, split, n, gaze_only, seed)]
    title = f"{', '.join(folder.resolve().name for folder in shards.folders)}: {split}"
    data = _html(cards, title, shards.is_phantom) if out.suffix == ".html" else _png(cards, title)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data)
    except OSError as error:
        raise ShowError(f"{out}: {error.strerror}") from None
    return [c.key for c in cards]


def pick(shards: ShardSet, split: str, n: int, gaze_only: bool, seed: int) -> list[int]:
    """Positions of at most `n` images, ascending; half of them with gaze where there are that many."""
    gaze = shards.layout(split).gaze  # bool (images,)
    shuffled = np.random.default_rng(seed).permutation(len(gaze))
    seen, unseen = shuffled[gaze[shuffled]], shuffled[~gaze[shuffled]]
    if gaze_only:
        if not len(seen):
            raise ShowError(f"no image of split {split} has gaze; leave out --gaze-only or take another --split")
        return sorted(seen[:n].tolist())
    take = max(min(len(seen), (n + 1) // 2), n - len(unseen))
    return sorted([*seen[:take].tolist(), *unseen[: n - min(take, len(seen))].tolist()])


# ------------------------------------------------------------------------------------------------ cards
def card(sample: RawSample, texts: bool) -> Card:
    """The panels of one sample; without `texts` neither report nor transcript leaves it."""
    meta = sample.meta
    image = Image.open(io.BytesIO(sample.image)).convert("L")
    scale = SIDE / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    grey = np.asarray(image.resize(size, Image.Resampling.BICUBIC))  # (h,w)
    panels = [Panel(np.repeat(grey[..., None], 3, axis=2), "image")]
    for number, reading in enumerate(meta["readings"]):
        panels += _reading_panels(grey, reading, sample.gaze[number], number, texts)
    labels = [f"{name}{'?' if value == -1 else ''}" for name, value in meta["labels"].items() if value in (1, -1)]
    sections = {**meta["context"], **meta["report"]} if texts else {}
    return Card(
        key=sample.key,
        facts=" · ".join([meta["view"], ", ".join(labels) or "no positive label"]),
        panels=panels,
        texts=[(name, text) for name, text in sections.items() if text],
    )


def _reading_panels(
    grey: np.ndarray, reading: dict[str, Any], fixations: np.ndarray, number: int, texts: bool
) -> list[Panel]:
    """All fixations of a reading (F,6) as one panel with their scan path, then one panel a sentence."""
    spoken = reading["sentences"]
    weights = [segment_weights(fixations, -np.inf, np.inf)]
    weights += [segment_weights(fixations, s["start"], s["end"]) for s in spoken[:MAX_SENTENCES]]
    maps = patch_maps(fixations, np.stack(weights), Crop(), HEAT_GRID)  # (1+S, HEAT_GRID^2)
    seconds = float(weights[0].sum())
    panels = [
        Panel(_scan_path(overlay(grey, maps[0]), fixations), f"reading {number + 1}: {seconds:.1f} s of fixations")
    ]
    for i, sentence in enumerate(spoken[:MAX_SENTENCES]):
        caption = f"{sentence['start']:.1f} to {sentence['end']:.1f} s"
        panels.append(Panel(overlay(grey, maps[i + 1]), caption, sentence["text"] if texts else ""))
    return panels


def overlay(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat (g*g,) in colour over an image uint8 (h,w): RGB uint8 (h,w,3); no heat leaves the image as it is."""
    side = round(len(heat) ** 0.5)
    peak = float(heat.max())
    field = Image.fromarray(
        (heat.reshape(side, side) / peak if peak > 0 else heat.reshape(side, side)).astype(np.float32)
    )
    strength = np.asarray(field.resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR)).clip(0, 1)  # (h,w)
    colour = colormaps["inferno"](strength)[..., :3] * 255.0  # (h,w,3)
    opacity = (0.65 * np.sqrt(strength))[..., None]
    return np.rint(grey[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


def _scan_path(pixels: np.ndarray, fixations: np.ndarray) -> np.ndarray:
    """Fixations (F,6) in their order: a thin line, and circles whose area grows with the duration."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    points = [(float(x) * width, float(y) * height) for x, y in fixations[:, :2]]
    if len(points) > 1:
        draw.line(points, fill=(140, 210, 255, 70), width=1)
    for (x, y), seconds in zip(points, fixations[:, 3] - fixations[:, 2], strict=True):
        radius = 7.0 * float(seconds) ** 0.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 255, 255, 190))
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------ files
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; background: #14161a; color: #d8dbe0; }
h1 { font-size: 1.3rem; font-weight: 600; } .note { color: #9aa1ab; max-width: 60rem; }
article { border-top: 1px solid #2c3038; padding: 1rem 0; }
.alone { display: flex; gap: 1.2rem; } .alone dl { margin: 0; } h2 { font-size: 1rem; margin: 0 0 .2rem; }
.facts { color: #9aa1ab; margin: 0 0 .6rem; } .panels { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 15rem; } figure img { width: 100%; display: block; border-radius: 3px; background: #000; }
figcaption { font-size: .85rem; color: #9aa1ab; } figcaption q { color: #ffd08a; quotes: none; display: block; }
dl { margin: .6rem 0 0; max-width: 60rem; }
dt { float: left; width: 6rem; color: #9aa1ab; } dd { margin: 0 0 0 6.5rem; }
</style></head><body><h1>{{ title }}</h1>
<p class="note">{{ cards | length }} images{{ ", drawn, not real patients" if phantom }}. Heat: seconds of fixation,
each spread over one degree of visual angle; circles: the fixations in their order, larger for longer.</p>
{% for card in cards %}<article><h2>{{ card.key }}</h2><p class="facts">{{ card.facts }}</p>
<div{% if card.panels | length == 1 %} class="alone"{% endif %}><div class="panels">
{% for panel in card.panels %}<figure><img alt="{{ panel.caption }}" src="{{ panel.pixels | picture }}">
<figcaption>{{ panel.caption }}{% if panel.text %}<q>{{ panel.text }}</q>{% endif %}</figcaption></figure>
{% endfor %}</div>{% if card.texts %}<dl>{% for name, text in card.texts %}<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}</dl>{% endif %}</div></article>
{% endfor %}</body></html>
"""


def _html(cards: list[Card], title: str, phantom: bool) -> bytes:
    environment = Environment(autoescape=True)  # report text is a stranger's: it must not become markup
    environment.filters["picture"] = _data_uri
    page = environment.from_string(PAGE).render(cards=cards, title=title, phantom=phantom)
    return page.encode("utf-8", "replace")


def _data_uri(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _png(cards: list[Card], title: str, columns: int = 4) -> bytes:
    """A grid with one picture an image: all fixations of its first reading where there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    figure = Figure(figsize=(3.4 * columns, 4.6 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    for axes, c in zip(figure.subplots(rows, columns, squeeze=False).flat, cards, strict=False):
        panel = c.panels[min(1, len(c.panels) - 1)]
        axes.imshow(panel.pixels)
        axes.set_title(f"{c.key}\n{_wrapped(c.facts, 44, 2)}", fontsize=8, parse_math=False)
        said = " ".join(p.text for p in c.panels if p.text) or " ".join(text for _, text in c.texts)
        axes.set_xlabel(_wrapped(said, 52, 5), fontsize=7, parse_math=False)
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _wrapped(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
