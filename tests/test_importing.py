"""`cogaze import-weights` on files of the released layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from cogaze.checkpoint import CheckpointError, load_for_evaluation
from cogaze.cli.main import run
from cogaze.config import Config, ConfigError, load
from cogaze.importing import WeightsError, import_weights, read_tensors
from cogaze.model import CoGazeModel
from tests.parity.reference import SIZE, Released

RELEASED = Path(__file__).parents[1] / "configs" / "released.yaml"
ROLES = "text.role_tokens=['[INDICATION]','[HISTORY]','[FINDINGS]','[TRANSCRIPT]']"
SMALL = (ROLES, f"data.image_size={SIZE}", "text.max_tokens=24", "text.spaces=false")


@pytest.fixture(scope="module")
def net() -> Released:
    return Released(0)


@pytest.fixture(scope="module")
def parts(net: Released, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rad-dino/, words/ and best.pt (trained parameters alone), as a user would have them."""
    folder = tmp_path_factory.mktemp("released")
    net.vision.save_pretrained(folder / "rad-dino")
    vocabulary = {f"w{i}": i for i in range(40)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0").save_pretrained(folder / "words")
    torch.save(trained(net), folder / "best.pt")
    return folder


def trained(net: Released) -> dict[str, torch.Tensor]:
    return {name: net.params[name].detach().clone() for name in net.trained}


def settings() -> Config:
    return load(RELEASED, SMALL)


def do(parts: Path, file: Path, out: Path, **given: Any) -> dict[str, Any]:
    given = {"vision": str(parts / "rad-dino"), "tokenizer": str(parts / "words")} | given
    return import_weights(file, out, settings(), **given)


def test_the_imported_model_is_the_released_one(net: Released, parts: Path, tmp_path: Path) -> None:
    """Image features without context, from the folder, against the second implementation of the released forward."""
    report = do(parts, parts / "best.pt", tmp_path / "out")
    encoder = sum(name.startswith("image_encoder.") for name in net.params)
    assert report["mapped"] == len(net.trained) - 5
    assert report["encoder_tensors"] == encoder
    assert report["mapped_parameters"] + report["unused_parameters"] == sum(net.params[n].numel() for n in net.trained)
    assert report["unused_by_reason"] == {
        "language-model head: its vocabulary logits enter no loss": 2,
        "projection head of CXR-BERT: never called": 2,
        "latents that are replaced in every call": 1,
    }
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == report

    model = CoGazeModel.from_pretrained(tmp_path / "out").eval()
    grey = torch.randint(0, 256, (2, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, logits, _ = model.image_tensors(grey.to(torch.uint8), torch.tensor([2, 0]))  # AP, UNKNOWN
        hidden = net.vision(((grey / 255 - 0.5307) / 0.2583).expand(-1, 3, -1, -1)).last_hidden_state
        x = net.image_tokens(hidden, ["AP", "unknown"])
        start = (net.params["shared_latent"] + net.params["latent_type_embed.image"]).expand(2, -1, -1)
        pooled = net.perceiver(start, x).mean(1)
        head = net.params["vision_classifier.classifier.weight"], net.params["vision_classifier.classifier.bias"]
    torch.testing.assert_close(features, F.normalize(pooled, dim=-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, F.linear(pooled, *head), rtol=1e-5, atol=1e-5)


def test_the_folder_serves_for_evaluation(parts: Path, tmp_path: Path) -> None:
    do(parts, parts / "best.pt", tmp_path / "out")
    model, config, tokenizer = load_for_evaluation(tmp_path / "out")
    assert (model.config.latents, model.config.scale_limit, config.run.name) == ("shared", None, "cogaze-released")
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[SEP]", "[CLS]", "[INDICATION]", "[TRANSCRIPT]"]) == [
        40,
        41,
        42,
        43,
        46,
    ]
    with pytest.raises(CheckpointError, match="from which weights"):
        load_for_evaluation(tmp_path / "out", untrained=True)


@pytest.mark.parametrize("form", ["nested", "prefixed", "safetensors", "whole"])
def test_forms_of_the_file(net: Released, parts: Path, tmp_path: Path, form: str) -> None:
    state, file = trained(net), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "nested":
        torch.save({"epoch": 3, "model_state_dict": state}, file)
    elif form == "prefixed":
        torch.save({f"module.{k}": v for k, v in state.items()}, file)
    elif form == "whole":  # with the frozen encoder: none is needed then
        torch.save({k: v.detach() for k, v in net.params.items()}, file)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, file)
    report = do(parts, file, tmp_path / "out", vision="nowhere" if form == "whole" else str(parts / "rad-dino"))
    assert report["encoder_tensors"] == (0 if form == "whole" else 43)


def test_a_report_model_keeps_its_decoder(net: Released, parts: Path, tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=47, n_embd=64, n_layer=1, n_head=1, n_positions=32, add_cross_attention=True)
    )
    state = trained(net) | {f"text_decoder.{k}": v for k, v in gpt2.state_dict().items()}
    torch.save(state, tmp_path / "report.pt")
    report = do(parts, tmp_path / "report.pt", tmp_path / "out")
    assert report["decoder_tensors"] == len(gpt2.state_dict())
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "out" / "decoder")
    assert again.config.add_cross_attention
    for (name, a), (_, b) in zip(gpt2.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def wrong_shape(state: dict[str, Any]) -> None:
    state["text_projector.layers.0.bias"] = torch.zeros(7)


def absent(state: dict[str, Any]) -> None:
    del state["perceiver.layers.0.1.norm.bias"]


def other_words(state: dict[str, Any]) -> None:
    state["text_encoder.bert.embeddings.word_embeddings.weight"] = torch.zeros(50, 16)


def other_views(state: dict[str, Any]) -> None:
    state["image_projector.add_pos_embed.pos_embed"] = torch.zeros(7, 1, 16)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            wrong_shape,
            WeightsError,
            r"1 tensors have another shape: text\.projector\.0\.bias is \(7,\), \(32,\) is wanted",
        ),
        (absent, WeightsError, r"1 tensors are missing: perceiver\.blocks\.0\.cross_ff\.norm\.bias"),
        (other_words, WeightsError, "word embeddings for 50 tokens and the tokenizer has 47"),
        (other_views, ConfigError, "has 7 rows"),
    ],
)
def test_what_does_not_fit_is_named(
    net: Released, parts: Path, tmp_path: Path, change: Any, error: type[Exception], words: str
) -> None:
    state = trained(net)
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(error, match=words):
        do(parts, tmp_path / "w.pt", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]  # nothing half-written


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/cogaze-trap"),))


def test_files_that_are_no_weights(parts: Path, tmp_path: Path) -> None:
    torch.save({"w": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="more than tensors and was not opened"):
        read_tensors(tmp_path / "trap.pt")
    assert not Path("/tmp/cogaze-trap").exists()
    with pytest.raises(WeightsError, match="no named tensors"):
        read_tensors(tmp_path / "empty.pt")
    for name in ("text.pt", "missing.pt"):
        with pytest.raises(WeightsError, match=name):
            read_tensors(tmp_path / name)
    with pytest.raises(WeightsError, match="none of its 1 tensors has a name of the released"):
        do(parts, tmp_path / "other.pt", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightsError, match="is there already"):
        do(parts, parts / "best.pt", tmp_path / "out")


def test_the_command(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RELEASED.read_text().replace("extends: base.yaml", f"extends: {RELEASED.parent / 'base.yaml'}")
    config = tmp_path / "small.yaml"
    config.write_text(text)
    extra = tmp_path / "tiny.yaml"
    extra.write_text(
        f"extends: {config}\ndata: {{image_size: {SIZE}}}\n"
        "text: {max_tokens: 24, spaces: false, "
        'role_tokens: ["[INDICATION]", "[HISTORY]", "[FINDINGS]", "[TRANSCRIPT]"]}\n'
    )
    call = ["import-weights", str(parts / "best.pt"), "--config", str(extra), "--tokenizer", str(parts / "words")]
    vision = ["--vision", str(parts / "rad-dino")]
    assert run([*call, *vision, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "92 tensors" in said
    assert "2  projection head of CXR-BERT: never called" in said
    assert run([*call, *vision, "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mapped"] == 92
    table = tmp_path / "views.json"
    table.write_text("[1, 2]")
    assert run([*call, *vision, "--out", str(tmp_path / "c"), "--views", str(table)]) == 2
    assert run([*call, *vision, "--out", str(tmp_path / "a")]) == 1
    assert run([*call, "--vision", str(tmp_path / "nothing"), "--out", str(tmp_path / "d")]) == 2
    assert not (tmp_path / "d").exists()
