"""Starts the ranks of one launch and reads what they measured."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from tests import forkserver

STAGES = ("zero0", "zero1", "zero2", "zero3")
TERMS = ("total", "contrastive", "disease", "gaze")
LIMIT = 1e-5


def launch(
    world: int, layouts: list[tuple[str, int]], terms: tuple[str, ...] = TERMS, wrong: str = "", timeout: int = 1200
) -> list[dict[str, Any]]:
    """All layouts (strategy, accumulation) of one world size; DDP and ZeRO may not be mixed in one launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        ranks = []
        for rank in range(world):
            env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "LOCAL_WORLD_SIZE": str(world)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if world > 1 or layouts[0][0] != "ddp":
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            ranks.append(forkserver.Run("tests.equality.worker:main", str(out), layouts, terms, wrong, env=env))
        try:
            codes = [rank.wait(timeout) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        if any(codes):
            raise RuntimeError(f"exit codes {codes}\n" + "\n".join(rank.output[-3000:] for rank in ranks))
        return json.loads(out.read_text())
