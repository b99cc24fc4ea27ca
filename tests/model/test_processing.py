"""Own images and texts to model inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogaze.config import AugmentConfig
from cogaze.data.sample import decode
from cogaze.data.text import context_ids, report_ids, train_tokenizer, transcript_ids
from cogaze.model import CoGazeProcessor
from cogaze.observations import VIEWS

from .tiny import MAX_TOKENS, SIZE, tiny_model

WORDS = ["small left effusion is seen", "the heart is enlarged, no pneumothorax", "cough for three days and fever"]


@pytest.fixture(scope="module")
def processor() -> CoGazeProcessor:
    return CoGazeProcessor(train_tokenizer(WORDS * 3, 60), image_size=SIZE, max_tokens=MAX_TOKENS)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8))


def test_inputs_of_the_model(processor: CoGazeProcessor, picture: Image.Image) -> None:
    tokenizer = processor.tokenizer
    inputs = processor(
        [picture, picture, picture],
        views=["lateral", None, "PA"],
        contexts=[("cough", None), None, ("", " ")],
        reports=["small effusion", "", None],
        transcripts=[[], ["heart", "small"], ["heart"]],
    )
    assert inputs["image"].shape == (3, 1, SIZE, SIZE)
    assert inputs["image"].dtype == torch.uint8
    assert [VIEWS[v] for v in inputs["view"]] == ["LATERAL", "UNKNOWN", "PA"]
    assert inputs["report_row"].tolist()[1:] == [-1, -1]
    assert inputs["context_row"].tolist()[1:] == [-1, -1]
    assert inputs["segment_image"].tolist() == [1, 1, 2]

    def row(index: torch.Tensor) -> list[int]:
        return inputs["token_ids"][index][inputs["token_mask"][index]].tolist()

    assert row(inputs["report_row"][0]) == report_ids(tokenizer, "small effusion", MAX_TOKENS)
    assert row(inputs["context_row"][0]) == context_ids(tokenizer, "cough", "", MAX_TOKENS)
    spoken = [row(r) for r in inputs["segment_row"]]
    assert spoken == [transcript_ids(tokenizer, text, MAX_TOKENS) for text in ("heart", "small", "heart")]


def test_every_kind_of_image_gives_the_same_pixels(
    processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    picture.save(path)
    want = torch.tensor(decode(path.read_bytes(), SIZE, AugmentConfig(), None)[0])  # what evaluation sees
    array = np.asarray(picture)
    for image in (picture, path, str(path), array, np.stack([array] * 3, axis=2), picture.convert("RGBA")):
        got = processor(image)["image"]
        assert torch.equal(got[0], want)
    with_one_view = processor([picture, picture], views="AP")
    assert with_one_view["view"].tolist() == [VIEWS.index("AP")] * 2


def test_the_model_takes_them(processor: CoGazeProcessor, picture: Image.Image) -> None:
    model = tiny_model()
    model.text.encoder.resize_token_embeddings(len(processor.tokenizer))
    with torch.no_grad():
        out = model(**processor(picture, reports=["small effusion"]))
        texts = model.encode_texts(**processor.reports(["small effusion", "heart"]))
    torch.testing.assert_close(texts[0], out.text_features[0])


def test_save_and_load(processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)  # the processor lies beside the model
    processor.save_pretrained(tmp_path)
    again = CoGazeProcessor.from_pretrained(tmp_path)
    assert (again.image_size, again.max_tokens) == (SIZE, MAX_TOKENS)
    given = {"images": picture, "reports": ["small left effusion [SEP]"], "contexts": [("fever", "none")]}
    before, after = processor(**given), again(**given)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bad_input(processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"torn\.png: cannot be read"):
        processor(tmp_path / "torn.png")
    with pytest.raises(ValueError, match=r"absent\.png: cannot be read"):
        processor(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="must be uint8"):
        processor(np.zeros((8, 8), np.uint16))
    with pytest.raises(ValueError, match="mode F is not 8-bit"):
        processor(picture.convert("F"))
    with pytest.raises(ValueError, match="reports has 2 entries for 1 images"):
        processor(picture, reports=["a", "b"])
    with pytest.raises(ValueError, match="no image"):
        processor([])
