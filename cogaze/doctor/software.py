"""Python, packages, torch, and the tools that build what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from .finding import Finding
from .machine import has_nvidia

if TYPE_CHECKING:
    from ..config import Config

ROOT = Path(__file__).resolve().parents[2]  # of a source checkout


def versions(constraints: Path, installed: Callable[[str], str] = importlib.metadata.version) -> Iterator[Finding]:
    """Python and every package of the project: there, recent enough (fail), and the release that was tested (warn)."""
    metadata = importlib.metadata.metadata("cogaze")
    python = sys.version.split()[0]
    if Version(python) in Requirement(f"python{metadata['Requires-Python']}").specifier:
        yield Finding("python", "ok", f"{python}, {sys.executable}")
    else:
        wanted = metadata["Requires-Python"]
        yield Finding("python", "fail", f"{python}, wanted {wanted}", "make setup PYTHON=/path/to/a/newer/python3")
    pins = _pins(constraints)
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]  # the extras are optional
    as_tested, others = 0, []
    for requirement in needed:
        name, pin = requirement.name, pins.get(_key(requirement.name))
        try:
            version = installed(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("versions", "fail", f"{name} is not installed, wanted {pin or requirement}", _pip(name, pin))
            continue
        plain = Version(version).public  # 2.13.0+cpu is 2.13.0
        if not requirement.specifier.contains(plain, prereleases=True):
            yield Finding("versions", "fail", f"{name} {version}, wanted {requirement.specifier}", _pip(name, pin))
        elif pin is not None and plain != pin:
            others.append(f"{name} {version} (tested: {pin})")
        else:
            as_tested += 1
    if others:
        remedy = "fine unless something breaks; `pip install -c constraints.txt -e .` installs the tested ones"
        yield Finding("versions", "warn", f"{as_tested} packages as tested, not so: {', '.join(others)}", remedy)
    else:
        yield Finding("versions", "ok", f"{as_tested} packages" + (" as tested" if pins else ", recent enough"))


def _pins(constraints: Path) -> dict[str, str]:
    """Package -> tested release for this Python; {} where cogaze is installed without its source."""
    if not constraints.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in constraints.read_text(encoding="utf-8").splitlines())
    parsed = [Requirement(line) for line in lines if line]
    return {_key(r.name): next(iter(r.specifier)).version for r in parsed if r.marker is None or r.marker.evaluate()}


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def _pip(name: str, pin: str | None) -> str:
    return f"pip install '{name}=={pin}'" if pin else f"pip install {name}"


def torch_build() -> Iterator[Finding]:
    """What torch was built for, against what hardware there is."""
    import torch

    built = f"torch {torch.__version__}, CUDA {torch.version.cuda or 'no'}"
    if torch.cuda.is_available():
        yield Finding("torch", "ok", f"{built}, cuDNN {torch.backends.cudnn.version()}")
    elif has_nvidia():
        remedy = (
            "this is a CPU build: pip install torch from https://download.pytorch.org/whl/cuXXX"
            if torch.version.cuda is None
            else "the driver is older than this CUDA, or CUDA_VISIBLE_DEVICES hides the GPUs; see nvidia-smi"
        )
        yield Finding("torch", "fail", f"{built}; the machine has an NVIDIA GPU that torch cannot use", remedy)
    else:
        yield Finding("torch", "ok", f"{built}; no NVIDIA GPU here")


def build_tools(config: Config | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """ninja and a C++ compiler, with which DeepSpeed builds its operators on first use."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', '')}"  # as the engine looks for them
    compiler = environ.get("CXX", "g++")
    tools = {"ninja": "pip install ninja", compiler: "apt install g++, or name another compiler in CXX"}
    for tool, remedy in tools.items():
        found = shutil.which(tool, path=path)
        if found:
            yield Finding("build tools", "ok", found)
        else:
            zero = config is not None and config.train.strategy.startswith("zero")
            text = f"no {tool}" + ("" if zero else "; only the ZeRO strategies need it")
            yield Finding("build tools", "fail" if zero else "warn", text, remedy)
