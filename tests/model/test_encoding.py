"""Own images and texts to features, from a saved folder, as any transformers model."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedTokenizerFast

import cogaze
from cogaze.config import Config, validate
from cogaze.data.text import load_tokenizer
from cogaze.model import CoGazeConfig, CoGazeModel, CoGazeProcessor, encoding, processing
from cogaze.model.encoding import ModelFolderError

from .exported import TEXTS, film, tiny_citizen, write_checkpoint
from .tiny import SIZE, tiny_settings

VIEWS = ["PA", "lateral", None, "AP", "no such view"]
CONTEXTS = [("cough and fever", None), None, (None, "small effusion"), ("", " "), ("fever", "the heart is enlarged")]


@pytest.fixture(scope="module")
def model() -> CoGazeModel:
    return tiny_citizen()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model: CoGazeModel) -> Path:
    """A folder with `exported` and `films` in it."""
    home = tmp_path_factory.mktemp("home")
    model.save_pretrained(home / "exported")
    for seed, name in enumerate(("a.png", "b.png", "more/c.png")):
        film(home / "films" / name, seed, 40 + 10 * seed)
    return home


@pytest.fixture(scope="module")
def films(home: Path) -> list[Path]:
    return [*sorted((home / "films").glob("*.png")), home / "films/more/c.png"]


def released_like() -> Config:
    """A model that reads padding."""
    tree = tiny_settings().model_dump(mode="json")
    tree["text"]["buckets"] = "roles"
    tree["model"]["text"]["report_pooling"] = "padded_mean"
    tree["model"]["perceiver"]["mask_padding"] = False
    return validate(tree, "test")


# ------------------------------------------------------------------------------------------------ values
def test_images_as_forward_sees_them(model: CoGazeModel, films: list[Path]) -> None:
    """Against `forward` on one image at a time, which knows neither batches nor this code."""
    shown = [*films, films[0], films[1]]
    got = model.encode_image(shown, VIEWS, CONTEXTS, batch_size=2)
    assert got.shape == (5, model.config.width)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got.norm(dim=1), torch.ones(5))
    for i, path in enumerate(shown):
        with torch.no_grad():
            out = model(**model.processor(path, [VIEWS[i]], [CONTEXTS[i]]))
        torch.testing.assert_close(got[i], out.image_features[0], atol=2e-6, rtol=0)
    assert (got[0] - got[3]).norm() > 1e-3  # view and context matter in this model, so they were given


def test_logits_and_patches_come_in_batches(model: CoGazeModel, films: list[Path]) -> None:
    parts = list(model.image_batches(films, VIEWS[:3], CONTEXTS[:3], batch_size=2, patches=True))
    assert [part.rows for part in parts] == [[0, 1], [2]]
    for part in parts:
        for row, logits, patches in zip(part.rows, part.logits, part.patches, strict=True):  # type: ignore[arg-type]
            inputs = model.processor(films[row], [VIEWS[row]], [CONTEXTS[row]], transcripts=[["heart"]])
            with torch.no_grad():
                out = model(**inputs)
            torch.testing.assert_close(logits, out.image_logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(patches, out.patch_features[0], atol=2e-6, rtol=0)
    assert all(part.patches is None for part in model.image_batches(films))


def test_texts_as_forward_sees_them(model: CoGazeModel, films: list[Path]) -> None:
    got = model.encode_text(TEXTS, batch_size=2)
    assert got.shape == (5, model.config.width)
    for text, feature in zip(TEXTS, got, strict=True):
        with torch.no_grad():
            out = model(**model.processor(films[0], reports=[text]))
        torch.testing.assert_close(feature, out.text_features[0], atol=2e-6, rtol=0)


def test_one_or_several(model: CoGazeModel, films: list[Path]) -> None:
    width = model.config.width
    with Image.open(films[0]) as picture:
        array = np.asarray(picture)
        every = [films[0], str(films[0]), picture.copy(), array, films[0].read_bytes()]
    one = model.encode_image(films[0], "PA", ("cough and fever", None))
    assert one.shape == (width,)
    for image in every:
        assert torch.equal(model.encode_image(image, views="PA", contexts=("cough and fever", None)), one)
    assert model.encode_image([films[0]], ["PA"], [("cough and fever", None)]).tolist() == [one.tolist()]
    several = model.encode_image(every[:2], "PA", ("cough and fever", None))  # one view, one context for all
    torch.testing.assert_close(several, one.expand(2, width), atol=2e-6, rtol=0)
    assert model.encode_text(TEXTS[0]).shape == (width,)
    assert model.encode_text([TEXTS[0]]).shape == (1, width)


def test_a_folder_is_its_images_in_order(model: CoGazeModel, home: Path, films: list[Path], tmp_path: Path) -> None:
    assert torch.equal(model.encode_image(home / "films"), model.encode_image(films))
    assert torch.equal(model.encode_image(str(home / "films")), model.encode_image(films))
    for name in ("z.JPG", "notes.txt", ".hidden.png", ".cache/x.png", "m/n.tiff"):
        film(tmp_path / Path(name).with_suffix(".png"), 0).rename(tmp_path / name)
    assert processing.image_files(tmp_path) == [tmp_path / "m/n.tiff", tmp_path / "z.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: holds no image file \(\.jpg"):
        model.encode_image(tmp_path / "empty")


@pytest.mark.parametrize("settings", [tiny_settings(), released_like()], ids=["default", "reads padding"])
def test_nothing_depends_on_what_else_is_given(settings: Config, films: list[Path]) -> None:
    model = tiny_citizen(settings=settings)
    shown, texts = [*films, films[0], films[1]], [*TEXTS, TEXTS[1]]
    together = model.encode_image(shown, VIEWS, CONTEXTS), model.encode_text(texts)
    alone = (
        torch.stack([model.encode_image(*one) for one in zip(shown, VIEWS, CONTEXTS, strict=True)]),  # type: ignore[arg-type]
        torch.stack([model.encode_text(text) for text in texts]),
    )
    for all_, each in zip(together, alone, strict=True):
        torch.testing.assert_close(all_, each, atol=2e-6, rtol=0)
    if settings.text.buckets == "roles":  # such a model does change a text that is padded
        tokens = model.processor.reports([TEXTS[1], TEXTS[2]])
        with torch.no_grad():
            padded = model.text_tensors(**tokens)[0]
        assert (padded - together[1][1]).norm() > 1e-3


def test_the_mode_is_left_as_it_was_and_dropout_is_off(films: list[Path]) -> None:
    settings = tiny_settings()
    settings.model.text.dropout = 0.5
    model = tiny_citizen(settings=settings).train()
    model.perceiver.eval()
    before = {name: module.training for name, module in model.named_modules()}
    first = model.encode_image(films, contexts=CONTEXTS[0]), model.encode_text(TEXTS)
    again = model.encode_image(films, contexts=CONTEXTS[0]), model.encode_text(TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    batches = model.image_batches(films, batch_size=1)
    next(batches)
    assert torch.is_grad_enabled()  # between two batches too
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="cannot be read"):
        model.encode_image("absent.png")
    assert {name: module.training for name, module in model.named_modules()} == before


def test_half_precision_gives_fp32_features(films: list[Path]) -> None:
    model = tiny_citizen()
    want = model.encode_image(films), model.encode_text(TEXTS)
    model.bfloat16()
    got = model.encode_image(films), model.encode_text(TEXTS)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.1, rtol=0)


def test_odd_input_is_refused(model: CoGazeModel, films: list[Path]) -> None:
    for texts, words in (
        ([], "no text given"), (["a", " "], "text 1 is blank"), ([None], "text 0 is of type NoneType"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            model.encode_text(texts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no image given"):
        model.encode_image([])
    with pytest.raises(ValueError, match="contexts has 2 entries for 3 images"):
        model.encode_image(films, contexts=[("a", "b"), None])
    with pytest.raises(ValueError, match="views has 1 entries for 3 images"):
        model.encode_image(films, views=["PA"])
    with pytest.raises(ValueError, match=r"pair \(indication, history\) of texts or None, not a str"):
        model.encode_image(films[:1], contexts=["ab"])  # type: ignore[list-item]  # two letters are no pair
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        model.encode_image(films, batch_size=0)


# ------------------------------------------------------------------------------------------------ saving, loading
def test_a_saved_folder_is_the_model(model: CoGazeModel, home: Path, films: list[Path]) -> None:
    exported = home / "exported"
    assert (exported / "model.safetensors").is_file()
    loaded = AutoModel.from_pretrained(exported)
    assert type(loaded) is CoGazeModel
    assert type(AutoConfig.from_pretrained(exported)) is CoGazeConfig
    assert type(AutoProcessor.from_pretrained(exported)) is CoGazeProcessor
    assert not loaded.training
    weights = loaded.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    for got, want in (
        (loaded.encode_image(films, VIEWS[:3], CONTEXTS[:3]), model.encode_image(films, VIEWS[:3], CONTEXTS[:3])),
        (loaded.encode_text(TEXTS), model.encode_text(TEXTS)),
    ):
        torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


def test_three_lines_in_a_fresh_process(home: Path, model: CoGazeModel, films: list[Path]) -> None:
    code = """
from cogaze import CoGazeModel
model = CoGazeModel.from_pretrained("exported")
features = model.encode_image("films")

import sys
from transformers import AutoModel, AutoProcessor
from cogaze import *
assert isinstance(AutoModel.from_pretrained("exported"), CoGazeModel)
assert isinstance(AutoProcessor.from_pretrained("exported"), CoGazeProcessor)
features.numpy().tofile("features.bin")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    got = np.fromfile(home / "features.bin", np.float32).reshape(3, -1)
    np.testing.assert_allclose(got, model.encode_image(films), atol=2e-6)


def test_names_come_from_the_package_and_others_do_not() -> None:
    assert cogaze.CoGazeModel is CoGazeModel
    assert {"CoGazeConfig", "CoGazeModel", "CoGazeProcessor", "__version__"} <= set(dir(cogaze))
    with pytest.raises(AttributeError, match="no attribute 'CoGazeModle'"):
        _ = cogaze.CoGazeModle  # type: ignore[attr-defined]


def test_every_view_keeps_its_embedding_on_the_way(home: Path, films: list[Path]) -> None:
    """Which row of the embedding is a view's stands in no file."""
    settings = tiny_settings(views=["PA", "UNKNOWN", "LATERAL"])
    model = tiny_citizen(settings=settings)
    model.save_pretrained(home / "views")
    loaded = CoGazeModel.from_pretrained(home / "views")
    views = ["UNKNOWN", "PA", "LATERAL", "AP", "LL"]
    got, want = (m.encode_image([films[0]] * 5, views) for m in (loaded, model))
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)
    torch.testing.assert_close(got[3:], got[:1].expand(2, -1), atol=2e-6, rtol=0)  # these share that of UNKNOWN
    assert torch.pdist(got[:3]).min() > 1e-3


def test_a_model_without_a_processor_says_what_to_do(home: Path, tmp_path: Path, films: list[Path]) -> None:
    made = CoGazeModel(tiny_citizen().config)
    made.config._name_or_path = ""
    with pytest.raises(ModelFolderError, match=r"no processor: set model\.processor to a CoGazeProcessor"):
        made.encode_image(films)
    made.save_pretrained(tmp_path)  # works, with the model alone
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = CoGazeModel.from_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="a model without its processor"):
        loaded.encode_text("heart")
    loaded.processor = CoGazeProcessor.from_pretrained(home / "exported")
    assert loaded.encode_text("heart").shape == (12,)

    loaded.processor.save_pretrained(tmp_path)
    other = json.loads((tmp_path / "processor_config.json").read_text()) | {"image_size": 2 * SIZE}
    (tmp_path / "processor_config.json").write_text(json.dumps(other))
    with pytest.raises(ModelFolderError, match=f"images of {2 * SIZE} px, the model takes {SIZE} px"):
        _ = CoGazeModel.from_pretrained(tmp_path).processor


def test_a_checkpoint_of_a_run_loads_whole_or_says_how(tmp_path: Path, films: list[Path]) -> None:
    model, settings = tiny_citizen(), tiny_settings()
    folder = write_checkpoint(tmp_path / "run", model, settings)
    loaded = CoGazeModel.from_pretrained(folder)
    torch.testing.assert_close(loaded.encode_image(films), model.encode_image(films), atol=2e-6, rtol=0)
    torch.testing.assert_close(loaded.encode_text(TEXTS), model.encode_text(TEXTS), atol=2e-6, rtol=0)

    # of a pretrained encoder there is a mask token, which no training moves and no file holds
    masked_settings = tiny_settings(vision={"pretrained": "somewhere"})
    masked = tiny_citizen(settings=masked_settings)
    assert masked.config.vision_config.use_mask_token
    loaded = CoGazeModel.from_pretrained(write_checkpoint(tmp_path / "masked", masked, masked_settings))
    torch.testing.assert_close(loaded.encode_image(films), masked.encode_image(films), atol=2e-6, rtol=0)

    frozen_settings = tiny_settings(vision={"trainable": "none"})
    frozen = write_checkpoint(tmp_path / "frozen", tiny_citizen(settings=frozen_settings), frozen_settings)
    assert not any(name.startswith("vision.encoder.") for name in load_file(frozen / "model.safetensors"))
    with pytest.raises(ModelFolderError, match=r"weights of the image encoder.*`cogaze export` writes"):
        CoGazeModel.from_pretrained(frozen)


def test_what_transformers_hands_back_is_handed_on(home: Path) -> None:
    loaded, info = CoGazeModel.from_pretrained(
        pretrained_model_name_or_path=home / "exported", output_loading_info=True
    )
    assert isinstance(loaded, CoGazeModel)
    assert not info["missing_keys"]


def test_blanks_that_are_tokens_stay_tokens(tmp_path: Path) -> None:
    """A byte-level vocabulary whose setting travels with the saved processor."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    backend.train_from_iterator(TEXTS * 3, BpeTrainer(vocab_size=320, initial_alphabet=ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "bytes")
    ids = {}
    for spaces in (True, False):
        tokenizer = load_tokenizer(tmp_path / "bytes", spaces=spaces)
        before = CoGazeProcessor(tokenizer, SIZE, 64)
        before.save_pretrained(tmp_path / str(spaces))
        for after in (AutoProcessor, CoGazeProcessor):
            loaded = after.from_pretrained(tmp_path / str(spaces))
            ids[spaces] = loaded.reports(TEXTS)["token_ids"]
            assert torch.equal(ids[spaces], before.reports(TEXTS)["token_ids"])
    assert ids[True].shape != ids[False].shape


# ------------------------------------------------------------------------------------------------ documentation
@pytest.mark.parametrize("module", [encoding, processing], ids=lambda module: module.__name__)
def test_the_examples_run(module: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted >= 5
    assert found.failed == 0
