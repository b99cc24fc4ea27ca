"""What can be embedded: tables of every kind, shards, odd file names; and what is said of what cannot."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cogaze.config import Config
from cogaze.data.shards import ShardSet
from cogaze.embed import Settings, SourceError, open_source
from cogaze.embed import chunk as chunk_module
from cogaze.evaluate.encode import encode_split
from cogaze.model import CoGazeModel
from data_prep.build import build
from tests.hand_made import IMAGE_SIZE, records
from tests.model.exported import TEXTS, film
from tests.model.tiny import tiny_settings

from .helpers import arrays, run

# ------------------------------------------------------------------------------------------------ tables
ROWS: list[dict[str, Any]] = [
    {"path": "01.png", "id": "0007", "ViewPosition": "PA", "indication": "cough", "history": None, "text": TEXTS[0]},
    {"path": "02.png", "id": "8", "ViewPosition": "lateral", "indication": None, "history": None, "text": None},
    {"path": "gone.png", "id": "9", "ViewPosition": "PA", "indication": "x", "history": "y", "text": "z"},
    {"path": None, "id": "10", "ViewPosition": None, "indication": None, "history": None, "text": TEXTS[1]},
    {"path": "p10/s50/00.png", "id": None, "ViewPosition": "odd", "indication": " ", "history": "fever",
     "text": TEXTS[2]},
]  # fmt: skip
NAMES = {"image": "path", "view": "ViewPosition"}


def write_table(path: Path) -> Path:
    frame = pd.DataFrame(ROWS)
    frame["unused"] = [[1.0]] * len(ROWS)
    name = path.name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif ".jsonl" in name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=True, sep="\t" if ".tsv" in name else ",")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_tables(model: CoGazeModel, films: Path, tmp_path: Path, name: str) -> None:
    table = write_table(tmp_path / name)
    source = open_source(table, root=films, columns=NAMES)
    summary = run(model, source, tmp_path / "out.npz")
    assert summary["set_aside"] == {"image file missing": 1, "no image path": 1}
    assert (summary["rows"], summary["with_context"], summary["with_text"]) == (3, 2, 2)
    assert summary["views"] == {"LATERAL": 1, "PA": 1, "UNKNOWN": 1}
    got = arrays(tmp_path / "out.npz")
    assert got["id"].tolist() == ["0007", "8", "p10/s50/00.png"]
    assert got["view"].tolist() == ["PA", "LATERAL", "UNKNOWN"]
    assert got["has_context"].tolist() == [True, False, True]
    assert got["has_text"].tolist() == [True, False, True]
    contexts = [("cough", None), None, (None, "fever")]
    for row, (image, context, text) in enumerate(
        zip(("01.png", "02.png", "p10/s50/00.png"), contexts, (TEXTS[0], None, TEXTS[2]), strict=True)
    ):
        with torch.no_grad():
            out = model(**model.processor(films / image, [got["view"][row]], [context], [text]))
        np.testing.assert_allclose(got["image_features"][row], out.image_features[0], atol=2e-6)
        np.testing.assert_allclose(got["text_features"][row], out.text_features[0], atol=2e-6)  # zero without a text
    aside = [json.loads(line) for line in (tmp_path / "out.npz.quarantine.jsonl").read_text().splitlines()]
    assert [(row["row"], row["id"]) for row in aside] == [(2, "9"), (3, "10")]


def test_a_text_that_is_absent_is_null_in_parquet_and_contexts_can_be_hidden(
    model: CoGazeModel, films: Path, tmp_path: Path
) -> None:
    source = open_source(write_table(tmp_path / "t.csv"), root=films, columns=NAMES)
    assert run(model, source, tmp_path / "a.parquet", Settings(contexts=False))["with_context"] == 0
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["text_features"].isna().tolist() == [False, True, False]
    torch.testing.assert_close(
        torch.tensor(np.stack(table["image_features"])),
        model.encode_image([films / "01.png", films / "02.png", films / "p10/s50/00.png"], ["PA", "LATERAL", None]),
    )


def test_bad_rows_of_tables_are_set_aside_with_their_place(model: CoGazeModel, films: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'image,text\n01.png,a b\n02.png\n\n03x.png,"c\nd",e\n04.png,f,\n', encoding="utf-8-sig"
    )
    (tmp_path / "t.jsonl").write_text('{"image": "01.png"}\n{"image": \n[1]\n\n{"image": 3, "more": {}}\n')
    for name, reasons, details in (
        ("t.csv", ["malformed row"] * 2, ["line 3: 1 fields", "line 5: 3 fields"]),
        (
            "t.jsonl",
            ["malformed row"] * 2 + ["image file missing"],
            ["line 2: no JSON", "line 3: no JSON", "[Errno 2]"],
        ),
    ):
        run(model, open_source(tmp_path / name, root=films), tmp_path / f"{name}.npz")
        lines = (tmp_path / f"{name}.npz.quarantine.jsonl").read_text().splitlines()
        aside = [json.loads(line) for line in lines]
        assert [row["reason"] for row in aside] == reasons
        assert all(row["detail"].startswith(detail) for row, detail in zip(aside, details, strict=True))


def test_sources_that_cannot_be_used_say_why(films: Path, tmp_path: Path) -> None:
    def refuse(words: str, path: Path, **options: Any) -> None:
        with pytest.raises(SourceError, match=words):
            open_source(path, **options)

    csv = write_table(tmp_path / "t.csv")
    refuse("no such file", tmp_path / "gone.csv")
    refuse(r"no column 'image' for the image \(--columns image=NAME\); columns: , path, id", csv)
    refuse("no column 'View' for the view", csv, columns={"image": "path", "view": "View"})
    refuse("--columns: images is none of image, id", csv, columns={"images": "path"})
    refuse("--split belongs to a shard folder", csv, split="test")
    refuse("--root .*: no such folder", csv, root=tmp_path / "gone", columns=NAMES)
    refuse("--root and --columns belong to a table", films, root=tmp_path)
    refuse("so it is no shard folder", films, split="test")
    refuse("holds no image file", tmp_path)
    (tmp_path / "t.xlsx").touch()
    refuse("neither a folder nor a table; tables are .csv", tmp_path / "t.xlsx")
    (tmp_path / "empty.csv").touch()
    refuse("columns: none", tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("image\n")
    refuse("the table has no row", tmp_path / "header.csv")
    (tmp_path / "twice.csv").write_text("image,image\na,b\n")
    refuse("'image' stands in the header twice", tmp_path / "twice.csv")
    for name, data in {"a.parquet": b"PAR1", "a.csv.gz": gzip.compress(b"image\na")[:-9], "b.csv.gz": b"image"}.items():
        (tmp_path / name).write_bytes(data)
        refuse("cannot be read", tmp_path / name)


# ------------------------------------------------------------------------------------------------ shards
def test_shards_as_evaluation_sees_them(model: CoGazeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the evaluation's own pass over the split, another way to the same numbers."""
    build(records(tmp_path / "raw"), tmp_path / "shards", image_size=IMAGE_SIZE, images_per_shard=4)
    shards = ShardSet.open(tmp_path / "shards")
    config: Config = tiny_settings()
    config.data.workers = 0
    want = encode_split(model, config, shards, model.processor.tokenizer, "train", "cpu", variants=("context",))
    with pytest.raises(SourceError, match="give --split, one of train, validate, test"):
        open_source(tmp_path / "shards")
    summary = run(model, open_source(tmp_path / "shards", split="train"), tmp_path / "out.npz")
    assert (summary["rows"], summary["with_context"], summary["with_text"]) == (9, 9, 9)
    got = arrays(tmp_path / "out.npz")
    raw = [shards.read("train", i) for i in range(9)]
    assert got["id"].tolist() == [one.meta["image_id"] for one in raw]
    assert got["key"].tolist() == [one.key for one in raw]
    np.testing.assert_allclose(got["image_features"], want.image_features["context"], atol=2e-6)
    np.testing.assert_allclose(got["text_features"], want.text_features, atol=2e-6)
    np.testing.assert_allclose(got["probabilities"], 1 / (1 + np.exp(-want.image_logits["context"])), atol=1e-4)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(model, open_source(Path(f"file://{tmp_path}/shards"), split="train"), tmp_path / "url.npz")
    np.testing.assert_array_equal(arrays(tmp_path / "url.npz")["image_features"], got["image_features"])
    with pytest.raises(SourceError, match=r"file:///.*/shards is a folder; --root and --columns belong to a table"):
        open_source(Path(f"file://{tmp_path}/shards"), root=tmp_path)

    impressions = open_source(tmp_path / "shards", split="test", sections=("impression",))
    run(model, impressions, tmp_path / "two.parquet")
    texts = np.stack(pd.read_parquet(tmp_path / "two.parquet")["text_features"])
    np.testing.assert_allclose(texts, np.stack([model.encode_text("Normal.")] * 2), atol=2e-6)


# ------------------------------------------------------------------------------------------------ files
def test_ids_that_utf8_does_not_have(model: CoGazeModel, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    film(tmp_path / "films" / "plain.png", 0).rename(tmp_path / "films" / name)
    film(tmp_path / "films" / "ü.png", 1)
    run(model, tmp_path / "films", tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet")["id"].tolist()[1] == "ü.png"


def test_threads_decode_one_chunk_ahead_in_order(model: CoGazeModel, films: Path) -> None:
    source = open_source(films)
    loading = chunk_module.decoded(source, model.processor, [range(4), range(4, 8), range(8, 9)], workers=3)
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [8]):
        loaded = next(loading)
        assert len(loaded) == len(rows)
        for row, one in zip(rows, loaded, strict=True):
            if isinstance(one, tuple):
                assert one[0] == source.read(row)
                assert np.array_equal(one[1], model.processor.pixels(source.read(row).image)[0])  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        next(loading)
