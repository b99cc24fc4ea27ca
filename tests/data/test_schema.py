"""The shard sample: metadata, strict JSON, fixations as bytes and back."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cogaze.data.schema import FIXATION_COLUMNS, canonical_json, pack_gaze, parse_json, unpack_gaze
from cogaze.data.shards import ShardError, manifest_digest, validate_meta
from cogaze.observations import OBSERVATIONS
from data_prep import records as records_module


# ------------------------------------------------------------------------------------------------ schema
def meta() -> dict:
    return {
        "image_id": "i", "study_id": "s", "patient_id": "p", "split": "train", "view": "PA",
        "report": {"findings": "SECRET", "impression": None}, "context": {"indication": None, "history": "SECRET"},
        "labels": {"Edema": -1, "Fracture": None}, "label_source": None,
        "original": {"width": 10, "height": 12, "path": "files/i.jpg", "sha256": "a" * 64},
        "readings": [{"id": "r", "reader": "", "sentences": [{"text": "SECRET", "start": 0, "end": 1.5}]}],
        "source": "made",
    }  # fmt: skip


def test_valid_meta() -> None:
    assert validate_meta(meta()) == []
    assert validate_meta({**meta(), "labels": {}, "readings": []}) == []
    assert validate_meta({**meta(), "labels": dict.fromkeys(OBSERVATIONS, 0)}) == []


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("image_id",), " ", "image_id"),
        (("image_id",), 7, "image_id"),
        (("split",), "val", "split"),
        (("view",), "SIDEWAYS", "view"),
        (("labels", "Edema"), 2, "labels.Edema"),
        (("labels", "Edema"), True, "true or false"),
        (("labels", "Airspace Opacity"), 1, "CheXbert"),
        (("report", "findings"), "  ", "report.findings"),
        (("report", "summary"), "SECRET", "report.summary"),
        (("report",), None, "report"),
        (("original", "width"), 0, "original.width"),
        (("original", "path"), "/etc/passwd", "relative"),
        (("original", "sha256"), "abc", "original.sha256"),
        (("readings", 0, "sentences", 0, "end"), -1.0, "ends before it starts"),
        (("readings", 0, "sentences", 0, "start"), float("nan"), "start"),
        (("readings", 0, "sentences", 0, "text"), "", "text"),
        (("unheard",), 1, "unheard"),
    ],
)
def test_invalid_meta_is_named_without_its_text(where: tuple, value: object, says: str) -> None:
    broken = meta()
    inner = broken
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    faults = validate_meta(broken)
    assert len(faults) == 1
    assert says in faults[0]
    assert "SECRET" not in faults[0]


def test_missing_keys_and_wrong_kinds() -> None:
    for key in meta():
        assert [f for f in validate_meta({k: v for k, v in meta().items() if k != key}) if f.startswith(key)]
    assert validate_meta([]) != []
    assert validate_meta(None) != []


def test_json_is_strict() -> None:
    for text in ("NaN", '{"a": Infinity}', '{"a": 1,}', "[" * 100_000, b"\xff"):
        with pytest.raises(ValueError):
            parse_json(text)
    assert canonical_json({"b": 1, "a": [None, "é"]}) == '{"a":[null,"é"],"b":1}'.encode()
    manifest = {"schema_version": 1, "image_size": 64, "shards": [{"name": "train-000000", "sha256": "0"}], "build": {}}
    told = {**dict(reversed(manifest.items())), "build": {"options": {}}, "quarantined": {"x": 1}, "phantom": False}
    assert manifest_digest(manifest) == manifest_digest(told)  # the same data, of which more is told
    for name, value in (("image_size", 65), ("ids", "hashed"), ("shards", [{"name": "train-000000", "sha256": "1"}])):
        assert manifest_digest({**manifest, name: value}) != manifest_digest(manifest)


def test_columns_are_the_readers() -> None:
    assert FIXATION_COLUMNS == records_module.FIXATION_COLUMNS


# ------------------------------------------------------------------------------------------------ gaze.npz
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(6)), elements=st.floats(-2, 2, width=32)),
        min_size=1,
        max_size=5,
    )
)
def test_gaze_round_trip(readings: list[np.ndarray]) -> None:
    data = pack_gaze(readings)
    assert data == pack_gaze([rows.astype(np.float64) for rows in readings])  # same numbers, same bytes
    loaded = unpack_gaze(data)
    assert list(loaded) == list(range(len(readings)))
    for number, rows in enumerate(readings):
        np.testing.assert_array_equal(loaded[number], rows)
    archive = np.load(io.BytesIO(data), allow_pickle=False)
    np.testing.assert_array_equal(archive["0"], readings[0])


def _npz(name: str = "0.npy", data: bytes = b"", compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_gaze_that_is_refused() -> None:
    good = _npy(np.zeros((2, 6), np.float32))
    assert unpack_gaze(_npz(data=good))[0].shape == (2, 6)
    huge = good.replace(b"(2, 6)", b"(10000000000, 6)".ljust(6))
    for data, says in (
        (b"PK nonsense", "not a readable npz"),
        (_npz(data=good)[:-30], "not a readable npz"),
        (_npz("a.npy", good), "not a readable npz"),
        (_npz(data=_npy(np.array([{"code": "runs"}], object))), "not float32"),
        (_npz(data=_npy(np.zeros((2, 6)))), "not float32"),
        (_npz(data=_npy(np.zeros((2, 5), np.float32))), "not float32"),
        (_npz(data=good[:-4]), "does not fit its header"),
        (_npz(data=huge), "npz"),
        (_npz(data=bytes(65 << 20), compression=zipfile.ZIP_DEFLATED), "unpacks to more"),
    ):
        with pytest.raises(ShardError, match=says):
            unpack_gaze(data)
