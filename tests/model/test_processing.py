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
from cogaze.model import CoGazeProcessor, processing
from cogaze.model.processing import ImageError
from cogaze.observations import VIEWS

from .exported import film
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
    colour = np.stack([array] * 3, axis=2)
    arrays = (array, colour, np.dstack([colour, np.full_like(array, 255)]), array[:, :, None], np.asfortranarray(array))
    for image in (picture, path, str(path), path.read_bytes(), *arrays, picture.convert("RGBA")):
        got = processor(image)["image"]
        assert torch.equal(got[0], want)
    with_one_view = processor([picture, picture], views="AP")
    assert with_one_view["view"].tolist() == [VIEWS.index("AP")] * 2


def test_the_model_takes_them(processor: CoGazeProcessor, picture: Image.Image) -> None:
    model = tiny_model()
    model.text.encoder.resize_token_embeddings(len(processor.tokenizer))
    with torch.no_grad():
        out = model(**processor(picture, reports=["small effusion"]))
        texts = model.text_tensors(**processor.reports(["small effusion", "heart"]))
    torch.testing.assert_close(texts[0], out.text_features[0])


def test_save_and_load(processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)  # the processor lies beside the model
    processor.save_pretrained(tmp_path)
    again = CoGazeProcessor.from_pretrained(tmp_path)
    assert (again.image_size, again.max_tokens) == (SIZE, MAX_TOKENS)
    given = {"images": picture, "reports": ["small left effusion [SEP]"], "contexts": [("fever", "none")]}
    before, after = processor(**given), again(**given)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], after[name]) for name in before)


def pixels(processor: CoGazeProcessor, image: Image.Image, path: Path, **options: object) -> np.ndarray:
    """What the processor makes of an image that went through a file."""
    image.save(path, **options)  # type: ignore[arg-type]
    return processor.pixels(path)[0].astype(int)


def test_kinds_of_files(processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path) -> None:
    """Lossless files of every 8-bit kind give the grey picture's own pixels."""
    want = processor.pixels(picture)[0].astype(int)
    for name in ("a.png", "a.tif", "a.bmp", "a.gif", "a.pgm"):
        assert (pixels(processor, picture, tmp_path / name) == want).all(), name
    for mode in ("RGB", "RGBA", "LA", "P"):
        assert (pixels(processor, picture.convert(mode), tmp_path / f"{mode}.png") == want).all(), mode
    assert (pixels(processor, picture.convert("RGB").convert("CMYK"), tmp_path / "cmyk.tif") == want).all()
    assert (pixels(processor, picture.convert("1"), tmp_path / "bits.png") >= 0).all()
    assert abs(pixels(processor, picture, tmp_path / "a.jpg", quality=100) - want).max() <= 3


def test_transparency_shows_black(processor: CoGazeProcessor, tmp_path: Path) -> None:
    half = np.full((60, 60), 255, np.uint8)
    half[:, :30] = 0
    white = Image.fromarray(np.full((60, 60), 255, np.uint8)).convert("RGB")
    white.putalpha(Image.fromarray(half))
    shown = pixels(processor, white, tmp_path / "a.png")
    assert (shown[:, : SIZE // 2 - 2] == 0).all()
    assert (shown[:, SIZE // 2 + 2 :] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_exif_orientation_is_obeyed(processor: CoGazeProcessor, tmp_path: Path, orientation: int, kind: str) -> None:
    """A file stored turned, with the tag that turns it back, is the upright picture."""
    back = {  # what undoes each orientation's display transform
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    rows, columns = np.mgrid[:300, :400]
    upright = Image.fromarray((rows * 0.3 + columns * 0.4).astype(np.uint8))
    stored = upright
    for step in back.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = pixels(processor, stored, tmp_path / f"a.{kind}", exif=exif)
    want = processor.pixels(upright)[0].astype(int)
    assert abs(got - want).max() <= 3  # a JPEG of ten times the size is reduced while it is decoded


def test_a_large_jpeg_is_reduced_as_in_the_shards(processor: CoGazeProcessor, tmp_path: Path) -> None:
    path = film(tmp_path / "a.png", 0, width=300, height=400)
    with Image.open(path) as picture:
        picture.save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    want = decode(data, SIZE, AugmentConfig(), None)[0]
    assert np.array_equal(processor.pixels(tmp_path / "a.jpg"), want)
    assert np.array_equal(processor.pixels(data), want)


def test_what_is_wrong_with_a_file_has_a_name(
    processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "none.png").touch()
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(tmp_path / "deep.png")
    for name, reason in {
        "half.png": "image truncated", "page.jpg": "not an image", "none.png": "not an image",
        "deep.png": "image not 8-bit", "absent.png": "image file missing", ".": "image file missing",
    }.items():  # fmt: skip
        with pytest.raises(ImageError, match="cannot be read") as caught:
            processor.pixels(tmp_path / name)
        assert caught.value.reason == reason, name
    monkeypatch.setattr(processing, "MAX_PIXELS", 60 * 80 - 1)
    with pytest.raises(ImageError, match="60 px are more than 4,799 px in all") as caught:
        processor.pixels(tmp_path / "whole.png")
    assert caught.value.reason == "image too large"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # PIL refuses twice its limit
    with pytest.raises(ImageError) as caught:
        processor.pixels(tmp_path / "whole.png")
    assert caught.value.reason == "image too large"


def test_one_context_for_all(processor: CoGazeProcessor, picture: Image.Image) -> None:
    for contexts in (("cough", None), [("cough", None)] * 3, [["cough", None]] * 3):
        inputs = processor([picture] * 3, contexts=contexts)  # type: ignore[arg-type]
        assert inputs["context_row"].tolist() == [0, 0, 0]
        assert inputs["token_ids"][0].tolist() == context_ids(processor.tokenizer, "cough", "", MAX_TOKENS)


def test_bad_input(processor: CoGazeProcessor, picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"torn\.png: cannot be read"):
        processor(tmp_path / "torn.png")
    with pytest.raises(ValueError, match=r"absent\.png: cannot be read"):
        processor(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="must be uint8"):
        processor(np.zeros((8, 8), np.uint16))
    for shape in ((8,), (0, 4), (8, 8, 2), (2, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"has shape \(H,W\)"):
            processor(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="a uint8 array, not float"):
        processor([1.0])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="mode F is not 8-bit"):
        processor(picture.convert("F"))
    for reports in (["a", "b"], "a"):
        with pytest.raises(ValueError, match="reports takes one entry an image: a list of 1"):
            processor(picture, reports=reports)
    for contexts in (["ab"], [("a",)], [("a", 1)]):
        with pytest.raises(ValueError, match=r"a pair \(indication, history\)"):
            processor(picture, contexts=contexts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no image"):
        processor([])
