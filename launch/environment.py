"""Who am I among the ranks: read from whichever launcher started this process.

torchrun, `accelerate launch`, deepspeed and `cogaze train --nproc` set RANK, LOCAL_RANK and WORLD_SIZE; `srun` sets
SLURM_PROCID, SLURM_LOCALID and SLURM_STEP_NUM_TASKS; Open MPI sets OMPI_COMM_WORLD_RANK and its like. The first kind
wins where both are there (torchrun inside srun is one task a node that starts a rank a GPU), unless they contradict.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


class LauncherError(ValueError):
    """The environment of this process does not add up; the message names the variables and the remedy."""


@dataclass(frozen=True)
class RankEnvironment:
    """One rank's place: `rank` of `world_size`, `local_rank` on its machine; where rank 0 listens (None: unsaid)."""

    rank: int
    local_rank: int
    world_size: int
    launcher: str  # cogaze | accelerate | torchrun | deepspeed | environment | slurm | openmpi | single
    master_addr: str | None = None
    master_port: int | None = None

    def variables(self) -> dict[str, str]:
        """The same as the environment variables torch.distributed reads; {} for a process on its own."""
        if self.launcher == "single":
            return {}
        values = {"RANK": self.rank, "LOCAL_RANK": self.local_rank, "WORLD_SIZE": self.world_size}
        where = {"MASTER_ADDR": self.master_addr, "MASTER_PORT": self.master_port}
        return {name: str(value) for name, value in (values | where).items() if value is not None}


def rank_environment(environ: Mapping[str, str] | None = None) -> RankEnvironment:
    """This process's rank, local rank and world size; rank 0 of 1 where no launcher started it.

    `environ` is os.environ unless given. Raises LauncherError: a variable that is missing beside the others or is no
    number, a rank outside its world, or launchers that contradict each other.
    """
    env = os.environ if environ is None else environ
    if "RANK" in env or "WORLD_SIZE" in env:
        found = _triple(env, _torch_launcher(env), "RANK", "LOCAL_RANK", "WORLD_SIZE")
        _agrees_with_slurm(found, env)
    elif "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:  # a process srun started, not the batch script itself
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        found = _triple(env, "slurm", "SLURM_PROCID", "SLURM_LOCALID", size)
    elif "OMPI_COMM_WORLD_RANK" in env:
        world = "OMPI_COMM_WORLD_"
        found = _triple(env, "openmpi", f"{world}RANK", f"{world}LOCAL_RANK", f"{world}SIZE")
    else:
        found = RankEnvironment(0, 0, 1, "single")
    return found


def _triple(env: Mapping[str, str], launcher: str, rank: str, local_rank: str, size: str) -> RankEnvironment:
    missing = [name for name in (rank, local_rank, size) if name not in env]
    if missing:
        present = ", ".join(f"{name}={env[name]}" for name in (rank, local_rank, size) if name in env)
        raise LauncherError(
            f"{present} but no {' and no '.join(missing)}: set all of {rank}, {local_rank} and {size} or none of them "
            "(a launcher sets them; a leftover of an earlier shell session is unset with `unset`)"
        )
    r, local, world = (_number(env, name) for name in (rank, local_rank, size))
    if not 0 <= r < world:
        raise LauncherError(f"{rank}={r} is outside 0..{world - 1} ({size}={world})")
    if not 0 <= local <= r:
        raise LauncherError(f"{local_rank}={local} cannot belong to {rank}={r}: a local rank lies in 0..{rank}")
    port = _number(env, "MASTER_PORT") if "MASTER_PORT" in env else _slurm_port(env, launcher)
    return RankEnvironment(r, local, world, launcher, env.get("MASTER_ADDR") or _first_host(env, launcher), port)


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise LauncherError(f"{name}={env[name]!r} is not a whole number") from None


def _torch_launcher(env: Mapping[str, str]) -> str:
    if "COGAZE_LAUNCHER" in env:
        return env["COGAZE_LAUNCHER"]
    if any(name.startswith("ACCELERATE_") for name in env):
        return "accelerate"
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun"
    return "deepspeed" if "CROSS_RANK" in env else "environment"


def _agrees_with_slurm(found: RankEnvironment, env: Mapping[str, str]) -> None:
    """Every task of a Slurm step starts at least one rank, and `cogaze train --nproc` knows of one task alone."""
    if "SLURM_STEP_NUM_TASKS" not in env:
        return
    tasks = _number(env, "SLURM_STEP_NUM_TASKS")
    if found.world_size < tasks:
        raise LauncherError(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS) but WORLD_SIZE={found.world_size}: each task would "
            "train on its own into the same run folder; unset RANK and WORLD_SIZE, or start one task a node"
        )
    if found.launcher == "cogaze" and tasks > 1:
        raise LauncherError(
            f"srun started {tasks} tasks and each of them started its own ranks (--nproc): leave --nproc out and give "
            "srun one task a GPU, or start one task alone"
        )


def _first_host(env: Mapping[str, str], launcher: str) -> str | None:
    """Where rank 0 runs: the first host of the step's node list (`gpu[03-05,9],x` gives gpu03); None outside Slurm."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    if launcher != "slurm" or not nodes:
        return None
    match = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if match is None:
        raise LauncherError(f"SLURM_STEP_NODELIST={nodes!r} cannot be read; set MASTER_ADDR to the host of rank 0")
    return match[1] + (match[2] or "")


def _slurm_port(env: Mapping[str, str], launcher: str) -> int | None:
    """A port that all tasks of a job agree on without talking: from the job id, in 20000..29999."""
    if launcher != "slurm" or "SLURM_JOB_ID" not in env:
        return None
    return 20000 + _number(env, "SLURM_JOB_ID") % 10000
