"""Devices, cores, the launcher's variables, and whether two processes can talk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finding import Finding

if TYPE_CHECKING:
    from ..config import Config

COLLECTIVE_SECONDS = 120.0


def has_nvidia() -> bool:
    return Path("/dev/nvidia0").exists()


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def devices(precision: str) -> Iterator[Finding]:
    """Each GPU with its memory, and whether it computes in the precision that the run asks for."""
    import torch

    if gpu_count() == 0:
        yield Finding("devices", "ok", "no GPU: training runs on the CPU, over gloo")
        return
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).partition("\n")[0]
    for number in range(gpu_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = properties.major >= 8
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        able = "bf16" if bf16 else "no bf16"
        found = f"cuda:{number} {properties.name}, {memory}, {able}, driver {driver or 'unknown'}"
        if precision == "bf16" and not bf16:
            yield Finding("devices", "fail", found, "this GPU only emulates bf16: set train.precision=fp32")
        else:
            yield Finding("devices", "ok", found)


def processors(config: Config | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Cores this process may use, against threads and loader processes of all ranks of this machine."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(_number(environ.get("LOCAL_WORLD_SIZE", "")) or (config.run.nproc if config else None) or 1)
    threads = int((config.run.threads if config else None) or torch.get_num_threads())
    found = f"{cores} cores, {threads} threads a rank, {ranks} ranks here"
    remedies = []
    if threads * ranks > cores and ranks > 1 and "OMP_NUM_THREADS" in environ:
        remedies.append(f"more threads than cores: OMP_NUM_THREADS={max(1, cores // ranks)}")
    if config is not None:
        found += f", {config.data.workers} loader processes a rank"
        if config.data.workers * ranks > cores:
            remedies.append(f"more loader processes than cores: data.workers={max(1, cores // ranks)}")
    yield Finding("processors", "warn" if remedies else "ok", found, "; ".join(remedies))


def launch_environment(
    environ: Mapping[str, str], gpus: int, place: Callable[[Mapping[str, str]], Any]
) -> Iterator[Finding]:
    """Which launcher's variables are set, whether they agree, and whether each rank has a GPU of its own."""
    check = "launch environment"
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    seen = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    try:
        here = place(environ)
    except ValueError as error:
        yield Finding(check, "fail", seen or "contradictory", str(error))
        return
    if here.launcher == "single":
        note = (
            "; the batch script of a Slurm job: start ranks with srun or --nproc" if "SLURM_JOB_ID" in environ else ""
        )
        yield Finding(check, "ok", f"no launcher: one process unless --nproc starts more{note}")
    else:
        said = {"MASTER_ADDR": here.master_addr, "MASTER_PORT": here.master_port}
        missing = [name for name, value in said.items() if value is None]
        found = f"{here.launcher}, rank {here.rank} of {here.world_size} ({seen})"
        if missing and here.world_size > 1:
            remedy = (
                "every rank must know where rank 0 listens: export MASTER_ADDR=<its host> MASTER_PORT=<a free port>"
            )
            yield Finding(check, "fail", f"{found}, but no {' and no '.join(missing)}", remedy)
        else:
            yield Finding(check, "ok", found)
        if gpus and here.local_rank >= gpus:
            remedy = "start one rank a GPU (--nproc_per_node), or show all GPUs of the node to each task"
            slurm = "; under srun: --gpus-per-task=1 with --gpu-bind=none, or --ntasks-per-node=<GPUs>"
            yield Finding(check, "fail", f"local rank {here.local_rank} has no GPU: {gpus} visible", remedy + slurm)
    granted = any(name in environ for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"))
    if "SLURM_JOB_ID" in environ and gpus and not granted and "CUDA_VISIBLE_DEVICES" not in environ:
        remedy = "ask for them: --gpus-per-node=<n>; else this job computes on GPUs that others were given"
        yield Finding(check, "warn", f"Slurm granted this job no GPU, yet {gpus} are visible", remedy)
    if environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") and has_nvidia():
        yield Finding(check, "warn", "CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES")


_ALL_REDUCE = """
import datetime, sys, torch, torch.distributed as td
rank, backend = int(sys.argv[1]), sys.argv[2]
if backend == "nccl": torch.cuda.set_device(rank)
td.init_process_group(backend, init_method="tcp://127.0.0.1:" + sys.argv[3], rank=rank, world_size=2,
                      timeout=datetime.timedelta(seconds=60))
value = torch.full((1 << 20,), float(rank + 1), device="cuda" if backend == "nccl" else "cpu")
td.all_reduce(value)
assert value.eq(3).all(), value
td.destroy_process_group()
"""


def all_reduce(backend: str, seconds: float = COLLECTIVE_SECONDS) -> Finding:
    """Two processes of this machine add a million numbers over `backend`."""
    check = f"all-reduce {backend}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith("TORCHELASTIC_")}
    began = time.monotonic()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _ALL_REDUCE, str(rank), backend, port],
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    problem = ""
    for rank in ranks:
        try:
            _, errors = rank.communicate(timeout=max(0.1, seconds - (time.monotonic() - began)))
            if rank.returncode:
                problem = problem or (errors.strip().splitlines() or [f"exit code {rank.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            problem = problem or f"no answer within {seconds:.0f} s"
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()
    if problem:
        wrong = {k: v for k, v in env.items() if k.startswith(("GLOO_", "NCCL_"))}
        remedy = f"is one of these wrong: {wrong}" if wrong else "does the host know its own name (`hostname -i`)"
        remedy += f"; `{'NCCL_DEBUG=INFO' if backend == 'nccl' else 'TORCH_DISTRIBUTED_DEBUG=DETAIL'} cogaze doctor`"
        return Finding(check, "fail", problem, remedy)
    return Finding(check, "ok", f"two processes agree, {time.monotonic() - began:.1f} s with their start")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
