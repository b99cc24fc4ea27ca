"""Parity with the released code: the given file where it is at hand, and always a second implementation of our own."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity import __main__ as command
from tests.parity import model, reference, units
from tests.parity.report import Report, relative

ROOT = Path(__file__).parents[1]
GIVEN = Path(os.environ.get("COGAZE_GOLDENS", ROOT.parent / "shared" / "goldens" / "released_tiny.pt"))


def compare(golden: dict[str, Any]) -> Report:
    report = Report()
    model.compare(golden, report)
    units.compare(golden, report)
    return report


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return reference.make(0)


@pytest.mark.skipif(not GIVEN.is_file(), reason="the numbers of the released code are not at hand (COGAZE_GOLDENS)")
def test_the_released_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(str(GIVEN)) == 0, capsys.readouterr().out


def test_a_second_implementation(made: dict[str, Any]) -> None:
    report = compare(made)
    assert report.good, report.table()
    assert max(line.error for line in report.lines) < 1e-5
    names = [line.name for line in report.lines]
    for needed in (
        "context latents",
        "loss: kl_loss",
        "gradient: worst of 92",
        "dup_dicom: loss",
        "lr 0.001: loss of step 4",
    ):
        assert needed in names


def mislabel(file: dict[str, Any]) -> None:
    file["state_dict"]["image_projektor.projector.0.bias"] = file["state_dict"].pop("image_projector.projector.0.bias")


def nudge(file: dict[str, Any]) -> None:
    file["grads"]["shared_latent"][0, 0] += 1e-3 * file["grads"]["shared_latent"].norm()


def swap_weights(file: dict[str, Any]) -> None:
    case = file["unit"]["js"][1]
    case["loss"] = 0.8 * case["t2i"] + 0.2 * case["i2t"]


def poison(file: dict[str, Any]) -> None:
    file["scenarios"]["no_context"]["losses"]["align_loss"] = float("nan")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (nudge, "gradient: worst of 92"),
        (swap_weights, "js: loss, worst of 3"),
        (poison, "no_context: align_loss"),
    ],
)
def test_a_wrong_number_is_found(made: dict[str, Any], change: Any, where: str) -> None:
    file = copy.deepcopy(made)
    change(file)
    report = compare(file)
    assert next(line.name for line in report.lines if not line.good) == where


def test_a_name_without_a_place_is_found(made: dict[str, Any]) -> None:
    state = dict(made["state_dict"])
    file = made | {"state_dict": state}
    mislabel(file)
    with pytest.raises(RuntimeError, match=r"vision\.projector\.0\.bias"):
        compare(file)


def test_the_command_and_its_exit_code(made: dict[str, Any], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save(made, good)
    torch.save({**made, "class_weights": made["class_weights"] * 1.001}, bad)
    for path, code, verdict in ((good, 0, "all 89 quantities agree"), (bad, 1, "1 of 89 quantities differ")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.parity", str(path)], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, verdict in done.stdout) == (code, True), done.stdout + done.stderr


def test_relative_error() -> None:
    assert relative([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / 5.408326913)
    assert relative(0.0, 0.0) == 0
    assert relative(1e-9, 0.0) == float("inf")
    assert relative(1e-9, 0.0, floor=1.0) == pytest.approx(1e-9)
    assert relative([1.0], [1.0, 2.0]) == float("inf")
    report = Report()
    # the key's bias: rounding on both sides, measured against the whole; the other one against itself
    report.add_all("g", {"a": [3.0], "x.key.bias": [2e-9]}, {"a": [3.0], "x.key.bias": [-1e-9]})
    assert [line.error for line in report.lines] == pytest.approx([1e-9, 1e-9])
    report.add_all("g", {"a": [3.0], "b": [2e-4]}, {"a": [3.0], "b": [1e-4]})
    assert report.lines[2].note == "b"
    assert report.lines[2].error == pytest.approx(1.0)
