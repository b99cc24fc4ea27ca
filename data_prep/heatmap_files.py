"""Heat maps that come as picture files, to the maps of a shard sample: uint8 over the stored image.

A map is brought to the size of the stored image, as the image was, so that one crop fits both. Colour pictures become
their luminance. What cannot be used leaves its row black; a reading of which no row is left goes.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogaze.data.schema import GAZE_MEMBER, MAPS_MEMBER, pack_gaze, pack_maps, unpack_gaze

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 89_478_485  # as for images
ASPECT = 0.01  # relative: by so much may the shapes of picture and image differ (sizes are whole px)

Aside = tuple[str, str, str]  # reading id, reason, detail


class HeatmapError(ValueError):
    """A picture that is no usable heat map; the message is a short fixed phrase."""


def content_digest(path: Path) -> str | None:
    """Hexadecimal sha256 of a picture file; None for one that cannot be read, which `read_map` says why."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()


def add_maps(
    meta: dict[str, Any],
    members: Mapping[str, bytes],
    heatmaps: Sequence[Sequence[Path | None]],
    stored: tuple[int, int],
    original: tuple[int, int],
) -> tuple[dict[str, Any], dict[str, bytes], list[Aside]]:
    """A sample with the maps of its readings: (meta, members, what was set aside).

    `heatmaps` are those of each reading in the order of `meta["readings"]` (empty: that reading has fixations), as
    Reading.heatmaps; `stored` and `original` are width and height of the image in the shard and in its file, px.
    Readings without any usable map leave meta and gaze member.
    """
    if not any(heatmaps):
        return meta, dict(members), []
    fixations = unpack_gaze(members[GAZE_MEMBER])
    readings, gaze = list[dict[str, Any]](), list[np.ndarray]()
    maps, aside = dict[int, np.ndarray](), list[Aside]()
    for number, (reading, paths) in enumerate(zip(meta["readings"], heatmaps, strict=True)):
        if paths:
            rows, faults = read_maps(paths, stored, original)
            aside += [(reading["id"], reason, detail) for reason, detail in faults]
            if not rows.any():
                aside.append((reading["id"], "reading without a usable heat map", ""))
                continue
            maps[len(readings)] = rows
        readings.append(reading)
        gaze.append(fixations[number])
    members = {name: data for name, data in members.items() if name != GAZE_MEMBER}
    if readings:
        members[GAZE_MEMBER] = pack_gaze(gaze)
    if maps:
        members[MAPS_MEMBER] = pack_maps(maps)
    return {**meta, "readings": readings}, members, aside


def read_maps(
    paths: Sequence[Path | None], stored: tuple[int, int], original: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The maps of one reading, uint8 (len(paths),H,W), and (reason, file name) of those that stay black."""
    maps, faults = np.zeros((len(paths), stored[1], stored[0]), np.uint8), []
    for row, path in zip(maps, paths, strict=True):
        if path is None:
            continue
        try:
            row[:] = read_map(path, stored, original)
        except HeatmapError as error:
            faults.append((str(error), path.name))
    return maps, faults


def read_map(path: Path, stored: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """One picture as grey levels, uint8 (H,W) of the size `stored` (width, height).

    Raises HeatmapError: "heat map missing", "heat map unreadable", "heat map constant", "heat map too large", "heat map
    of more than 8 bits", "heat map of another shape than its image".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's bomb warning comes before our own, lower, limit
            with Image.open(path, formats=FORMATS) as file:
                width, height = file.size
                if width * height > MAX_PIXELS:
                    raise HeatmapError("heat map too large")
                if file.mode.startswith(("I", "F")):
                    raise HeatmapError("heat map of more than 8 bits")
                off = abs(width * original[1] - height * original[0])  # an image side for each px that a side is off
                if off > max(ASPECT * width * original[1], *original):
                    raise HeatmapError("heat map of another shape than its image")
                plain = file if file.mode == "L" else file.convert("RGB")
                scaled = plain if plain.size == stored else plain.resize(stored, Image.Resampling.BICUBIC)
                levels = np.asarray(scaled.convert("L"))
    except HeatmapError:
        raise
    except FileNotFoundError:
        raise HeatmapError("heat map missing") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError):
        raise HeatmapError("heat map unreadable") from None
    if levels.min() == levels.max():
        raise HeatmapError("heat map constant")
    return levels
