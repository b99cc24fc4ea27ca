"""The heat maps of the authors' annotation files: from lookup tables and pictures to shards."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogaze.data.gaze import Crop
from cogaze.data.heatmaps import stored_maps
from cogaze.data.shards import ShardSet
from data_prep import annotations as annotations_module
from data_prep.build import BuildError, build
from data_prep.heatmap_files import content_digest
from data_prep.records import Quarantine
from data_prep.sources import SOURCES
from tests.data_prep.annotation_files import GAZE, Files, annotation, heatmap, reasons, records


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "raw")


def test_a_lookup_table_with_a_mark_of_byte_order_and_one_beyond_all_bounds(files, monkeypatch):
    for name in ("P300R000001", "Phantom", "large"):
        files.reading(name)
    lookup = files.gaze / "P300R000001" / "sentence-heatmap-lookup.json"
    lookup.write_bytes(b"\xef\xbb\xbf" + lookup.read_bytes())
    large = files.gaze / "large" / "sentence-heatmap-lookup.json"
    large.write_text(large.read_text() + " " * 1000)
    monkeypatch.setattr(annotations_module, "MAX_LOOKUP_BYTES", 1000)
    items = [
        annotation(f"i{n}", study=f"5000000{n}", sentence_gaze_heatmap={"image_dir": name})
        for n, name in enumerate(("P300R000001", "Phantom", "large"))
    ]
    found, quarantine = records(files.write(*items))
    assert [[(reading.id, reading.reader) for reading in r.readings] for r in found] == [
        [("P300R000001", "reflacx")], [("Phantom", "unknown")], [],
    ]  # fmt: skip
    assert reasons(quarantine) == [("large", "reading without a usable lookup table")]


def test_several_records_of_an_image_are_several_readings(files):
    files.reading()
    files.reading("dicom-of-egd", {"k": "big heart", "empty": " . ", "full_text": "x"}, ("report", "k"))
    first = annotation(sentence_gaze_heatmap=GAZE)
    second = annotation(sentence_gaze_heatmap={"image_dir": "dicom-of-egd"})
    found, quarantine = records(files.write(first, second, first))  # the third is the first again: counted, no loss
    assert quarantine.rows == [
        {"source": "cogaze_annotations", "reason": "duplicate record", "id": found[0].image_id, "kept": True}
    ]
    (record,) = found
    assert [(r.id, r.reader, len(r.sentences), r.fixations.shape) for r in record.readings] == [
        ("P300R000001", "reflacx", 2, (0, 6)), ("dicom-of-egd", "unknown", 1, (0, 6)),
    ]  # fmt: skip
    reading = record.readings[0]
    assert [(s.text, s.start, s.end) for s in reading.sentences] == [
        ("mild cardiomegaly.", 0, 0), ("lungs are clear.", 0, 0),
    ]  # fmt: skip
    assert [path.name for path in reading.heatmaps if path] == [
        "report_heatmap.jpg", "0_heatmap.jpg", "1_heatmap.jpg",
    ]  # fmt: skip


def test_from_the_json_to_shards_and_patches(files, tmp_path):
    """The maps arrive over the stored image, each in the row of its sentence."""
    files.reading()
    (files.gaze / "P300R000001" / "1_heatmap.jpg").write_bytes(b"<html>")
    other = annotation("plain", study="59999902")
    black = annotation("black", study="59999903", sentence_gaze_heatmap={"image_dir": "dark"})
    files.reading("dark", maps=())
    for key in ("report", "0"):
        Image.new("L", (100, 100)).save(files.gaze / "dark" / f"{key}_heatmap.jpg")
    quarantine = Quarantine()
    source = SOURCES["cogaze-annotations"]
    root = files.write(annotation(sentence_gaze_heatmap=GAZE), other, black)
    manifest = build(source(root, quarantine), tmp_path / "out", quarantine=quarantine, image_size=50)
    assert (manifest["totals"]["images"], sum(len(s["gaze"]) for s in manifest["shards"])) == (3, 1)
    assert manifest["read"] == {"train images": 3, "train readings": 2}
    assert manifest["quarantined"] == {
        "heat map constant": 2, "heat map missing": 1, "heat map unreadable": 1, "reading without a usable heat map": 1,
    }  # fmt: skip
    shards = ShardSet.open([tmp_path / "out"])
    samples = {raw.meta["image_id"]: raw for raw in (shards.read("train", i) for i in range(3))}
    assert samples["plain"].maps == samples["black"].maps == samples["black"].gaze == {}
    raw = samples["a1b2-c3"]
    assert raw.gaze[0].shape == (0, 6)
    maps = raw.maps[0]
    assert (maps.shape, maps.dtype) == ((3, 50, 50), np.uint8)
    # squares of 10 px around (20, 40) and (50, 40) of 100: of 5 px around (10, 20) and (25, 20) of 50; patches of 10 px
    rows = stored_maps(maps, Crop(), 50, 10).reshape(3, 5, 5)
    np.testing.assert_allclose(rows[0][1:3, :2], 255 / 16, rtol=0.15)  # a corner of four patches
    np.testing.assert_allclose(rows[1][1:3, 2], 255 / 8, rtol=0.15)
    assert not maps[2].any()


def test_unusable_readings_leave_the_image(files):
    for name, table in {
        "no-table": None,
        "cut-table": '{"0": "lungs',
        "list-table": "[]",
        "no-sentence": {"full_text": "x", "0": " "},
        "odd-key": {"../../secret": "lungs clear"},
        "deep": '{"0":' + "[" * 100_000,
    }.items():
        files.reading(name, table)
    (files.gaze / "no-table" / "sentence-heatmap-lookup.json").unlink()
    files.reading("no-maps", maps=())
    files.reading("some-maps", maps=("report",))
    entries = [*(path.name for path in sorted(files.gaze.iterdir())), "gone", "../gaze/P", "/etc", 7, None]
    items = [
        annotation(f"i{n}", study=f"5000000{n:02}", sentence_gaze_heatmap={"image_dir": name})
        for n, name in enumerate(entries)
    ]
    items.append(annotation("text", study="50000099", sentence_gaze_heatmap="P300R000001"))
    found, quarantine = records(files.write(*items))
    assert len(found) == len(items)
    assert [r.image_id for r in found if r.readings] == [f"i{entries.index('some-maps')}"]
    assert [bool(path) for path in next(r for r in found if r.readings).readings[0].heatmaps] == [True, False, False]
    counts = quarantine.counts()
    assert counts == {
        "reading without a usable lookup table": 7,
        "reading without a folder name": 5,
        "heat map missing": 5,
        "reading without a usable heat map": 1,
    }
    assert not any("lungs" in row.get("detail", "") for row in quarantine.rows)
    files.gaze.rename(files.root / "elsewhere")
    assert records(files.root)[1].counts()["reading without the folder of heat maps"] == len(items) - 5
    assert len([r for r in records(files.root, gaze=files.root / "elsewhere")[0] if r.readings]) == 1


def test_another_picture_under_the_same_name_is_noticed(files, tmp_path):
    """A finished build refuses it, as any other gaze; an unfinished one makes again the shard that it concerns."""
    files.reading()
    root = files.write(annotation(sentence_gaze_heatmap=GAZE), annotation("plain", study="59999902"))

    def make(out: Path, **more: Any) -> dict[str, bytes]:
        build(records(root)[0], out, image_size=50, images_per_shard=1, **more)
        return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}

    picture = files.gaze / "P300R000001" / "0_heatmap.jpg"
    picture.write_bytes(picture.read_bytes().ljust(9000, b"\0"))
    whole = make(tmp_path / "finished")
    for number in (1, 2):
        make(tmp_path / "unfinished", part=(number, 2))
    before = picture.stat()
    heatmap(picture, 80, 80)
    picture.write_bytes(picture.read_bytes().ljust(9000, b"\0"))  # of the same size and time: the content alone tells
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert picture.stat().st_size == before.st_size

    with pytest.raises(BuildError, match=r"1 images of the finished build are described otherwise .* --overwrite"):
        make(tmp_path / "finished")
    assert {path.name: path.read_bytes() for path in (tmp_path / "finished").iterdir()} == whole
    changed = make(tmp_path / "finished", overwrite=True)
    (shard,) = {name for name in whole if name.endswith(".tar") and whole[name] != changed[name]}
    (kept,) = {name for name in whole if name.endswith(".tar")} - {shard}
    written = {name: (tmp_path / "unfinished" / name).stat().st_mtime_ns for name in (shard, kept)}
    assert make(tmp_path / "unfinished") == changed
    again = {name for name, time in written.items() if (tmp_path / "unfinished" / name).stat().st_mtime_ns != time}
    assert again == {shard}
    assert make(tmp_path / "unfinished") == changed  # nothing new


def test_a_digest_is_that_of_the_content(tmp_path):
    path = tmp_path / "map.jpg"
    assert content_digest(path) is None
    assert content_digest(tmp_path) is None
    path.write_bytes(b"x" * (3 << 20))  # several blocks
    assert content_digest(path) == hashlib.sha256(b"x" * (3 << 20)).hexdigest()


def test_names_too_long_for_a_file_are_names_of_none(files):
    long = annotation("long", study="59999902")
    long["anchor_scan"]["image_path"] = [f"p19/{'x' * 300}.jpg"]
    files.reading("long-key", {"k" * 300: "lungs are clear .", "0": "mild cardiomegaly ."}, maps=("report", "0"))
    item = annotation(sentence_gaze_heatmap={"image_dir": "long-key"})
    files.image(item)
    root = files.write()
    (root / "cogaze_mimic_cxr_annotation_v0.json").write_text(json.dumps({"train": [item, long]}))
    (record,), quarantine = records(root)
    assert [path is not None for path in record.readings[0].heatmaps] == [True, False, True]
    assert reasons(quarantine) == [("long-key", "heat map missing"), ("long", "image file missing")]
