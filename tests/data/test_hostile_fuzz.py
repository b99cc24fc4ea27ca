"""Random damage anywhere in a shard folder: the sample as it was written, or a refusal that names the place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogaze.data.sample import SampleError, build_sample
from cogaze.data.shards import ShardError, ShardSet
from cogaze.data.text import train_tokenizer
from tests.data.damage import INDEX, MANIFEST, TAR, fitted, original, write
from tests.data.fakes import VOCABULARY, make_config


@pytest.fixture(name="original")
def _original() -> dict[str, bytes]:
    return original()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([VOCABULARY], 300)


EXAMPLES = int(os.environ.get("COGAZE_FUZZ", "200"))  # COGAZE_FUZZ=5000 tries longer
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


def replaced(data: Any, tree: Any) -> Any:
    """The JSON with one value somewhere in it replaced, removed or doubled."""
    value = json.loads(json.dumps(tree))
    at, key = value, None
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        if not keys:
            return value
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(at[key], (dict, list)) or data.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    action = data.draw(st.sampled_from(["replace", "replace", "remove", "double"]))
    if action == "replace":
        at[key] = data.draw(LEAVES)
    elif action == "remove":
        del at[key]
    elif isinstance(at, list):
        at.append(at[key])
    return value


def damaged(data: Any, found: bytes, low: int = 0, high: int | None = None) -> bytes:
    """Some bytes of found[low:high] changed, or the end missing, or something put between."""
    changed = bytearray(found)
    high = len(found) if high is None else high
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(low, high - 1))] = data.draw(st.integers(0, 255))
    how = data.draw(st.sampled_from(["", "", "cut", "insert"]))
    if how:
        at = data.draw(st.integers(low, high - 1))
        changed = changed[:at] + (data.draw(st.binary(max_size=20)) + changed[at:] if how == "insert" else b"")
    return bytes(changed)


@settings(max_examples=EXAMPLES, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_damage_is_the_sample_or_a_named_refusal(
    original: dict[str, bytes], tokenizer: Any, tmp_path: Path, data: Any
) -> None:
    files = dict(original)
    what = data.draw(st.sampled_from(["manifest", "manifest json", "index", "index json", "tar", "jpg", "json", "npz"]))
    if what == "manifest":
        files[MANIFEST] = damaged(data, files[MANIFEST])
    elif what == "manifest json":
        files[MANIFEST] = json.dumps(replaced(data, json.loads(files[MANIFEST]))).encode()
    elif what == "index":
        files[INDEX] = damaged(data, files[INDEX])
    elif what == "index json":
        files[INDEX] = json.dumps(replaced(data, json.loads(files[INDEX]))).encode()
    elif what == "tar":
        files[TAR] = damaged(data, files[TAR])
    else:
        spans = [
            span
            for sample in json.loads(files[INDEX])["samples"]
            for name, span in sample["members"].items()
            if name.endswith(what)
        ]
        offset, size = data.draw(st.sampled_from(spans))
        if what == "json" and data.draw(st.booleans()):
            meta = json.dumps(replaced(data, json.loads(files[TAR][offset : offset + size]))).encode()[:size]
            changed = meta + b" " * (size - len(meta))
        else:
            changed = damaged(data, files[TAR][offset : offset + size])[:size].ljust(size, b"\0")
        files[TAR] = files[TAR][:offset] + changed + files[TAR][offset + size :]
    if not what.startswith("manifest") and data.draw(st.booleans()):
        files = fitted(files)
    folder = write(tmp_path / "out", files)
    refused: list[tuple[str, str]] = []  # place that the message must name, message
    try:
        shards = ShardSet.open(folder)
        places = [(split, i) for split in shards.splits for i in range(shards.size(split))]
    except ShardError as error:
        refused.append((str(folder), str(error)))
        places = []
    for split, position in places:
        assert len(shards.layout(split).gaze) == shards.size(split)
        shards.label_counts(split)
        try:
            sample = shards.read(split, position)
            assert shards.read_meta(split, position) == sample.meta
        except ShardError as error:
            refused.append((f"{folder}/{split}-", str(error)))
            continue
        for epoch in (None, 1):
            try:
                build_sample(sample, position, make_config(), tokenizer, epoch)
            except SampleError as error:
                refused.append((f"{sample.shard}:{sample.index}: ", str(error)))
    for place, message in refused:
        assert message.startswith(place)
