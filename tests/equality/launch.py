"""Starts the ranks of one launch and reads what they measured."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
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
        command = [
            sys.executable,
            "-m",
            "tests.equality.worker",
            str(out),
            json.dumps(layouts),
            json.dumps(terms),
            wrong,
        ]
        ranks = []
        for rank in range(world):
            env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(world)}
            if world > 1 or layouts[0][0] != "ddp":
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            log = (Path(folder) / f"{rank}.log").open("w")
            ranks.append(subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
        try:
            codes = [p.wait(timeout) for p in ranks]
        finally:
            for p in ranks:
                p.kill()
        logs = [(Path(folder) / f"{rank}.log").read_text() for rank in range(world)]
        if any(codes):
            raise RuntimeError(f"exit codes {codes}\n" + "\n".join(text[-3000:] for text in logs))
        return json.loads(out.read_text())
