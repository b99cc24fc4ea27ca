"""What the outputs and the loss must not depend on, and what must move with what."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogaze import losses
from cogaze.batch import Batch
from cogaze.config import Config, GazeConfig, LossConfig, validate
from cogaze.data.loader import BatchReader, Portion
from cogaze.data.sample import build_sample
from cogaze.data.text import train_tokenizer
from cogaze.losses.gaze import gaze_sum
from cogaze.model import CoGazeConfig, CoGazeModel, CoGazeOutput
from cogaze.observations import VIEWS, view_index
from tests.data.fakes import WORDS, FakeShards, encode_image, make_raw

from .tiny import PATCH, PATCHES, SIZE, VOCABULARY, concatenate, random_batch, tiny_settings

CLOSE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}
ROOM = 24  # tokens the text encoder takes; the texts of random_batch are shorter
TOKENIZER = train_tokenizer([" ".join(WORDS)] * 5, 400)
MAYBE = st.sampled_from(["all", "some", "none"])
FEATURES = ("image_features", "image_logits", "text_features", "text_logits", "segment_features", "patch_features")


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return tree | {k: merged(tree[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


def settings_with(**sections: Any) -> Config:
    tree = merged(tiny_settings().model_dump(), {"text": {"max_tokens": ROOM}})
    return validate(merged(tree, sections), "test")


def build(config: Config, vocabulary: int = VOCABULARY) -> CoGazeModel:
    """float64, in evaluation mode; equal weights for equal sizes."""
    torch.manual_seed(0)
    return CoGazeModel(CoGazeConfig.from_settings(config, vocabulary, 0)).double().eval()


@cache
def model_with_buckets(buckets: int | str) -> CoGazeModel:
    return build(settings_with(text={"buckets": buckets}))


def run(model: CoGazeModel, batch: Batch) -> CoGazeOutput:
    with torch.no_grad():
        return model(**batch.model_inputs())


# ------------------------------------------------------------------------------------------------ batch mates, padding
def padded(batch: Batch, columns: int, filler: int) -> Batch:
    """The same texts in a wider table; what stands in the padding is not text."""
    ids = torch.nn.functional.pad(batch.token_ids, (0, columns))
    mask = torch.nn.functional.pad(batch.token_mask, (0, columns))
    return replace(batch, token_ids=torch.where(mask, ids, filler), token_mask=mask)


def part_of(whole: CoGazeOutput, batch: Batch, mate: Batch, first: bool) -> dict[str, Tensor]:
    """The rows of `batch` in the outputs of it and `mate` together; `first`: the mate came before it."""
    images, segments, looked = (
        mate.images if first else 0,
        len(mate.segment_row) if first else 0,
        len(mate.segment_image.unique()) if first else 0,
    )
    starts = {"segment_features": segments, "patch_features": looked}
    sizes = {"segment_features": len(batch.segment_row), "patch_features": len(batch.segment_image.unique())}
    return {name: whole[name][starts.get(name, images) :][: sizes.get(name, batch.images)] for name in FEATURES}


@settings(max_examples=50)
@given(
    seeds=st.tuples(st.integers(0, 9), st.integers(10, 99)),
    images=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    reports=MAYBE,
    contexts=MAYBE,
    gaze=MAYBE,
    first=st.booleans(),
    columns=st.integers(0, 8),
    filler=st.integers(0, VOCABULARY - 1),
    buckets=st.sampled_from([1, 2, 3, 6, "roles"]),
)
def test_features_do_not_depend_on_batch_mates_or_padding(
    seeds: tuple[int, int],
    images: tuple[int, int],
    reports: str,
    contexts: str,
    gaze: str,
    first: bool,
    columns: int,
    filler: int,
    buckets: int | str,
) -> None:
    """Other images, other texts, longer ones, wider padding, another number of encoder calls: the same features."""
    batch = random_batch(seeds[0], images=images[0])
    mate = random_batch(seeds[1], images=images[1], reports=reports, contexts=contexts, gaze=gaze)
    alone = run(model_with_buckets(2), batch)
    together = padded(concatenate([mate, batch] if first else [batch, mate]), columns, filler)
    whole = run(model_with_buckets(buckets), together)
    for name, value in part_of(whole, batch, mate, first).items():
        torch.testing.assert_close(value, alone[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def long_texts(batch: Batch, length: int) -> Batch:
    """Every text grown to `length` tokens."""
    more = length - batch.token_ids.shape[1]
    ids = torch.nn.functional.pad(batch.token_ids, (0, more))
    return replace(batch, token_ids=torch.where(ids == 0, 7, ids), token_mask=torch.ones_like(ids, dtype=torch.bool))


PADDED_MEAN = {"text": {"report_pooling": "padded_mean", "transcript_pooling": "cls"}}
UNMASKED = {"perceiver": {"mask_padding": False}}


@pytest.mark.parametrize(
    ("model", "moved"),
    [
        ({}, set()),
        (PADDED_MEAN, {"text_features", "text_logits"}),
        (UNMASKED, {"image_features", "image_logits"}),
        (
            PADDED_MEAN | UNMASKED,
            {"text_features", "text_logits", "image_features", "image_logits"},
        ),
    ],
    ids=["default", "padded mean", "padding read", "released"],
)
def test_released_pooling_depends_on_batch_mates(model: dict[str, Any], moved: set[str]) -> None:
    """A mate with longer texts moves what is pooled over padding, and only that: this test can fail."""
    tower = build(settings_with(text={"buckets": "roles"}, model=model))
    batch, mate = random_batch(0, contexts="all", reports="all", gaze="all"), random_batch(1, contexts="all")
    alone, whole = run(tower, batch), run(tower, concatenate([batch, long_texts(mate, ROOM)]))
    distance = {n: (v - alone[n]).abs().max().item() for n, v in part_of(whole, batch, mate, first=False).items()}
    assert {name for name, value in distance.items() if value > 1e-5} == moved
    assert all(distance[name] < 1e-11 for name in set(FEATURES) - moved)


# ------------------------------------------------------------------------------------------------ permutations
def permuted(batch: Batch, images: list[int], texts: list[int], segments: list[int]) -> tuple[Batch, list[int]]:
    """Images, texts and segments in another order (new place -> old place), and the order the segments then have:
    those of an image stay together, as a Batch wants them."""
    image_place, text_place = np.argsort(images), np.argsort(texts)

    def moved(rows: Tensor) -> Tensor:
        return torch.tensor([text_place[r] if r >= 0 else -1 for r in rows.tolist()], dtype=torch.int64)

    owner = batch.segment_image.tolist()
    order = sorted(segments, key=lambda s: image_place[owner[s]])
    of_images = ("image", "view", "study", "labels", "labels_known", "sample_id")
    return replace(
        batch,
        **{name: getattr(batch, name)[images] for name in of_images},
        token_ids=batch.token_ids[texts],
        token_mask=batch.token_mask[texts],
        report_row=moved(batch.report_row[images]),
        context_row=moved(batch.context_row[images]),
        segment_row=moved(batch.segment_row[order]),
        segment_image=torch.tensor([image_place[owner[s]] for s in order], dtype=torch.int64),
        segment_reading=batch.segment_reading[order],
        gaze=batch.gaze[order],
    ), order


RELEASED_LOSS = {
    "disease": {"gamma": 0},
    "gaze": {"transcript_to_patch": 0.2, "groups": "image", "transposed": "remasked", "epsilon": 1e-8},
}
LOSSES = {"default": LossConfig(), "released": LossConfig.model_validate(RELEASED_LOSS)}


@settings(max_examples=50)
@given(
    data=st.data(),
    seed=st.integers(0, 99),
    reports=MAYBE,
    contexts=MAYBE,
    gaze=MAYBE,
    loss=st.sampled_from(sorted(LOSSES)),
    buckets=st.sampled_from([2, "roles"]),
)
def test_permuting_the_samples_permutes_the_outputs_and_leaves_the_loss_alone(
    data: st.DataObject, seed: int, reports: str, contexts: str, gaze: str, loss: str, buckets: int | str
) -> None:
    model, config, weights = model_with_buckets(buckets), LOSSES[loss], torch.linspace(0.5, 1.5, 14).double()
    batch = random_batch(seed, reports=reports, contexts=contexts, gaze=gaze)
    images, texts, segments = (
        data.draw(st.permutations(range(n))) for n in (batch.images, len(batch.token_ids), len(batch.segment_row))
    )
    other, order = permuted(batch, images, texts, segments)
    before, after = run(model, batch), run(model, other)
    looked, seen = batch.segment_image.unique().tolist(), other.segment_image.unique().tolist()
    for name in FEATURES:
        rows = {"segment_features": order, "patch_features": [looked.index(images[new]) for new in seen]}
        torch.testing.assert_close(after[name], before[name][rows.get(name, images)], **CLOSE)

    counts = losses.local_counts(batch, config)
    assert torch.equal(losses.local_counts(other, config), counts)
    terms = [losses.total(o, b, counts, config, weights) for o, b in ((before, batch), (after, other))]
    for name in ("contrastive", "disease", "gaze", "total"):
        torch.testing.assert_close(getattr(terms[1], name), getattr(terms[0], name), **CLOSE)


# ------------------------------------------------------------------------------------------------ missing context
def seen_by_hand(model: CoGazeModel, image: Tensor, view: int, read_cls: bool) -> Tensor:
    """What the Perceiver reads of one image (1,P,D), or (1,1+P,D) with the CLS token first."""
    pixels = (image[None].double() / 255 - model.config.image_mean) / model.config.image_std
    tokens = model.vision.encoder(pixels.repeat(1, 3, 1, 1)).last_hidden_state
    tokens = tokens if read_cls else tokens[:, 1:]
    return model.vision.projector(model.vision.norm(tokens + model.vision.view_embedding.weight[view]))


@pytest.mark.parametrize("latents", ["separate", "shared"])
@pytest.mark.parametrize(("final_norm", "read_cls"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("contexts", ["some", "none", "all"])
def test_missing_context_is_the_image_latent_path(
    latents: str, final_norm: bool, read_cls: bool, contexts: str
) -> None:
    """Eq. 1: Perceiver(Z_C, context) where there is one, else Z_I, and then Perceiver(that, image), for each image."""
    perceiver = {"final_norm": final_norm, "read_cls": read_cls}
    model = build(settings_with(model={"latents": latents, "perceiver": perceiver}))
    batch = random_batch(3, contexts=contexts)
    out = run(model, batch)
    with torch.no_grad():
        bare = model.image_tensors(batch.image, batch.view)
        if latents == "shared":
            for_context, for_image = model.latents + model.context_type, model.latents + model.image_type
        else:
            for_context, for_image = model.context_latents, model.image_latents
        for i, row in enumerate(batch.context_row.tolist()):
            seen = seen_by_hand(model, batch.image[i], int(batch.view[i]), read_cls)
            without = model.final_norm(model.perceiver(for_image[None], seen)).mean(1)[0]  # (D,)
            latent = without
            if row >= 0:
                ids = batch.token_ids[row][batch.token_mask[row]]
                tokens = model.text.projector(model.text.encoder(input_ids=ids[None]).last_hidden_state)
                read = model.perceiver(for_context[None], tokens)
                latent = model.final_norm(model.perceiver(read, seen)).mean(1)[0]
                assert (latent - without).norm() > 1e-6
            torch.testing.assert_close(out.image_features[i], latent / latent.norm(), **CLOSE)
            torch.testing.assert_close(out.image_logits[i], model.image_head(latent), **CLOSE)
            torch.testing.assert_close(bare[0][i], without / without.norm(), **CLOSE)
            torch.testing.assert_close(bare[1][i], model.image_head(without), **CLOSE)


# ------------------------------------------------------------------------------------------------ views
@pytest.mark.parametrize("views", [list(VIEWS), ["UNKNOWN", "PA", "AP", "LATERAL", "LL"], ["PA", "UNKNOWN"]], ids=len)
def test_an_unknown_view_is_a_view(views: list[str]) -> None:
    """From the shard's JSON through the loader to the model: whatever the view says, it is a row; what has no row of
    its own takes that of UNKNOWN."""
    config = settings_with(model={"views": views}, text={"max_tokens": 64})
    shards = FakeShards(studies=12)
    names = ["UNKNOWN", "", None, "sunrise", "lpo", "pa", " Lateral "]
    alike: list[set[int]] = []
    for number, name in enumerate(names):
        shards.samples[number] = replace(shards.samples[0], meta={**shards.samples[0].meta, "view": name})
    batch = BatchReader(config, shards, TOKENIZER, "train").batch(Portion(0, None, np.arange(len(names))))  # type: ignore[arg-type]
    assert batch.view.tolist() == [0, 0, 0, 0, VIEWS.index("LPO"), 1, 3] == [view_index(name) for name in names]
    model = build(config, len(TOKENIZER))
    with torch.no_grad():
        features, logits, patches = model.image_tensors(batch.image, batch.view)
    for tensor in (features, logits, patches):
        assert torch.isfinite(tensor).all()
    for i in range(len(names)):
        same = {j for j in range(len(names)) if (features[i] - features[j]).norm() < 1e-9}
        alike += [same] if same not in alike else []
    own = [{i} for i, view in ((4, "LPO"), (5, "PA"), (6, "LATERAL")) if view in views]
    assert sorted(map(sorted, alike)) == sorted(map(sorted, [*own, set(range(7)) - {i for s in own for i in s}]))


# ------------------------------------------------------------------------------------------------ left and right
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), position=st.integers(0, 99), augmented=st.booleans())
def test_a_flip_of_the_image_flips_its_maps(seed: int, position: int, augmented: bool) -> None:
    """The same crop of the same image and gaze, once mirrored: pixels and maps are mirrored, all else is equal."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (40, 47), dtype=np.uint8)
    begins = np.sort(rng.random(12) * 10)
    columns = [rng.random(12), rng.random(12), begins, begins + 0.4, rng.random(12) * 0.1, rng.random(12) * 0.1]
    sentences = [{"text": "small effusion", "start": s, "end": s + 3} for s in (0.0, 4.0, 8.0)]
    reading = {"id": "r", "reader": "a", "sentences": sentences}
    raw = make_raw(encode_image(pixels), {0: np.stack(columns, axis=1).astype(np.float32)}, readings=[reading])
    strong = {"crop_scale": (0.6, 0.9), "crop_shift": 1.0, "brightness": 0.1, "contrast": 0.2} if augmented else {}

    def sample(flip: float, epoch: int | None = 1) -> Any:
        config = settings_with(data={"augment": {"flip": flip, **strong}})
        return build_sample(raw, position, config, TOKENIZER, epoch)

    plain, flipped = sample(0.0), sample(1.0)
    side = SIZE // PATCH
    assert plain.segments
    assert np.array_equal(flipped.image, plain.image[:, :, ::-1])
    assert len(flipped.segments) == len(plain.segments)
    for there, here in zip(flipped.segments, plain.segments, strict=True):
        mirrored = here.gaze.reshape(side, side)[:, ::-1].ravel()
        np.testing.assert_allclose(there.gaze, mirrored, rtol=1e-5, atol=1e-7)
        assert (there.reading, there.ids, there.paragraph) == (here.reading, here.ids, here.paragraph)
    assert (flipped.report, flipped.context, flipped.view) == (plain.report, plain.context, plain.view)
    assert np.array_equal(flipped.labels, plain.labels)
    assert np.array_equal(sample(1.0, None).image, sample(0.0, None).image)  # evaluation never flips


@pytest.mark.parametrize("groups", ["reading", "image"])
@pytest.mark.parametrize("transposed", ["same_map", "remasked"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
def test_mirrored_patches_under_mirrored_maps_lose_the_same(groups: Any, transposed: Any, epsilon: float) -> None:
    model, batch = model_with_buckets(2), random_batch(5, gaze="all")
    out, config = run(model, batch), GazeConfig(groups=groups, transposed=transposed, epsilon=epsilon)
    mirror = torch.arange(PATCHES).view(SIZE // PATCH, -1).flip(1).flatten()
    assert not torch.equal(mirror, torch.arange(PATCHES))

    def loss(patches: Tensor, maps: Tensor) -> SimpleNamespace:
        patches = patches.clone().requires_grad_()
        value = gaze_sum(
            out.segment_features, patches, out.gaze_scale, maps, batch.segment_image, batch.segment_reading, config
        )
        return SimpleNamespace(value=value, gradient=torch.autograd.grad(value, patches)[0])

    plain = loss(out.patch_features, batch.gaze)
    both = loss(out.patch_features[:, mirror], batch.gaze[:, mirror])
    one = loss(out.patch_features[:, mirror], batch.gaze)
    torch.testing.assert_close(both.value, plain.value, **CLOSE)
    torch.testing.assert_close(both.gradient, plain.gradient[:, mirror], **CLOSE)
    assert (one.value - plain.value).abs() > 1e-6
