"""What the tests of embedding share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cogaze.embed import Settings, embed, open_source
from cogaze.model import CoGazeModel

FILMS = 22


def run(model: CoGazeModel, source: Any, out: Path, settings: Settings | None = None, **more: Any) -> Any:
    opened = open_source(source) if isinstance(source, Path) else source
    return embed(model, opened, out, settings or Settings(batch_size=3), workers=2, **more)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "about"}


def same(one: Path, other: Path) -> None:
    """Bit for bit, and the same rows set aside."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)
    quarantined = [p.with_name(f"{p.name}.quarantine.jsonl").read_bytes() for p in (one, other)]
    assert quarantined[0] == quarantined[1]
