from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.phantom import write

STUDIES, SEED = 60, 3


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small collection of 60 studies, written once for all tests that only read it."""
    out = tmp_path_factory.mktemp("phantom") / "raw"
    write(out, STUDIES, SEED, size=96, gaze_share=0.6, raw_gaze=True)
    return out


@pytest.fixture(scope="session")
def truth(raw: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (raw / "truth.jsonl").read_text().splitlines()]
