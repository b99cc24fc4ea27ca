"""data_prep.expected: the published numbers agree among themselves, and a difference shows."""

from __future__ import annotations

import json

import pytest

from cogaze.cli.data.summary import say
from data_prep import expected, mimic_cxr
from data_prep.build import build
from data_prep.expected import MIMIC_CXR, PUBLISHED, Published, compare, lines
from data_prep.records import Quarantine
from tests.data_prep.mimic_collection import Collection, labels
from tests.hand_made import picture

NUMBER = {row.name: row.number for row in MIMIC_CXR}
WHOLE = dict(NUMBER)  # what a reader counts on the real collection


def test_the_published_numbers_add_up():
    for what in ("images", "studies", "patients"):
        assert sum(NUMBER[f"{split} {what}"] for split in ("train", "validate", "test")) == NUMBER[what]
    for split in ("train", "validate", "test"):
        assert sum(NUMBER[f"{split} {view}"] for view in ("frontal", "lateral", "other")) == NUMBER[f"{split} images"]
    assert sum(number for name, number in NUMBER.items() if name.startswith("view ")) == NUMBER["images"] == 377_110
    assert len(NUMBER) == len(MIMIC_CXR)
    assert set(PUBLISHED) == {"mimic_cxr"}


def test_the_whole_collection_fits():
    about = {**WHOLE, "train frontal": 248_020 + 18_449, "test other": 54, "reports with impression": 189_000}
    for read in (WHOLE, about):
        comparison = compare("mimic_cxr", read)
        assert comparison is not None
        assert (comparison["fits"], comparison["subset"]) == (read is WHOLE, False)
    shown = [" ".join(line.split()) for line in lines(comparison)]
    assert "test other 54 about 4 +50" in shown
    assert "reports with impression 189,000 about 189,561 -561" in shown
    assert "images 377,110 377,110 +0" in shown
    wrong = [row["name"] for row in comparison["rows"] if not row["fits"]]
    assert wrong == ["train frontal"]  # one more than 5 % of the images
    assert json.loads(json.dumps(comparison)) == comparison


@pytest.mark.parametrize(
    ("name", "number"), [("view LPO", 0), ("test patients", 294), ("studies in the chexpert table", 227_826)]
)
def test_one_wrong_count_is_named(name, number):
    comparison = compare("mimic_cxr", {**WHOLE, name: number})
    assert comparison is not None
    assert not comparison["fits"]
    marked = [line for line in lines(comparison) if line.endswith("<- differs")]
    assert len(marked) == 1
    assert marked[0].split("  ")[1] == name
    assert f"{number - NUMBER[name]:+,}" in marked[0]
    assert "not as published" in list(lines(comparison))[-1]


def test_a_view_that_nobody_published_and_a_table_that_was_not_read():
    read = {**WHOLE, "view AP": 147_172, "view UPSIDE DOWN": 1}
    del read["studies in the negbio table"]
    comparison = compare("mimic_cxr", read)
    assert comparison is not None
    assert comparison["unpublished"] == {"view UPSIDE DOWN": 1}
    assert [row["name"] for row in comparison["rows"] if not row["fits"]] == ["view AP"]
    assert not [row for row in comparison["rows"] if "negbio" in row["name"]]
    alone = compare("mimic_cxr", {**WHOLE, "view UPSIDE DOWN": 1})
    assert alone is not None
    assert all(row["fits"] for row in alone["rows"])
    assert not alone["fits"]  # a view nobody published is a difference by itself
    assert [line.split()[-2:] for line in lines(alone)][-2:] == [["<-", "differs"], ["aside", "(quarantine.jsonl)"]]
    unread = compare("mimic_cxr", {name: number for name, number in WHOLE.items() if not name.startswith("reports ")})
    assert unread is not None
    assert unread["fits"]
    assert len(unread["rows"]) == len(MIMIC_CXR) - 3


def test_a_subset_raises_no_alarm():
    read = {"images": 37_711, "image files": 37_711, "view XX": 3, "train images": 37_711}
    comparison = compare("mimic_cxr", read)
    assert comparison is not None
    assert comparison["subset"]
    assert list(lines(comparison)) == ["mimic_cxr: a subset, 37,711 of the 377,110 published images (10.0%)"]
    assert [*lines(compare("mimic_cxr", {**read, "image files": 37_000}))][1:] == [
        "  711 of these images have no file: an incomplete download"
    ]


def test_a_row_that_is_missing_makes_no_subset():
    comparison = compare("mimic_cxr", {**WHOLE, "images": 377_109, "train images": 368_959, "image files": 327_110})
    assert comparison is not None
    assert not comparison["subset"]
    marked = [" ".join(line.split()) for line in lines(comparison) if line.endswith("<- differs")]
    assert marked == [
        "images 377,109 377,110 -1 <- differs",
        "image files 327,110 377,110 -50,000 <- differs",
        "train images 368,959 368,960 -1 <- differs",
    ]


def test_nothing_to_compare():
    assert compare("iu_xray", {"images": 5}) is None
    assert compare("mimic_cxr", {}) is None


def test_a_build_says_what_was_read_beside_what_was_published(tmp_path, monkeypatch, capsys):
    """With a made table of four published counts in place of those of the real collection."""
    made = (
        Published("images", 2),
        Published("studies", 2),
        Published("view PA", 1),
        Published("reports with impression", 2),
    )
    monkeypatch.setitem(expected.PUBLISHED, "mimic_cxr", made)
    collection = Collection(tmp_path / "raw")
    picture(collection.image("a"), 40, 40)
    picture(collection.image("b", view="AP", study=50000002, report=" FINDINGS: Clear.\n"), 40, 40)
    collection.chexpert += [labels(50000001), labels(50000002)]
    root = collection.write()

    def said(out: str, **options: bool) -> list[str]:
        quarantine = Quarantine()
        records = mimic_cxr.read(root, quarantine)
        manifest = build(records, tmp_path / out, quarantine=quarantine, image_size=32, **options)
        assert json.loads((tmp_path / out / "manifest.json").read_text())["read"] == dict(quarantine.noted)
        capsys.readouterr()
        say(tmp_path / out, manifest, strict=False)
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert said("one")[-7:-1] == [
        "counted in the source read published difference",
        "images 2 2 +0",
        "studies 2 2 +0",
        "view PA 1 1 +0",
        "reports with impression 1 2 -1 <- differs",
        "view AP 1 none +1 <- differs",
    ]
    assert not [line for line in said("two", phantom=True) if "published" in line]
