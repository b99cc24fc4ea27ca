"""One pass over a split: every image exactly once, every variant as worked out alone, the same on two ranks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as td

from cogaze.data.sample import build_sample
from cogaze.evaluate import EvaluationError
from cogaze.evaluate.encode import Encoded, encode_split
from cogaze.evaluate.gaze import donors, dwell_map
from tests.evaluate.fakes import GRID, FakeModel, Splits, settings, tokenizer_of


@pytest.fixture(scope="module")
def shards() -> Splits:
    return Splits()


@pytest.fixture(scope="module")
def encoded(shards: Splits) -> Encoded:
    model = FakeModel().train()
    result = encode_split(model, settings(), shards, tokenizer_of(shards), "test", "cpu")  # type: ignore[arg-type]
    assert model.training  # restored
    return result


def test_every_image_once_in_order(shards: Splits, encoded: Encoded) -> None:
    n = shards.size("test")
    assert n % 6  # the last batch has padding rows
    assert encoded.sample_id.tolist() == list(range(n))
    assert encoded.counts() == {
        "split": "test",
        "images": n,
        "studies": 12,
        "images_with_report": sum(raw.meta["report"]["findings"] is not None for raw in shards.samples),
        "images_with_context": sum(raw.meta["context"]["indication"] is not None for raw in shards.samples),
    }
    for i in range(n):
        assert encoded.known[i].tolist() == [True] * 5 + [False] * 9
        assert encoded.labels[i, :5].tolist() == list(shards.samples[i].meta["labels"].values())


def test_variants_as_worked_out_alone(shards: Splits, encoded: Encoded) -> None:
    model, config, tokenizer = FakeModel(), settings(), tokenizer_of(shards)
    with torch.no_grad():
        for i in (0, 3, shards.size("test") - 1):
            sample = build_sample(shards.samples[i], i, config, tokenizer, None)
            image, view = torch.tensor(sample.image)[None], torch.tensor([sample.view])
            grey = torch.full_like(image, round(255 * config.model.vision.mean))
            context: list[torch.Tensor] = []
            if sample.context is not None:
                ids = torch.tensor([sample.context])
                context = [ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([0])]
            wanted = {
                "context": model.image_tensors(image, view, *context),
                "no_context": model.image_tensors(image, view),
                "blind": model.image_tensors(grey, view, *context),
            }
            for name, (features, logits, _) in wanted.items():
                np.testing.assert_allclose(encoded.image_features[name][i], features[0], atol=1e-6)
                np.testing.assert_allclose(encoded.image_logits[name][i], logits[0], atol=1e-5)
            if sample.report is not None:
                ids = torch.tensor([sample.report])
                text = model.text_tensors(ids, torch.ones_like(ids, dtype=torch.bool))[0]
                np.testing.assert_allclose(encoded.text_features[i], text, atol=1e-6)
            assert encoded.has_report[i] == (sample.report is not None)


def test_report_keys_tell_reports_apart(shards: Splits, encoded: Encoded) -> None:
    texts = [raw.meta["report"]["findings"] for raw in shards.samples]
    for i, text in enumerate(texts):
        assert (encoded.report_key[i] == -1) == (text is None)
    spoken = [i for i, text in enumerate(texts) if text is not None]
    same_key = encoded.report_key[spoken][:, None] == encoded.report_key[spoken]
    same_text = np.array([[texts[i] == texts[j] for j in spoken] for i in spoken])
    assert (same_key == same_text).all()


def test_gaze_rows_are_the_sentences_without_the_paragraph(shards: Splits, encoded: Encoded) -> None:
    model, config, tokenizer = FakeModel(), settings(), tokenizer_of(shards)
    rows, at = encoded.gaze, 0
    patches, features = {}, []
    with torch.no_grad():
        for i, raw in enumerate(shards.samples):
            sample = build_sample(raw, i, config, tokenizer, None)
            number = {}
            patches[i] = model.patches(torch.tensor(sample.image)[None])[0]
            for segment in (s for s in sample.segments if not s.paragraph):
                sentence = number[segment.reading] = number.get(segment.reading, -1) + 1
                assert (rows.sample_id[at], rows.reading[at], rows.sentence[at]) == (i, segment.reading, sentence)
                ids = torch.tensor([segment.ids])
                features.append(model.text_tensors(ids, torch.ones_like(ids, dtype=torch.bool))[0])
                predicted = torch.softmax(5.0 * features[-1] @ patches[i].T, -1)
                np.testing.assert_allclose(rows.predicted[at], predicted, atol=1e-6)
                np.testing.assert_allclose(rows.truth[at], segment.gaze)
                assert segment.fixations is not None
                dwell = dwell_map(segment.fixations, np.zeros(len(segment.fixations), dtype=int), 1, GRID)
                np.testing.assert_allclose(rows.dwell[at], dwell[0], rtol=1e-6)
                at += 1
        assert at == len(rows.sample_id) > 20
        images, first = np.unique(rows.sample_id, return_index=True)
        other = donors(rows.study[first])
        assert other is not None
        assert rows.other_image is not None
        for s in range(0, at, 5):
            donor = int(images[other[np.searchsorted(images, rows.sample_id[s])]])
            assert shards.study[donor] != shards.study[rows.sample_id[s]]
            wanted = torch.softmax(5.0 * features[s] @ patches[donor].T, -1)
            np.testing.assert_allclose(rows.other_image[s], wanted, atol=1e-6)


def test_context_can_be_hidden_altogether(shards: Splits) -> None:
    config, tokenizer = settings(), tokenizer_of(shards)
    hidden = encode_split(FakeModel(), config, shards, tokenizer, "test", "cpu", variants=("no_context",))  # type: ignore[arg-type]
    config.data.use_context = False
    never = encode_split(FakeModel(), config, shards, tokenizer, "test", "cpu", variants=("context",))  # type: ignore[arg-type]
    np.testing.assert_allclose(hidden.image_features["no_context"], never.image_features["context"], atol=1e-6)
    assert never.counts()["images_with_context"] == 0


def test_batch_size_changes_nothing(shards: Splits, encoded: Encoded) -> None:
    tokenizer = tokenizer_of(shards)
    other = encode_split(FakeModel(), settings(batch=7), shards, tokenizer, "test", "cpu")  # type: ignore[arg-type]
    same(encoded, other)


def test_a_diverged_model_is_a_clear_error(shards: Splits) -> None:
    model = FakeModel()
    with torch.no_grad():
        model.head[3, 3] = float("nan")
    with pytest.raises(EvaluationError, match=r"logits.*: \d+ of \d+ rows are not finite"):
        encode_split(model, settings(), shards, tokenizer_of(shards), "test", "cpu", variants=("context",))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ two ranks
def same(one: Encoded, two: Encoded) -> None:
    for name in ("sample_id", "study", "has_report", "has_context", "report_key", "labels", "known"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    np.testing.assert_allclose(one.text_features, two.text_features, atol=1e-6)
    for variant in one.image_features:
        np.testing.assert_allclose(one.image_features[variant], two.image_features[variant], atol=1e-6)
        np.testing.assert_allclose(one.image_logits[variant], two.image_logits[variant], atol=1e-5)
    for name in ("sample_id", "study", "reading", "sentence", "truth", "dwell"):
        np.testing.assert_array_equal(getattr(one.gaze, name), getattr(two.gaze, name), err_msg=name)
    np.testing.assert_allclose(one.gaze.predicted, two.gaze.predicted, atol=1e-6)
    if one.gaze.other_image is None or two.gaze.other_image is None:
        assert one.gaze.other_image is two.gaze.other_image
    else:
        np.testing.assert_allclose(one.gaze.other_image, two.gaze.other_image, atol=1e-6)


def _rank(rank: int, folder: str, gaze: bool) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    shards = Splits()
    if not gaze:
        for raw in shards.samples:
            raw.meta["readings"] = []
    result = encode_split(FakeModel(), settings(), shards, tokenizer_of(shards), "test", "cpu")  # type: ignore[arg-type]
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(result))
    td.destroy_process_group()


@pytest.mark.parametrize("gaze", [True, False])
def test_two_ranks_hold_what_one_process_holds(shards: Splits, encoded: Encoded, tmp_path: Path, gaze: bool) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path), gaze), nprocs=2)
    if not gaze:
        shards = Splits()
        for raw in shards.samples:
            raw.meta["readings"] = []
        encoded = encode_split(FakeModel(), settings(), shards, tokenizer_of(shards), "test", "cpu")  # type: ignore[arg-type]
    for rank in range(2):
        same(encoded, pickle.loads(Path(tmp_path, f"{rank}.pickle").read_bytes()))
