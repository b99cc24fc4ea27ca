"""Counts against hand-counted records."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from cogaze.data.shards import ShardSet
from cogaze.observations import OBSERVATIONS
from data_prep.build import build
from data_prep.records import Quarantine, Reading, Sentence
from data_prep.stats import Totals, gather, stats, tables
from data_prep.stats.charts import histogram
from data_prep.stats.page import StatsError, percent, write_page
from data_prep.stats.spread import Spread, binned, common_edges
from tests.hand_made import IMAGE_SIZE, picture, reading, record, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stats")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


def test_hand_counted(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = stats(ShardSet.open(folder), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (14, 14)
    assert json.loads(json.dumps(report)) == report
    assert {key: report[key] for key in ("images", "studies", "patients", "gaze_images", "readings", "phantom")} == {
        "images": 14, "studies": 8, "patients": 8, "gaze_images": 4, "readings": 5, "phantom": False
    }  # fmt: skip
    train = report["splits"]["train"]
    assert train["study_sizes"] == {"1": 2, "2": 2, "3": 1}
    assert train["views"] == {"AP": 1, "LATERAL": 3, "PA": 5}
    # Three readings of three one-second fixations; "heart is large N." and "<b>no effusion</b>.": 4 and 2 words.
    assert (train["fixations"], train["fixation_seconds"]) == (9, 9.0)
    assert train["words"]["spoken sentence"] == {"n": 6, "mean": 3.0, "median": 3.0, "p95": 4.0, "max": 4}
    # "Findings of study-N: lungs are clear." once a study.
    assert train["words"]["findings"] == {"n": 5, "mean": 6.0, "median": 6.0, "p95": 6.0, "max": 6}
    assert train["words"]["history"] == {"n": 0, "mean": 0.0, "median": 0.0, "p95": 0.0, "max": 0.0}
    assert report["splits"]["test"]["study_sizes"] == {"2": 1}
    manifest = ShardSet.open(folder).manifests[0]
    for split, row in manifest["totals"]["by_split"].items():
        assert {key: report["splits"][split][key] for key in row} == row


def test_percentiles_and_label_kinds(tmp_path: Path) -> None:
    made = [
        record(tmp_path, f"i{n}", f"s{n}", f"p{n}", findings=" ".join(["word"] * n), impression=None,
               labels={"Edema": label} if label != "absent" else {})
        for n, label in zip(range(1, 6), (1, 0, -1, None, "absent"), strict=True)
    ]  # fmt: skip
    build(made, tmp_path / "out", image_size=IMAGE_SIZE)
    train = stats(ShardSet.open(tmp_path / "out"))["splits"]["train"]
    assert train["labels"]["Edema"] == {"positive": 1, "negative": 1, "uncertain": 1, "blank": 1, "unknown": 1}
    assert train["words"]["findings"] == {"n": 5, "mean": 3.0, "median": 3.0, "p95": 4.8, "max": 5}  # of 1..5, linear
    assert train["words"]["impression"]["n"] == 0


def test_parts_add_up(folder: Path) -> None:
    """Totals of halves merged are the totals of the whole: as the checker counts, shard by shard."""
    shards = ShardSet.open(folder)
    metas = [shards.read_meta(split, i) for split in shards.splits for i in range(shards.size(split))]
    whole, left, right = Totals(), Totals(), Totals()
    for i, meta in enumerate(metas):
        whole.add(meta)
        (left if i % 2 else right).add(meta)
    left.merge(right)
    assert left.as_dict() == whole.as_dict() == shards.manifests[0]["totals"]


def test_tables_show_the_numbers(folder: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in tables(stats(ShardSet.open(folder))):
        console.print(table)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    for line in ("images 9 3 2 14", "LATERAL 3 1 1", "Fracture · · 9 · ·", "3 1 · ·", "findings train 5 6 6 6",
                 "spoken sentence train 6 3 4 4"):  # fmt: skip
        assert line in lines, line


# ------------------------------------------------------------------------------------------------ more counts
@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images whose every count is easily said."""
    root = tmp_path_factory.mktemp("varied")
    one = reading()
    fixations = np.array([[0.5, 0.5, 1, 3, 0.1, 0.1], [1.2, 0.5, 3, 3.25, 0.1, 0.1]], np.float32)
    made = [
        record(root, "a", "s1", "p1", labels={"Edema": 1, "Fracture": 1}, readings=(
            replace(one, reader="Dr. Miller", fixations=fixations), replace(one, reader="reflacx"))),
        record(root, "b", "s1", "p1", labels={"Edema": 1, "Fracture": 0}, label_source="rules",
               readings=(replace(one, reader="reflacx"),)),
        record(root, "c", "s2", "p2", findings=None, indication=None, labels={}, label_source=None),
        record(root, "d", "s3", "p3", impression=None, history="old", labels={"Fracture": -1}),
    ]  # fmt: skip
    quarantine = Quarantine()
    quarantine.add("made", "image truncated", id="e")
    quarantine.add("made", "image truncated", id="f")
    quarantine.add("made", "<b>odd</b>", id="g")
    quarantine.add("made", "fixations dropped: <i>off</i> the image", count=67, kept=True)
    build(made, root / "out", image_size=IMAGE_SIZE, quarantine=quarantine)
    return root / "out"


def test_what_is_there_and_together(varied: Path) -> None:
    report = stats(ShardSet.open(varied))
    train = report["splits"]["train"]
    assert train["images_with"] == {
        "findings": 3, "impression": 3, "report": 4, "indication": 3, "history": 1, "context": 3, "labels": 3, "gaze": 2
    }  # fmt: skip
    assert train["label_sources"] == {"hand": 2, "none": 1, "rules": 1}
    edema, fracture = OBSERVATIONS.index("Edema"), OBSERVATIONS.index("Fracture")
    together = np.array(train["positive_together"])
    assert (together[edema, edema], together[fracture, fracture], together[edema, fracture]) == (2, 1, 1)
    assert together.sum() == 2 + 1 + 1 + 1
    assert report["quarantined"] == {"<b>odd</b>": 1, "image truncated": 2}
    assert report["noted"] == {"fixations dropped: <i>off</i> the image": 67}
    assert report["manifest_labels"]["train"]["Fracture"] == train["labels"]["Fracture"]


def test_gaze_by_reader(varied: Path) -> None:
    """A reader's name is replaced by a number unless it stands for a data set."""
    report = stats(ShardSet.open(varied))
    train = report["splits"]["train"]
    assert report["readers"] == {
        "reflacx": {"readings": 2, "fixations": 6, "drawn": 0, "seconds": 6.0},
        "reader 2": {"readings": 1, "fixations": 2, "drawn": 0, "seconds": 2.25},
    }
    assert (train["fixations"], train["fixations_outside"], train["fixation_seconds"]) == (8, 1, 8.25)
    assert train["reading_seconds"] == {"n": 3, "mean": 2.6667, "median": 3.0, "p95": 3.0, "max": 3.0}  # 2, 3 and 3 s
    assert train["reading_fixations"]["median"] == 3.0
    assert train["fixation_ms"]["max"] == 2000.0
    # Sentences at 0 to 1.5 and 1.5 to 3 s: those of "Dr. Miller", who looks from 1 s on, are both seen too.
    assert (train["sentences_timed"], train["sentences_seen"]) == (6, 6)


def test_readings_of_heat_maps_are_counted_too(tmp_path: Path) -> None:
    """In the manifest and in the words, but not among the sentences that a fixation could have been seen in."""
    drawn = picture(tmp_path / "map.png", 40, 40)
    none = np.zeros((0, 6), np.float32)
    heard = tuple(Sentence(text, 0, 0) for text in ("heart is large.", "no effusion.", "no effusion at all."))
    as_maps = Reading("m", "reflacx", heard, none, (drawn, drawn, None, drawn))
    dark = Reading("d", "reflacx", heard[:1], none, (None, tmp_path / "missing.png"))
    made = [
        record(tmp_path, "a", "s1", "p1", readings=(as_maps,)),
        record(tmp_path, "b", "s2", "p2", readings=(reading(), replace(as_maps, id="n"))),
        record(tmp_path, "c", "s3", "p3", readings=(dark,)),  # nothing of it can be used
    ]
    made = [replace(row, path=picture(tmp_path / f"{row.image_id}.png", 40, 40)) for row in made]
    manifest = build(made, tmp_path / "out", image_size=IMAGE_SIZE)
    assert (manifest["totals"]["readings"], manifest["totals"]["gaze_images"]) == (3, 2)
    assert [len(shard["gaze"]) for shard in manifest["shards"]] == [2]
    found = gather(ShardSet.open(tmp_path / "out"))
    report = found.as_report()
    assert report["readers"] == {
        "reader 2": {"readings": 1, "fixations": 3, "drawn": 0, "seconds": 3.0},
        "reflacx": {"readings": 2, "fixations": 0, "drawn": 2, "seconds": 0.0},
    }
    train = report["splits"]["train"]
    assert train["words"]["spoken sentence"]["n"] == 2 + 3 + 3
    assert train["reading_sentences"] == {"n": 3, "mean": 2.6667, "median": 3.0, "p95": 3.0, "max": 3.0}
    assert (train["sentences_timed"], train["sentences_seen"]) == (2, 2)
    write_page(found, tmp_path / "stats.html", None)
    page = " ".join((tmp_path / "stats.html").read_text().split())
    assert "100 % of 2 spoken sentences have a fixation" in page
    assert "2 readings as heat maps" in page


def test_images_and_grey_levels(varied: Path) -> None:
    shards = ShardSet.open(varied)
    train = stats(shards)["splits"]["train"]
    raws = [shards.read("train", i) for i in range(4)]
    pixels = np.concatenate([np.asarray(Image.open(io.BytesIO(raw.image))).ravel() for raw in raws]) / 255
    assert train["grey"] == {
        "images": 4, "mean": pytest.approx(pixels.mean(), abs=1e-4), "std": pytest.approx(pixels.std(), abs=1e-4)
    }  # fmt: skip
    shapes = [raw.meta["original"]["width"] / raw.meta["original"]["height"] for raw in raws]
    assert train["original_shape"]["mean"] == pytest.approx(np.mean(np.round(shapes, 2)), abs=1e-4)
    assert train["stored_kb"]["max"] == round(max(len(raw.image) for raw in raws) / 1000)
    assert gather(shards, pixel_samples=0).splits["train"].grey_images == 0
    assert gather(shards, pixel_samples=2).splits["train"].grey_images == 2


# ------------------------------------------------------------------------------------------------ spreads
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[int], share: float) -> None:
    spread = Spread()
    spread.add(values[: len(values) // 2])
    spread.add(values[len(values) // 2 :])
    assert spread.n == len(values)
    assert spread.quantile(share) == pytest.approx(np.quantile(values, share), abs=1e-3)
    assert spread.summary()["mean"] == pytest.approx(np.mean(values), abs=1e-4)


@given(
    st.lists(st.lists(st.floats(0, 5000), min_size=1, max_size=40), min_size=1, max_size=3),
    st.sampled_from([0.01, 1.0, 10.0]),
)
def test_every_value_falls_into_one_bin(groups: list[list[float]], step: float) -> None:
    spreads = []
    for values in groups:
        spreads.append(Spread(step=step))
        spreads[-1].add(values)
    edges = common_edges(spreads, whole=step == 1)
    assert 1 <= len(edges) - 1 <= 34
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= min(min(s.counts) for s in spreads) + 1e-6
    for spread in spreads:
        counts = binned(spread, edges)
        assert counts.sum() == spread.n
        inner = [v for v in spread.counts.elements() if v < edges[-1] - 1e-6]
        expected = [sum(low - 1e-6 <= v < high - 1e-6 for v in inner) for low, high in itertools.pairwise(edges)]
        assert counts[:-1].tolist() == expected[:-1]
    if step == 1:
        assert all(float(edge).is_integer() for edge in edges)


def test_far_values_are_capped() -> None:
    spread = Spread(step=10, most=5000)
    spread.add([14, 16, 1e9])
    assert spread.counts == Counter({10.0: 1, 20.0: 1, 5000.0: 1})
    assert Spread().summary() == {"n": 0, "mean": 0.0, "median": 0.0, "p95": 0.0, "max": 0.0}


# ------------------------------------------------------------------------------------------------ page
def test_page_is_one_file_with_the_numbers(varied: Path, tmp_path: Path) -> None:
    write_page(gather(ShardSet.open(varied)), tmp_path / "new" / "stats.html", None)
    page = (tmp_path / "new" / "stats.html").read_text()
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "stats.html"]
    assert not re.findall(r'(?:src|href)="(?![#])|url\(|@import|<script', page)  # nothing is fetched, nothing runs
    assert "default-src 'none'" in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert "<b>odd</b>" not in page
    assert "fixations dropped: &lt;i&gt;off&lt;/i&gt; the image" in page
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    for words in ("images 4 4", "studies 3 3", "Edema 2 50 %", "image truncated 2", "reflacx 2 6", "reader 2 1 2",
                  "The samples have as many.", "findings or impression 100 % 4", "history 25 % 1",
                  "Grey levels of 4 stored images", "8 fixations, 12 % of them"):  # fmt: skip
        assert words in text, words
    assert 'title="Edema and Fracture: 1 images">50<' in page  # of two with edema one is fractured
    assert 'title="Fracture and Edema: 1 images">100<' in page
    for secret in ("Miller", "s1", "p1", "lungs are clear", "heart is large", "cough", "effusion."):
        assert secret not in text


def test_page_says_when_the_manifest_is_wrong(varied: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(varied)
    shards.manifests[0]["totals"]["by_split"]["train"]["labels"]["Edema"]["positive"] = 3
    write_page(gather(shards), tmp_path / "stats.html", None)
    assert "The samples have other numbers: run" in (tmp_path / "stats.html").read_text()


def test_page_against_a_token_limit(varied: Path, tmp_path: Path) -> None:
    """Tokens counted as words here: findings of 6 words exceed a limit of 5, the impression that stands alone does
    not."""

    def count(role: str, meta: dict) -> int:
        if role == "transcript":
            return len(meta["text"].split())
        sections = meta["report"] if role == "report" else meta["context"]
        return len((next((text for text in sections.values() if text), "")).split())

    found = gather(ShardSet.open(varied), count_tokens=count)
    assert found.splits["train"].tokens["report"].counts == Counter({6: 2, 1: 1})  # one a study
    assert found.splits["train"].tokens["transcript"].counts == Counter({4: 3, 2: 3})
    write_page(found, tmp_path / "stats.html", 5)
    page = (tmp_path / "stats.html").read_text()
    assert "limit 5" in page
    assert "2 above the limit (66.7 %)" in page
    assert "none above the limit" in page


def test_page_where_nothing_can_be_written(varied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StatsError, match=r"File exists|Not a directory"):
        write_page(gather(ShardSet.open(varied)), tmp_path / "file" / "stats.html")


def test_histogram_bars_say_their_numbers() -> None:
    spread = Spread()
    spread.add([1] * 3 + [2])
    chart = histogram("Images <of> a study", {"train": spread, "none": Spread()}, "images", whole=True)
    assert "1 images: train 75.0 %" in chart
    assert "2 images: train 25.0 %" in chart
    assert "&lt;of&gt;" in chart
    spread.add([1] * 997 + [2] * 9 + [90])
    assert "2 and more images: train 1.1 %" in histogram("", {"train": spread}, "images", whole=True)
    assert "none" not in chart
    assert histogram("Nothing", {"train": Spread()}, "images") == ""


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1e-6, "< 0.1 %"), (0.046, "4.6 %"), (0.5, "50 %"), (0.9999, "99.9 %"), (1.0, "100 %")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text
