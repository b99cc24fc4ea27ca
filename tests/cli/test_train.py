"""`cogaze train` before anything is trained: the printed configuration, and refusals."""

from __future__ import annotations

import pytest
import yaml

from cogaze.cli.main import run
from cogaze.config import load


def test_print_config_is_the_resolved_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "configs/demo.yaml", "optim.lr=0.25", "run.dir=runs/x", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["optim"]["lr"] == 0.25
    assert printed["run"]["dir"] == "runs/x"
    assert printed["model"]["vision"]["width"] == load("configs/demo.yaml").model.vision.width  # from the file
    assert printed["model"]["vision"]["patch_size"] == 14  # from base.yaml


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/demo.yaml", "train.stepz=3"], "unknown key train.stepz; did you mean train.steps?"),
        (["configs/demo.yaml", "train.steps=0"], "train.steps"),
        (["configs/absent.yaml"], "configs/absent.yaml: no such configuration file"),
        (["configs/demo.yaml", "data.shards=[x]"], "training needs a run folder: run.dir=runs/NAME"),
        (["configs/demo.yaml", "run.dir=runs/x"], "training needs shards"),
    ],
)
def test_wrong_configuration_is_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_nproc_inside_a_launcher_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert run(["train", "configs/demo.yaml", "--nproc", "2"]) == 2
    assert "--nproc starts ranks itself" in capsys.readouterr().err
