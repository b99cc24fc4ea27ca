"""The doctor on healthy and on broken machines: each fault is provoked, and named with its remedy."""

from __future__ import annotations

import http.server
import importlib.metadata
import io
import json
import shutil
import socket
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cogaze import doctor
from cogaze.cli.main import run
from cogaze.config import Config, validate
from cogaze.doctor import Finding, machine, software, surroundings
from launch.environment import rank_environment
from tests.phantoms import phantom_shards

ROOT = Path(__file__).resolve().parents[1]


def states(findings: Iterable[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def the(findings: Iterable[Finding], state: str) -> Finding:
    (finding,) = [f for f in findings if f.state == state]
    assert (finding.remedy == "") == (state == "ok")
    return finding


def config(**sections: dict) -> Config:
    return validate(sections, "test")


# ------------------------------------------------------------------------------------------------ software
def test_this_installation_is_healthy() -> None:
    assert "fail" not in states(software.versions(ROOT / "constraints.txt"))


def pretend(**other: str | None):
    """importlib.metadata.version with some packages at other releases, or (None) missing."""

    def installed(name: str) -> str:
        if name not in other:
            return importlib.metadata.version(name)
        if other[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(other[name])

    return installed


def test_versions(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text('# tested\ntorch==2.13.0\naccelerate==1.15.0  # why\npandas==9.9; python_version < "3"\n')
    found = the(software.versions(pins, pretend(torch=None)), "fail")
    assert (found.found, found.remedy) == (
        "torch is not installed, wanted 2.13.0",
        "pip install 'torch==2.13.0'",
    )
    assert "torch 2.1.0+cu121, wanted >=2.8" in the(software.versions(pins, pretend(torch="2.1.0+cu121")), "fail").found
    found = the(software.versions(pins, pretend(torch="2.13.1", accelerate="1.15.0")), "warn")
    assert "not so: torch 2.13.1 (tested: 2.13.0)" in found.found
    assert "warn" not in states(software.versions(pins, pretend(torch="2.13.0+cu130", accelerate="1.15.0")))
    last = list(software.versions(tmp_path / "absent.txt", pretend(torch="2.99")))[-1]
    assert (last.state, last.found.endswith("recent enough")) == ("ok", True)


def test_a_cpu_build_of_torch_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(software, "has_nvidia", lambda: False)
    assert states(software.torch_build()) == ["ok"]
    monkeypatch.setattr(software, "has_nvidia", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CPU build" in the(software.torch_build(), "fail").remedy
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver is older" in the(software.torch_build(), "fail").remedy


def test_build_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    nothing = {"PATH": str(tmp_path), "CXX": "clang-99"}
    missing = list(software.build_tools(None, nothing))
    assert [(f.state, f.found.partition(";")[0]) for f in missing] == [("warn", "no ninja"), ("warn", "no clang-99")]
    zero = config(train={"steps": 1, "strategy": "zero2"})
    assert states(software.build_tools(zero, nothing)) == ["fail", "fail"]
    for tool in ("ninja", "clang-99"):
        (tmp_path / tool).touch(mode=0o755)
    assert states(software.build_tools(zero, nothing)) == ["ok", "ok"]


# ------------------------------------------------------------------------------------------------ machine
def test_bf16_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    volta = SimpleNamespace(name="Tesla V100-SXM2-16GB", major=7, total_memory=16 * 2**30)
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: volta)
    monkeypatch.setattr(machine, "_output", lambda command: "550.54\n550.54")
    found = the(machine.devices("bf16"), "fail")
    assert found.found == "cuda:0 Tesla V100-SXM2-16GB, 16 GiB, no bf16, driver 550.54"
    assert "train.precision=fp32" in found.remedy
    assert states(machine.devices("fp32")) == ["ok"]
    volta.major = 8
    assert states(machine.devices("bf16")) == ["ok"]


def test_more_threads_and_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    fine = config(run={"nproc": 2, "threads": 4}, data={"workers": 4}, train={"steps": 1})
    assert states(machine.processors(fine, {"OMP_NUM_THREADS": "4"})) == ["ok"]
    much = config(run={"nproc": 4, "threads": 4}, data={"workers": 3}, train={"steps": 1})
    found = the(machine.processors(much, {"OMP_NUM_THREADS": "4"}), "warn")
    assert "OMP_NUM_THREADS=2" in found.remedy
    assert "data.workers=2" in found.remedy


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
         "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n1"}  # fmt: skip
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "2950"}


@pytest.mark.parametrize(
    ("environ", "gpus", "expected", "said"),
    [
        ({}, 0, ["ok"], "no launcher"),
        ({"SLURM_JOB_ID": "7"}, 0, ["ok"], "start ranks with srun"),
        (TORCHRUN, 0, ["ok"], "rank 1 of 2"),
        (TORCHRUN, 2, ["ok"], "rank 1 of 2"),
        (TORCHRUN, 1, ["ok", "fail"], "local rank 1 has no GPU: 1 visible"),
        ({"RANK": "0"}, 0, ["fail"], "no LOCAL_RANK and no WORLD_SIZE"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 0, ["fail"], "outside 0..1"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_ADDR"}, 0, ["fail"], "but no MASTER_ADDR"),
        ({k: v for k, v in TORCHRUN.items() if "MASTER" not in k}, 0, ["fail"], "no MASTER_ADDR and no MASTER_PORT"),
        (TORCHRUN | {"SLURM_STEP_NUM_TASKS": "4"}, 0, ["fail"], "srun started 4 tasks"),
        (SLURM | {"SLURM_GPUS_ON_NODE": "2"}, 2, ["ok"], "slurm, rank 1 of 2"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, 1, ["ok", "fail"], "--gpu-bind=none"),
        (SLURM, 2, ["ok", "warn"], "granted this job no GPU"),
    ],
)
def test_launch_environment(environ: dict[str, str], gpus: int, expected: list[str], said: str) -> None:
    findings = list(machine.launch_environment(environ, gpus, rank_environment))
    assert states(findings) == expected
    assert said in " ".join(f"{f.found} {f.remedy}" for f in findings)


def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_nvidia", lambda: True)
    findings = machine.launch_environment({"CUDA_VISIBLE_DEVICES": ""}, 0, rank_environment)
    assert "unset CUDA_VISIBLE_DEVICES" in the(list(findings)[1:], "warn").remedy


@pytest.mark.slow
def test_all_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")  # a launcher's variables of ours are not theirs
    assert machine.all_reduce("gloo").state == "ok"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchcard0")
    found = machine.all_reduce("gloo")
    assert found.state == "fail"
    assert "nosuchcard0" in found.remedy


def test_all_reduce_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ALL_REDUCE", "import time; time.sleep(60)")
    began = time.monotonic()
    assert machine.all_reduce("gloo", seconds=0.3).found == "no answer within 0 s"
    assert time.monotonic() - began < 20
    monkeypatch.setattr(machine, "_ALL_REDUCE", "import sys; sys.exit('ValueError: no such backend')")
    assert machine.all_reduce("gloo").found == "ValueError: no such backend"


# ------------------------------------------------------------------------------------------------ disk and network
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    wanted = tmp_path / "runs" / "one"  # not there yet: its parent is looked at, nothing is made
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 50e9))
    found = the(surroundings.disk("run folder", wanted, probe=3 << 20), "ok")
    assert found.found.startswith(f"{tmp_path}: 50.0 GB free, writes ")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5e9))
    assert "5.0 GB free" in the(surroundings.disk("run folder", wanted, probe=1 << 20), "warn").found
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5e8))
    assert "delete old runs" in the(surroundings.disk("run folder", wanted, probe=1 << 20), "fail").remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 50e9))
    monkeypatch.setattr(surroundings, "_speed", lambda folder, size: (20e6, 1e9))
    assert "train.save_every" in the(surroundings.disk("run folder", wanted), "warn").remedy


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    assert "set run.dir" in the(surroundings.disk("run folder", tmp_path / "runs" / "one"), "fail").remedy

    def full(folder: Path, size: int) -> tuple[float, float]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(surroundings, "_speed", full)
    assert "No space left" in the(surroundings.disk("run folder", tmp_path), "fail").found


@pytest.fixture
def server() -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(int(self.path.strip("/") or 200))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def test_hub(server: str) -> None:
    assert surroundings.hub({"HF_ENDPOINT": server}).state == "ok"
    assert surroundings.hub({"HF_ENDPOINT": f"{server}/403"}).state == "ok"  # it answers
    assert surroundings.hub({"HF_ENDPOINT": f"{server}/503"}).found.endswith("status 503")
    assert surroundings.hub({"HF_ENDPOINT": "nonsense"}).state == "warn"
    assert "offline" in surroundings.hub({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "nonsense"}).found


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        found = surroundings.hub({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}, seconds=0.3)
    assert found.state == "warn"
    assert time.monotonic() - began < 5
    # a name server that does not answer: no timeout of a socket ends that
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: time.sleep(30) or io.BytesIO())
    began = time.monotonic()
    assert surroundings.hub({}, seconds=0.3).found.endswith("no answer within 0.3 s")
    assert time.monotonic() - began < 5


# ------------------------------------------------------------------------------------------------ the run
def test_shards(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(phantom_shards(), shards)
    found = the(surroundings.shard_folders([shards], None), "ok")
    manifest = json.loads((shards / "manifest.json").read_text())
    images = manifest["totals"]["by_split"]["train"]["images"]
    assert found.found.startswith(f"train {images}, ")
    other = config(data={"train_split": "learn"}, train={"steps": 1})
    assert "data.train_split" in the(list(surroundings.shard_folders([shards], other))[1:], "fail").remedy
    large = config(train={"steps": 1, "global_batch": 4096, "micro_batch": 4096})
    assert "4096" in the(list(surroundings.shard_folders([shards], large))[1:], "fail").found

    tar = shards / "train-000000.tar"
    whole = tar.read_bytes()
    index = json.loads((shards / "train-000000.index.json").read_text())
    offset, size = index["samples"][0]["members"][manifest["image_format"]]
    tar.write_bytes(whole[:offset] + b"x" * size + whole[offset + size :])  # an image that is none
    assert states(surroundings.shard_folders([shards], None)) == ["fail"]
    tar.write_bytes(whole[:-512])
    assert "train-000000.tar" in the(surroundings.shard_folders([shards], None), "fail").found
    assert "cogaze data check" in the(surroundings.shard_folders([tmp_path / "none"], None), "fail").remedy


def test_batch_arithmetic() -> None:
    fits = config(run={"nproc": 4}, train={"steps": 1, "global_batch": 160, "micro_batch": 20})
    found = surroundings.batch_arithmetic(fits, {}, rank_environment)
    assert (found.state, found.found) == ("ok", "160 images = 4 ranks x 2 micro-batches x 20")
    found = surroundings.batch_arithmetic(fits.model_copy(update={"run": Config().run}), TORCHRUN, rank_environment)
    assert found.found == "160 images = 2 ranks x 4 micro-batches x 20"
    wrong = config(run={"nproc": 3}, train={"steps": 1, "global_batch": 160, "micro_batch": 20})
    assert surroundings.batch_arithmetic(wrong, {}, rank_environment).state == "fail"


# ------------------------------------------------------------------------------------------------ the command
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "all_reduce", lambda backend: Finding(f"all-reduce {backend}", "ok", "two agree"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    healthy = ["doctor", "configs/demo.yaml", f"run.dir={tmp_path / 'run'}", "--shards", str(phantom_shards())]
    assert run(healthy) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" 0 failures")
    assert "ok    all-reduce gloo      two agree" in lines
    assert [line for line in lines if line.startswith("ok    shards")]

    assert run([*healthy[:-1], str(tmp_path / "absent"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (failure,) = [f for f in report["findings"] if f["state"] == "fail"]
    assert failure["check"] == "shards"
    assert failure["remedy"]
    assert report["fail"] == 1

    monkeypatch.setenv("RANK", "0")  # and nothing beside it
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (number,) = [i for i, line in enumerate(lines) if line.startswith("fail  launch environment")]
    assert lines[number + 1].strip().startswith("-> ")
    assert run(["doctor", "configs/demo.yaml", "train.stepz=1"]) == 2


def test_examine_is_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines are there before the slow checks run."""
    monkeypatch.setattr(machine, "all_reduce", lambda backend: pytest.fail("not asked for yet"))
    assert next(doctor.examine(None, [], rank_environment)).check == "python"
