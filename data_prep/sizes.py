"""The size that a source's tables state of an image, beside the size of its file.

A smaller copy keeps its shape, and every place stays the same fraction of it. A cropped, padded or turned copy does
not: fixations, which are fractions of the picture that the radiologist saw, would lie elsewhere on it. They go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cogaze.data.schema import GAZE_MEMBER, pack_gaze, unpack_gaze
from data_prep.heatmap_files import ASPECT, Aside

OTHER_SIZE = "image of another size than its table says"
OTHER_SHAPE = "image of another shape than its table says"
MISPLACED = "gaze of an image of another shape: its places are unknown"


def hold_to(
    stated: tuple[int, int] | None,
    size: tuple[int, int],
    meta: dict[str, Any],
    members: Mapping[str, bytes],
    heatmaps: Sequence[Sequence[Any]],
) -> tuple[dict[str, Any], dict[str, bytes], list[Sequence[Any]], list[Aside]]:
    """A sample whose image is `size` px (width, height) where the table states another size: (meta, members, heat
    maps, what is to be told). Without a stated size, or with the same, as given.

    Shapes are the same where width / height differs by no more than 1 % (sizes are whole px). In another shape readings
    with fixations go; those with heat maps stay, whose pictures have a shape of their own to be held to.
    """
    given = meta, dict(members), list(heatmaps)
    if stated is None or stated == size:
        return *given, []
    detail = f"{stated[0]}x{stated[1]} px in the table, {size[0]}x{size[1]} px in the file; the image is kept"
    if abs(stated[0] * size[1] / (stated[1] * size[0]) - 1) <= ASPECT:
        return *given, [(meta["image_id"], OTHER_SIZE, detail)]
    told: list[Aside] = [(meta["image_id"], OTHER_SHAPE, detail)]
    if not meta["readings"]:
        return *given, told
    fixations = unpack_gaze(members[GAZE_MEMBER])
    stay = [number for number, _ in enumerate(meta["readings"]) if heatmaps and heatmaps[number]]
    told += [(reading["id"], MISPLACED, "") for n, reading in enumerate(meta["readings"]) if n not in stay]
    rest = {name: data for name, data in members.items() if name != GAZE_MEMBER}
    if stay:
        rest[GAZE_MEMBER] = pack_gaze([np.asarray(fixations[number]) for number in stay])
    meta = {**meta, "readings": [meta["readings"][number] for number in stay]}
    return meta, rest, [heatmaps[number] for number in stay], told
