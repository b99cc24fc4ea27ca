"""`cogaze doctor`: is this machine fit to train, and what is to be mended where it is not.

Every check returns findings and never raises for what it looks for; `fail` is what would stop a run, `warn` what would
make it slow, or other than tested.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import machine, software, surroundings
from .finding import Finding

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["Finding", "examine"]


def examine(
    config: Config | None,
    shards: Sequence[Path],
    place: Callable[[Mapping[str, str]], Any],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
    """All checks, one after the other. `shards` replaces data.shards of the config; `place` reads a launcher's
    variables into rank, local_rank, world_size and where rank 0 listens, and raises ValueError for contradictions."""
    yield from software.versions(software.ROOT / "constraints.txt")
    yield from software.torch_build()
    gpus = machine.gpu_count()
    yield from machine.devices(config.train.precision if config else "fp32")
    yield from machine.processors(config, environ)
    yield from machine.launch_environment(environ, gpus, place)
    for backend in ("gloo", *(["nccl"] if gpus > 1 else [])):
        yield machine.all_reduce(backend)
    yield from software.build_tools(config, environ)
    run = config.run.dir if config and config.run.dir else Path("runs")
    yield from surroundings.disk("run folder", run)
    yield from surroundings.disk("TORCH_EXTENSIONS_DIR", surroundings.extensions_folder(environ), probe=1 << 20)
    yield surroundings.hub(environ)
    folders = [*shards] or [Path(folder) for folder in (config.data.shards if config else [])]
    if folders:
        yield from surroundings.shard_folders(folders, config)
    if config is not None:
        yield surroundings.batch_arithmetic(config, environ, place)
