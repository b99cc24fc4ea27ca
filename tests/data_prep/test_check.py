"""The checker finds every kind of damage, names the sample, and tells nothing that the source would keep to itself."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogaze.data.schema import pack_gaze
from cogaze.data.shards import ShardSet
from data_prep.build import build
from data_prep.check import check
from tests.hand_made import IMAGE_SIZE, records, rewrite, tar_with

Members = dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    made = records(root / "raw")
    made[1].path.write_bytes(b"")  # one thing in the quarantine
    build(made, root / "out", image_size=IMAGE_SIZE)
    return root / "out"


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "shards"))


def faults(folder: Path) -> list[str]:
    """As "key-or-shard: fault"; none of them may hold an id or a text of the source."""
    report = check(folder)
    assert report["ok"] == (not report["faults"])
    lines = [f"{row['key'] or row['shard']}: {row['fault']}" for row in report["faults"]]
    assert not [line for line in lines if "patient-" in line or "lungs are clear" in line or "image-" in line]
    return lines


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_clean(folder: Path) -> None:
    assert check(folder) == {"ok": True, "faults": [], "shards": 3, "images": 13, "studies": 8}


def test_two_processes_find_the_same(folder: Path) -> None:
    rewrite_json(folder, lambda meta: meta.update(view="UPSIDE"))
    (folder / "test-000000.tar").write_bytes(b"")
    assert check(folder, jobs=2) == check(folder, jobs=1)


# ------------------------------------------------------------------------------------------------ files and hashes
@pytest.mark.parametrize("name", ["train-000000.tar", "train-000000.index.json", "quarantine.jsonl"])
def test_any_flipped_byte_is_seen(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for place in np.linspace(0, len(data) - 1, 9).astype(int):
        broken = bytearray(data)
        broken[place] ^= 1
        (folder / name).write_bytes(bytes(broken))
        assert faults(folder) or name == "quarantine.jsonl"
    if name == "quarantine.jsonl":
        (folder / name).write_bytes(data[: len(data) // 2])
        assert "quarantine.jsonl, line 1" in faults(folder)[0]


def test_missing_and_extra_files(folder: Path) -> None:
    (folder / "train-000009.tar").touch()
    (folder / "train-000000.tar.partial").touch()
    assert faults(folder) == [
        ": train-000000.tar.partial is not named by the manifest",
        ": train-000009.tar is not named by the manifest",
    ]
    (folder / "train-000009.tar").unlink()
    (folder / "train-000000.tar.partial").unlink()
    (folder / "quarantine.jsonl").unlink()
    (folder / "test-000000.index.json").unlink()
    (folder / "validate-000000.tar").unlink()
    found = "\n".join(faults(folder))
    for words in ("quarantine.jsonl cannot be read", "test-000000: the index cannot be read: No such file",
                  "validate-000000: the tar cannot be read: No such file"):  # fmt: skip
        assert words in found


def test_truncated_tar(folder: Path) -> None:
    path = folder / "train-000000.tar"
    data = path.read_bytes()
    for size in (0, 100, 512, len(data) // 2, len(data) - 512):
        path.write_bytes(data[:size])
        found = "\n".join(faults(folder))
        assert f"the tar has {size} bytes" in found
        assert "sha256" in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{}", "schema version None"),
        ("[1]", "not a JSON object"),
        ('{"schema_version": 1, "image_format": "jpg", "image_size": 32}', "shards or totals are missing"),
    ],
)
def test_bad_manifest(folder: Path, text: str, says: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert len(faults(folder)) == 1
    assert says in faults(folder)[0]
    assert "no such folder" in check(folder / "below")["faults"][0]["fault"]


# ------------------------------------------------------------------------------------------------ inside a tar
def rewrite_json(folder: Path, change: Callable[[dict[str, Any]], object], row: int = 0, shard: str = "train") -> str:
    """Change one sample's JSON; returns its key."""
    keys: list[str] = []

    def edit_members(members: Members) -> None:
        keys.append(list(members)[row])
        meta = json.loads(members[keys[0]]["json"])
        change(meta)
        members[keys[0]]["json"] = json.dumps(meta).encode()

    rewrite(folder, f"{shard}-000000", edit_members)
    return keys[0]


def test_rewriting_alone_is_no_fault(folder: Path) -> None:
    rewrite(folder, "train-000000", lambda members: None)
    assert faults(folder) == []


def picture(mode: str, size: tuple[int, int], kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 90 if mode == "L" else (9, 99, 199)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("member", "data", "says"),
    [
        ("jpg", b"\xff\xd8\xff\xe0 no", "image: cannot be decoded"),
        ("jpg", picture("L", (40, 32))[:-200], "image: cannot be decoded"),
        ("jpg", picture("L", (40, 32), "PNG"), "image: cannot be decoded"),
        ("jpg", picture("RGB", (40, 32)), "image: mode RGB"),
        ("jpg", picture("L", (40, 33)), "40x33 px, the shortest side is not 32"),
        ("json", b"{'not': json}", "json: cannot be parsed"),
        ("json", b'{"a": NaN}', "json: cannot be parsed (NaN is not JSON)"),
        ("json", b"\xff\xfe", "json: cannot be parsed"),
        ("json", b"{}", "json: image_id: Field required"),
    ],
)
def test_bad_members(folder: Path, member: str, data: bytes, says: str) -> None:
    keys: list[str] = []

    def change(members: Members) -> None:
        keys.append(list(members)[2])
        members[keys[0]][member] = data

    rewrite(folder, "train-000000", change)
    assert any(line.startswith(f"{keys[0]}: ") and says in line for line in faults(folder))


@pytest.mark.parametrize("member", ["jpg", "json"])
def test_missing_member(folder: Path, member: str) -> None:
    def change(members: Members) -> None:
        del members[next(iter(members))][member]

    rewrite(folder, "test-000000", change)
    assert [line for line in faults(folder) if f"has no {member} member" in line]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda meta: meta.update(view="UPSIDE"), "json: view"),
        (lambda meta: meta.update(split="test"), "json: split test in a shard of train"),
        (lambda meta: meta["labels"].update(Edema=5), "json: labels.Edema"),
        (
            lambda meta: meta.update(readings=[{"id": "r", "reader": "x", "sentences": []}] * 5),
            "5 readings in the json",
        ),
    ],
)
def test_bad_json(folder: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    key = rewrite_json(folder, change)
    assert any(line.startswith(f"{key}: {says}") for line in faults(folder)), faults(folder)


GOOD = np.array([[0.5, 0.5, 0, 1, 0.1, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pack_gaze([GOOD, GOOD, GOOD]), "arrays [0, 1, 2] for 1 readings"),
        (pack_gaze([GOOD * np.nan]), "empty or not finite"),
        (pack_gaze([GOOD[:0]]), "empty or not finite"),
        (pack_gaze([GOOD * [1, 1, 1, -1, 1, 1]]), "ends before it starts"),
        (pack_gaze([GOOD * [1, 1, 1, 1, 0, 1]]), "sigma of 0"),
        (pack_gaze([GOOD[:, :5]]), "not float32"),
        (b"no zip", "not a readable npz"),
        (None, "1 readings in the json, but no gaze.npz"),
    ],
)
def test_bad_gaze(folder: Path, data: bytes | None, says: str) -> None:
    keys: list[str] = []

    def change(members: Members) -> None:
        keys.append(next(key for key, parts in members.items() if "gaze.npz" in parts))
        if data is None:
            del members[keys[0]]["gaze.npz"]
        else:
            members[keys[0]]["gaze.npz"] = data

    rewrite(folder, "test-000000", change)
    assert any(line.startswith(f"{keys[0]}: ") and says in line for line in faults(folder)), faults(folder)


def test_unsafe_names(folder: Path) -> None:
    for name in ("/etc/cron.d/x.jpg", "../../x.jpg", "train-000000-00000.exe", "train-000001-00000.jpg"):
        tar_with(folder / "train-000000.tar", {name: b"x"})
        found = "\n".join(faults(folder))
        assert ("leaves the folder" in found) == (".." in name or name.startswith("/"))
        assert "leaves the folder" in found or "a member's name is not" in found
    assert not (folder.parent / "x.jpg").exists()


def test_links_are_not_followed(folder: Path) -> None:
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        link = tarfile.TarInfo("train-000000-00000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert any("not a plain file" in line for line in faults(folder))


# ------------------------------------------------------------------------------------------------ the manifest's word
def test_index_that_disagrees(folder: Path) -> None:
    path = folder / "train-000000.index.json"

    def with_index(change: Callable[[dict[str, Any]], None]) -> list[str]:
        index = json.loads(original)
        change(index)
        path.write_text(json.dumps(index))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(folder, lambda manifest: manifest["shards"][0].update(index_sha256=digest))
        return faults(folder)

    original = path.read_text()
    first = json.loads(original)["samples"][0]["key"]
    assert with_index(lambda index: None) == []
    assert with_index(lambda i: i["samples"][0]["members"]["jpg"].__setitem__(0, 0)) == [
        f"{first}: the index gives other offsets or sizes than the tar has"
    ]
    assert with_index(lambda i: i["samples"][0].update(gaze=not i["samples"][0]["gaze"])) == [
        f"{first}: the index's gaze flag is wrong"
    ]
    assert "not the same in order" in with_index(lambda index: index["samples"].reverse())[0]
    assert "not the same in order" in with_index(lambda index: index["samples"].pop())[0]
    assert "of another shard" in with_index(lambda index: index.update(shard="train-000003"))[0]
    assert "damaged" in with_index(lambda index: index.pop("samples"))[0]
    assert "entry is damaged" in with_index(lambda index: index["samples"][0].update(members=None))[0]


def test_counts_that_disagree(folder: Path) -> None:
    def with_manifest(change: Callable[[dict[str, Any]], None]) -> str:
        saved = (folder / "manifest.json").read_text()
        edit(folder, change)
        found = faults(folder)
        (folder / "manifest.json").write_text(saved)
        assert len(found) == 1
        return found[0]

    assert "totals.images is 99, counted 13" in with_manifest(lambda m: m["totals"].update(images=99))
    assert "by_split.train" in with_manifest(
        lambda m: m["totals"]["by_split"]["train"]["labels"]["Edema"].update(blank=1)
    )
    assert "by_split.test" in with_manifest(lambda m: m["totals"]["by_split"].pop("test"))
    assert "does not hold" in with_manifest(lambda m: m["quarantined"].update({"image empty": 2}))
    assert "study_runs" in with_manifest(lambda m: m["shards"][0].update(study_runs=[8]))
    assert "gaze positions" in with_manifest(lambda m: m["shards"][0]["gaze"].pop())
    assert "totals.images is None" in with_manifest(lambda m: m["totals"].pop("images"))


def test_studies_patients_and_doubles(folder: Path) -> None:
    """Across samples and shards: adjacency, leaks, the same image twice."""

    def scatter(members: Members) -> None:
        keys = list(members)
        of = {key: json.loads(parts["json"])["study_id"] for key, parts in members.items()}
        group = [key for key in keys if list(of.values()).count(of[key]) == 3]
        other = next(key for key in keys if (of[key] != of[group[0]] and key > group[0]) or key < group[0])
        members[group[1]], members[other] = members[other], members[group[1]]

    rewrite(folder, "train-000000", scatter)
    assert any("its study's images are not adjacent" in line for line in faults(folder))


def test_leak_and_double(folder: Path) -> None:
    donor = json.loads(sample_json(folder, "train"))
    key = rewrite_json(folder, lambda meta: meta.update(patient_id=donor["patient_id"]), row=1, shard="test")
    assert any(line.startswith(f"{key}: its patient is also in split train") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(image_id=donor["image_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: is the same image as train-000000-") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(study_id=donor["study_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: its study also stands in train-000000") for line in faults(folder))


def sample_json(folder: Path, split: str) -> bytes:
    return json.dumps(ShardSet.open(folder).read_meta(split, 0)).encode()
