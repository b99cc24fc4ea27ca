"""One reading from fixations to patch maps: when what was said, where was looked, and what each recipe makes of it.

    timeline                   fixations over time, above the sentences they are given to
    a row for every sentence   its fixations | the patch map of each recipe of `data.gaze_maps` | its top share

A PNG, or a self-contained HTML page with a table of numbers. What was said stands in it only when that is allowed: by
default for phantom data alone.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from cogaze import __version__, pages
from cogaze.config import AugmentConfig
from cogaze.data.gaze import fixations_inside, segment_weights
from cogaze.data.recipes import Recipe, recipe_maps
from cogaze.data.sample import decode
from cogaze.data.shards import RawSample, ShardSet
from cogaze.losses.gaze import top_maps

RECIPES: tuple[Recipe, ...] = get_args(Recipe)
TITLES = {
    "exact": "exact (ours)",
    "reflacx": "REFLACX",
    "rendered": "released CoGaze",
    "egma": "EGMA",
    "gazex": "GazeX",
}
SIDE = 185  # px of a panel
DPI = 100
COLOURS = colormaps["tab10"]
GREY = "#b8bcc4"
GREY_INK = "#7d8794"  # to be read on white and on black
MAX_ROWS = 2  # sentences of a PNG, beside the whole reading


class GazePageError(ValueError):
    """A page that cannot be made as asked; the message says what to ask for instead."""


@dataclass(frozen=True)
class Row:
    """One sentence (or the whole reading) with its maps; `text` is empty where texts are hidden."""

    title: str
    text: str
    start: float  # s; the reading: -inf
    end: float
    weights: np.ndarray  # (F,) seconds
    dots: np.ndarray  # (F',3) x, y (fractions of the crop), seconds
    maps: dict[str, np.ndarray]  # recipe -> (P,), and "top" -> the top share of exact


@dataclass(frozen=True)
class Case:
    """One reading of one image, as the model sees it; the last row is the whole reading."""

    key: str
    reader: str
    image: np.ndarray  # uint8 (H,H)
    fixations: np.ndarray  # (F,6)
    rows: list[Row]
    lead: float
    rho: float


def gaze_page(
    shards: ShardSet,
    out: Path,
    *,
    key: str | None = None,
    reading: int = 0,
    image_size: int = 518,
    patch_size: int = 14,
    lead: float = 0.0,
    rate: float = 1000.0,
    rho: float = 0.25,
    show_text: bool | None = None,
) -> str:
    """Write the page of one reading to `out` (.html or .png) and return the image's key.

    `key` None takes the first image with fixations of the first split that has one; `reading` counts from 0. Sizes in
    px of the model's input, `lead` in seconds, `rate` in Hz for GazeX; GazeX's own windows lead by two seconds more
    (`data.lead: 2`). `show_text` None shows texts of phantom data alone.
    Raises GazePageError for a key, reading or ending that is none, and for a reading without fixations.
    """
    if out.suffix not in (".html", ".png"):
        raise GazePageError(f"{out}: the page is a .html or .png file; give --out with one of these endings")
    if patch_size < 1 or image_size < patch_size or image_size % patch_size:
        raise GazePageError(f"{image_size} px are no whole number of patches of {patch_size} px")
    sample = _first(shards) if key is None else _find(shards, key)
    texts = shards.is_phantom if show_text is None else show_text
    case = case_of(sample, reading, image_size, patch_size, lead, rate, rho, texts)
    data = _html(case, shards.is_phantom) if out.suffix == ".html" else _png(case)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data)
    except OSError as error:
        raise GazePageError(f"{out}: {error.strerror}") from None
    return sample.key


# ------------------------------------------------------------------------------------------------ the case
def _first(shards: ShardSet) -> RawSample:
    for split in shards.splits:
        for position in np.flatnonzero(shards.layout(split).gaze).tolist():
            sample = shards.read(split, position)
            if any(len(fixations) for fixations in sample.gaze.values()):
                return sample
    raise GazePageError("no image of these shards has fixations; build them from a source with gaze")


def _find(shards: ShardSet, key: str) -> RawSample:
    """The sample of a key such as train-000000-00012; images set aside leave gaps, so its row may be a lower one."""
    shard, _, number = key.rpartition("-")
    split = shard.rpartition("-")[0]
    if split in shards.splits and number.isdecimal():
        first = 0
        for entry in shards.shards(split):
            if entry.name == shard:
                for row in range(min(int(number), entry.images - 1), -1, -1):
                    sample = shards.read(split, first + row)
                    if sample.key == key:
                        return sample
                    if sample.key < key:
                        break
            first += entry.images
    raise GazePageError(f"no image {key} in these shards; keys look like train-000000-00012 (`cogaze data show`)")


def case_of(
    sample: RawSample, reading: int, image_size: int, patch_size: int, lead: float, rate: float, rho: float, texts: bool
) -> Case:
    """Everything that the page shows. Raises GazePageError where the reading is none or has no fixations."""
    readings = sample.meta["readings"]
    if not 0 <= reading < len(readings):
        raise GazePageError(f"{sample.key} has {len(readings)} readings, counted from 0: there is no {reading}")
    fixations = sample.gaze.get(reading, np.zeros((0, 6), np.float32))
    if not len(fixations):
        raise GazePageError(f"reading {reading} of {sample.key} has no fixations")
    image, crop = decode(sample.image, image_size, AugmentConfig(), None)
    spoken = readings[reading]["sentences"]
    windows = [(s["start"], s["end"], lead) for s in spoken] + [(-np.inf, np.inf, 0.0)]
    weights = np.stack([segment_weights(fixations, *window) for window in windows])  # (S+1,F)
    made = {name: recipe_maps(name, fixations, weights, crop, image_size, patch_size, rate) for name in RECIPES}
    made["top"] = top_maps(torch.from_numpy(made["exact"]), rho).numpy()  # type: ignore[index]
    titles = [f"sentence {i + 1}" for i in range(len(spoken))] + ["whole reading"]
    said = [s["text"] if texts else "" for s in spoken] + [""]
    rows = [
        Row(
            title,
            text,
            *window[:2],
            weights[i],
            fixations_inside(fixations, weights[i], crop),
            {name: maps[i] for name, maps in made.items()},
        )
        for i, (title, text, window) in enumerate(zip(titles, said, windows, strict=True))
    ]
    return Case(sample.key, readings[reading]["reader"], image[0], fixations, rows, lead, rho)


# ------------------------------------------------------------------------------------------------ panels
def looks(case: Case, row: Row) -> np.ndarray:
    """The image with a row's fixations as discs, larger for longer: RGB uint8 (SIDE,SIDE,3)."""
    picture = Image.fromarray(_small(case)).convert("RGB")
    draw = ImageDraw.Draw(picture, "RGBA")
    points = [(float(x) * SIDE, float(y) * SIDE) for x, y, _ in row.dots]
    if len(points) > 1:
        draw.line(points, fill=(255, 255, 255, 90), width=1)
    for (x, y), seconds in zip(points, row.dots[:, 2], strict=True):
        radius = 2 + 9 * math.sqrt(float(seconds))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 176, 0, 110), outline=(255, 220, 120))
    return np.asarray(picture)


def blocks(case: Case, values: np.ndarray) -> np.ndarray:
    """The image under a patch map (P,), each patch one block, scaled to its peak: RGB uint8 (SIDE,SIDE,3)."""
    grid = math.isqrt(len(values))
    peak = float(values.max())
    level = np.asarray(values.reshape(grid, grid) / peak if peak > 0 else values.reshape(grid, grid), np.float32)
    strength = np.asarray(Image.fromarray(level).resize((SIDE, SIDE), Image.Resampling.NEAREST))  # (SIDE,SIDE)
    colour = colormaps["inferno"](0.25 + 0.75 * strength)[..., :3] * 255.0
    opacity = np.where(strength > 0, 0.35 + 0.4 * strength, 0.0)[..., None]
    return np.rint(_small(case)[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


def _small(case: Case) -> np.ndarray:
    return np.asarray(Image.fromarray(case.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def columns(case: Case) -> list[tuple[str, str]]:
    """(name in Row.maps, title) in the order of the columns after the fixations."""
    titles = [(name, TITLES[name]) for name in RECIPES]
    return [titles[0], ("top", f"its top {100 * case.rho:.0f} %"), *titles[1:]]


def timeline(case: Case, axes: Any, ink: str = "black") -> None:
    """Fixations over time in the colour of the sentence that has most of their seconds, above the sentences."""
    sentences = case.rows[:-1]
    weights = np.stack([row.weights for row in sentences]) if sentences else np.zeros((1, len(case.fixations)))
    for fixation, seconds in zip(case.fixations, weights.T, strict=True):
        colour = COLOURS(int(seconds.argmax()) % 10) if seconds.max() > 0 else GREY
        axes.barh(1.0, fixation[3] - fixation[2], left=fixation[2], height=0.5, color=colour)
    for i, row in enumerate(sentences):
        if case.lead:
            axes.barh(0.2, case.lead, left=row.start - case.lead, height=0.5, color=COLOURS(i % 10), alpha=0.25)
        axes.barh(0.2, max(row.end - row.start, 0.02), left=row.start, height=0.5, color=COLOURS(i % 10))
        axes.text((row.start + row.end) / 2, 0.2, str(i + 1), ha="center", va="center", color="white", fontsize=8)
    axes.set_yticks([0.2, 1.0], ["said", "looked"])
    axes.set_ylim(-0.2, 1.4)
    axes.set_xlabel("seconds on the clock of the transcript", fontsize=8, color=ink)
    axes.tick_params(labelsize=8, colors=ink)
    axes.spines["bottom"].set_color(ink)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


# ------------------------------------------------------------------------------------------------ files
def _png(case: Case) -> bytes:
    """The timeline, the first MAX_ROWS sentences that were looked at, and the whole reading; 128 colours."""
    seen = [row for row in case.rows[:-1] if row.maps["exact"].any()][:MAX_ROWS]
    rows, heads = [*seen, case.rows[-1]], columns(case)
    inches = SIDE / DPI
    width, height = inches * (len(heads) + 1) * 1.03, inches * 1.13 * len(rows) + 1.75
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    timeline(case, figure.add_axes((0.06, 1 - 1.25 / height, 0.92, 1.05 / height)))
    top = 1 - 1.95 / height
    cell = (top + 0.1 / height) / len(rows)
    for i, row in enumerate(rows):
        pictures = [("fixations", looks(case, row)), *((title, blocks(case, row.maps[name])) for name, title in heads)]
        for j, (title, pixels) in enumerate(pictures):
            bottom = top - (i + 1) * cell + 0.35 / height
            axes = figure.add_axes(
                (0.004 + j * 0.996 / len(pictures), bottom, 0.98 / len(pictures), cell - 0.2 / height)
            )
            axes.imshow(pixels)
            axes.set_axis_off()
            if i == 0:
                axes.set_title(title, fontsize=9, pad=3)
        said = f"{row.title}: {row.text}" if row.text else row.title
        figure.text(0.006, bottom - 0.14 / height, said[:150], fontsize=8.5, parse_math=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    picture = Image.open(io.BytesIO(stream.getvalue())).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _html(case: Case, phantom: bool) -> bytes:
    figure = Figure(figsize=(11, 1.7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    timeline(case, figure.add_subplot(), ink=GREY_INK)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    environment = pages.environment("cogaze.evaluate")  # escapes what was said: a stranger's text
    environment.filters["picture"] = _picture
    page = environment.get_template("gaze_page.html").render(
        case=case,
        version=__version__,
        phantom=phantom,
        time=f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}",
        columns=columns(case),
        looks=looks,
        blocks=blocks,
    )
    return page.encode("utf-8", "replace")


def _picture(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
