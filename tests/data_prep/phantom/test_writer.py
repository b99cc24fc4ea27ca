"""The bytes written: the same for the same seed whatever the number of processes, others for another seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from data_prep.phantom import PhantomError, write
from data_prep.phantom.plan import make_study, patient_numbers


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_same_bytes_whatever_the_number_of_jobs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = write(tmp_path / "a", 9, 5, size=80, jobs=1, progress=lambda done, total: seen.append((done, total)))
    two = write(tmp_path / "b", 9, 5, size=80, jobs=2)
    assert one == two
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert seen == [(i, 9) for i in range(1, 10)]
    write(tmp_path / "c", 9, 6, size=80)
    images_a = {d for name, d in digests(tmp_path / "a").items() if name.endswith(".jpg")}
    images_c = {d for name, d in digests(tmp_path / "c").items() if name.endswith(".jpg")}
    assert images_a
    assert not images_a & images_c


def test_more_studies_keep_the_first_ones(tmp_path: Path) -> None:
    write(tmp_path / "few", 4, 5, size=80)
    write(tmp_path / "many", 8, 5, size=80)
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    kept = {name: d for name, d in few.items() if name.endswith((".jpg", ".txt")) and "reflacx" not in name}
    assert len(kept) >= 8
    assert kept.items() <= many.items()


def test_summary_counts_what_is_there(raw: Path) -> None:
    mark = json.loads((raw / "PHANTOM.json").read_text())
    totals = mark["totals"]
    assert mark["generator"] == "cogaze phantom"
    assert (mark["seed"], mark["studies"]) == (3, 60)
    assert (
        totals["images"] == len(list((raw / "mimic-cxr-jpg").rglob("*.jpg"))) == sum(totals["images_by_view"].values())
    )
    assert totals["studies"] == len(list((raw / "mimic-cxr").rglob("s*.txt"))) == 60
    assert totals["egd_readings"] == len(list((raw / "egd-cxr").rglob("transcript.json")))
    assert totals["reflacx_readings"] == len(list((raw / "reflacx-xray-localization").rglob("fixations.csv")))


@pytest.mark.parametrize(
    "arguments",
    [{"studies": 0}, {"seed": -1}, {"size": 32}, {"jobs": 0}, {"gaze_share": 1.5}, {"context_share": -0.1}],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, float]) -> None:
    with pytest.raises(PhantomError, match="phantom"):
        write(tmp_path / "x", **{"studies": 2, "seed": 0, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(PhantomError, match="not empty"):
        write(tmp_path, 2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(PhantomError, match="is a file"):
        write(tmp_path / "mine.txt", 2, 0)


def test_shares_of_splits_patients_views_and_findings() -> None:
    numbers = patient_numbers(0, 1500)
    assert numbers[:1200] == patient_numbers(0, 1200)
    assert {numbers.count(patient) for patient in set(numbers[:-1])} <= {1, 2}
    studies = [make_study(0, i, patient) for i, patient in enumerate(numbers)]
    share = {split: sum(s.patient.split == split for s in studies) / 1500 for split in ("train", "validate", "test")}
    assert share["train"] == pytest.approx(0.74, abs=0.03)
    assert share["validate"] == pytest.approx(0.08, abs=0.02)
    assert share["test"] == pytest.approx(0.18, abs=0.03)
    by_patient: dict[int, set[str]] = {}
    for study in studies:
        by_patient.setdefault(study.patient.subject_id, set()).add(study.patient.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert len({s.study_id for s in studies}) == 1500
    assert {len(s.views) for s in studies} == {1, 2, 3}
    assert max(len(s.present) for s in studies) == 3
    for name in ("Pleural Effusion", "Lung Lesion", "Fracture", "Edema"):
        assert 0.07 < sum(name in s.present for s in studies) / 1500 < 0.2
    assert sum(bool(s.indication or s.history) for s in studies) / 1500 == pytest.approx(0.75, abs=0.04)
