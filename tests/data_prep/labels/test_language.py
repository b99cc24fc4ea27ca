"""Only English is read; another language leaves everything unknown."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from data_prep.labels.language import ENGLISH, OTHERS, SHARED, is_english
from data_prep.labels.rules import label_report

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))

FOREIGN = [
    "Grosser Pleuraerguss rechts. Kein Pneumothorax.",
    "Kein Erguss.",
    "Unauffälliger Thorax.",
    "Kein Nachweis eines Pneumothorax. Verschattung im rechten Unterlappen, Pneumonie.",
    "No hay derrame pleural ni neumotórax. Silueta cardíaca normal.",
    "Sin derrame pleural.",
    "Cardiomegalia. Derrame pleural izquierdo.",
    "Pas d'épanchement pleural. Pas de pneumothorax.",
    "Silhouette cardiaque normale. Absence de pneumothorax.",
    "Sem derrame pleural. Coração de tamanho normal.",
    "Non versamento pleurico. Ombra cardiaca nei limiti.",
    "Geen pneumothorax. Hart normaal.",
    "Inget pneumothorax. Hjärtat normalstort.",
    "Akciğer parankimi doğaldır. Plevral efüzyon izlenmedi.",
    "Serce niepowiekszone. Bez zmian ogniskowych.",
    "Port links. Kein Pneumothorax.",
    "Sin neumotorax, edema bilateral, hernia hilar.",
    "Atelectasia basal izq.",
    "Cardiomegalia global.",
    "Органы грудной клетки без патологии.",
    "未见明显异常",
    "لا يوجد انصباب جنبي",
]
SHORT = [
    "Normal chest.", "Normal.", "Clear.", "NAD", "No PTX.", "Cardiomegaly.", "Pneumothorax.", "Edema?", "ETT in place",
    "ET tube and NG tube in place.", "No effusion", "RUL mass", "s/p CABG, stable", "No change.", "CHF",
    "No gross effusion.", "No gross pneumothorax. Grossly stable.", "Fluid overload.", "Impella.",
    "Tracheostomy tube in standard position.", "AF. No effusion.", "Med lines in place.", "Comparison: NA. No edema.",
]  # fmt: skip


@pytest.mark.parametrize("report", FOREIGN)
def test_another_language_leaves_everything_unknown(report: str) -> None:
    assert not is_english(report)
    assert label_report(report) == {}


@pytest.mark.parametrize("report", SHORT)
def test_a_few_english_words_are_read(report: str) -> None:
    assert label_report(report) != {}


def test_what_has_no_words_is_not_english() -> None:
    assert not is_english("12/3/2020 --- 4.")
    assert not is_english("")


def test_a_word_is_listed_once() -> None:
    assert not ENGLISH & OTHERS
    assert not SHARED & OTHERS
    assert not ENGLISH & SHARED


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (set COGAZE_REAL_DATA)")
def test_every_report_of_the_indiana_collection_is_english() -> None:
    with (REAL / "iu_xray/indiana_reports.csv").open(encoding="utf-8", newline="") as file:
        texts = [f"{row['findings']} {row['impression']}" for row in csv.DictReader(file)]
    spoken = [text for text in texts if text.strip()]
    assert len(spoken) > 400
    assert [text for text in spoken if not is_english(text)] == []
