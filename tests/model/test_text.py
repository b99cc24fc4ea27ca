"""Length buckets, roles, means, and texts that do not feel their neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.model.text import TextTower, cut_points, masked_mean

from .tiny import MAX_TOKENS, VOCABULARY, tiny_model

NONE = torch.tensor([], dtype=torch.int64)


def tower(buckets: int | str = 2, **model: Any) -> TextTower:
    text = tiny_model(**model).text
    text.buckets = buckets
    return text


def texts(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, MAX_TOKENS + 1, (count,), generator=g)
    mask = torch.arange(MAX_TOKENS) < lengths[:, None]
    return torch.randint(1, VOCABULARY, (count, MAX_TOKENS), generator=g) * mask, mask


def one_by_one(text: TextTower, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Token features of each text alone, without padding."""
    return [
        text.projector(text.encoder(input_ids=row[real][None]).last_hidden_state)[0]
        for row, real in zip(ids, mask, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(0, 7), buckets=st.integers(1, 4), data=st.data())
def test_buckets_equal_one_text_at_a_time(seed: int, count: int, buckets: int, data: st.DataObject) -> None:
    ids, mask = texts(seed, count)
    keep = sorted(data.draw(st.sets(st.integers(0, count - 1)))) if count else []
    text = tower(buckets)
    with torch.no_grad():
        got = text(ids, mask, torch.tensor(keep, dtype=torch.int64), torch.arange(count))
        want = one_by_one(text, ids, mask)
    assert got.pooled.shape == (count + 1, 12)
    assert got.pooled[-1].abs().sum() == 0
    for row, features in enumerate(want):
        torch.testing.assert_close(got.pooled[row], features.mean(0), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(got.first[row], features[0], rtol=1e-12, atol=1e-13)
    for place, row in enumerate(keep):
        torch.testing.assert_close(got.tokens[place][got.mask[place]], want[row], rtol=1e-12, atol=1e-13)
        assert got.mask[place].sum() == len(want[row])
    if keep:
        assert got.mask.shape[1] == max(len(want[row]) for row in keep)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("buckets", [3, "roles"])
def test_the_number_of_encoder_calls_is_constant(count: int, buckets: int | str) -> None:
    text, calls = tower(buckets), []
    text.encoder.register_forward_hook(lambda *_: calls.append(1))
    text(*texts(0, count), NONE, NONE)
    assert len(calls) == 3


def test_roles_are_encoded_apart_each_padded_to_its_own_longest() -> None:
    """Rows 4 and 1 are contexts, 0 and 3 reports, the others transcripts; shapes of the three calls, and features."""
    ids, mask = texts(1, 6)
    text, shapes = tower("roles"), []
    text.encoder.register_forward_hook(lambda *given: shapes.append(tuple(given[2].last_hidden_state.shape[:2])))
    lengths = mask.sum(1).tolist()
    with torch.no_grad():
        got = text(ids, mask, torch.tensor([1, 4]), torch.tensor([3, 0]))
    assert shapes == [(2, max(lengths[r] for r in rows)) for rows in ((1, 4), (0, 3), (2, 5))]
    want = one_by_one(text, ids, mask)
    for row, features in enumerate(want):
        torch.testing.assert_close(got.pooled[row], features.mean(0), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(got.first[row], features[0], rtol=1e-12, atol=1e-13)
    for place, row in enumerate((1, 4)):
        torch.testing.assert_close(got.tokens[place][got.mask[place]], want[row], rtol=1e-12, atol=1e-13)
        assert got.tokens[place].abs().sum(-1).min() > 0  # padding is encoded too, for a Perceiver that reads it


def test_padded_mean_counts_the_padding_of_its_call() -> None:
    """The released pooling: all positions up to the longest report of the call, whatever they are."""
    ids, mask = texts(1, 6)
    text = tower("roles")
    text.padded_mean = True
    reports = torch.tensor([0, 3])
    longest = int(mask[reports].sum(1).max())
    with torch.no_grad():
        got = text(ids, mask, NONE, reports).pooled[reports]
        padded = text.encoder(input_ids=ids[reports, :longest], attention_mask=mask[reports, :longest])
        want = text.projector(padded.last_hidden_state).mean(1)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    text.padded_mean = False
    with torch.no_grad():
        assert not torch.allclose(text(ids, mask, NONE, reports).pooled[reports], want, rtol=1e-3)


def brute_force_price(lengths: list[int], buckets: int) -> int:
    if buckets == 1:
        return len(lengths) * max(lengths, default=0)
    return min(
        len(lengths[cut:]) * max(lengths[cut:], default=0) + brute_force_price(lengths[:cut], buckets - 1)
        for cut in range(len(lengths) + 1)
    )


@given(lengths=st.lists(st.integers(1, 30), max_size=9).map(sorted), buckets=st.integers(1, 4))
def test_cuts_pad_as_little_as_possible(lengths: list[int], buckets: int) -> None:
    cuts = cut_points(lengths, buckets)
    assert len(cuts) == buckets + 1
    assert cuts == sorted(cuts)
    assert (cuts[0], cuts[-1]) == (0, len(lengths))
    price = sum((cuts[k + 1] - cuts[k]) * max(lengths[cuts[k] : cuts[k + 1]], default=0) for k in range(buckets))
    assert price == brute_force_price(lengths, buckets)


def test_masked_mean_leaves_padding_out() -> None:
    features = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert masked_mean(features, mask).tolist() == [[2.0], [7.0]]


def test_too_long_a_text_says_what_to_do() -> None:
    ids = torch.ones(1, MAX_TOKENS + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"17 tokens .* 16 positions; lower text\.max_tokens"):
        tower()(ids, ids > 0, torch.tensor([0]), NONE)
