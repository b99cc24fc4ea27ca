"""The ONNX graphs are the model: at sizes they were not made at, with padding and without, in either settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cogaze.config import validate
from cogaze.export import ExportError
from cogaze.export import onnx as graphs
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.observations import VIEWS
from tests.model.tiny import MAX_TOKENS, PATCHES, SIZE, VOCABULARY, tiny_settings

pytestmark = pytest.mark.slow  # torch's exporter takes seconds a graph
WIDTH = 12


def model_of(seed: int = 0, released: bool = False) -> CoGazeModel:
    """fp32; `released`: everything in which the released settings change the graphs."""
    tree = tiny_settings(vision={"depth": 1}, perceiver={"depth": 1, "final_norm": not released}).model_dump(
        mode="json"
    )
    if released:
        tree["text"]["buckets"] = "roles"
        tree["model"] |= {"latents": "shared", "init_std": 1.0, "views": ["UNKNOWN", "AP", "PA", "LATERAL", "LL"]}
        tree["model"]["text"] |= {"report_pooling": "padded_mean", "transcript_pooling": "cls"}
        tree["model"]["perceiver"] |= {"read_cls": True, "mask_padding": False}
        tree["model"]["vision"]["trainable"] = "none"
    torch.manual_seed(seed)
    model = CoGazeModel(CoGazeConfig.from_settings(validate(tree, "test"), VOCABULARY, 0)).eval()
    with torch.no_grad():  # so that texts and images tell apart
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def model() -> CoGazeModel:
    return model_of()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def report(model: CoGazeModel, folder: Path) -> dict[str, Any]:
    return graphs.write_all(model, folder)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[CoGazeModel, Path]:
    """The model of the released settings, and a folder with its two graphs that read texts."""
    model, folder = model_of(3, released=True), tmp_path_factory.mktemp("released")
    for name in ("image_context", "text"):
        graphs.write(model, name, folder / f"{name}.onnx", graphs.DEFAULT_OPSET)
    return model, folder


def answer(path: Path, **inputs: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {name: value.numpy() for name, value in inputs.items()})]


def texts(seed: int, *lengths: int, width: int | None = None) -> dict[str, torch.Tensor]:
    """Random texts of these lengths, padded to `width` (the longest)."""
    g = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, VOCABULARY, (len(lengths), width), generator=g)
    return {"token_ids": ids * mask, "token_mask": mask}


def images(seed: int, count: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=g)
    return {"image": pixels, "view": torch.randint(0, len(VIEWS), (count,), generator=g)}


# ------------------------------------------------------------------------------------------------ as it was asked for
def test_every_graph_was_compared_at_every_size(report: dict[str, Any], folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"image.onnx", "image_context.onnx", "text.onnx"}
    sizes = {(batch, length) for batch in (1, 2, 5) for length in (1, 7, MAX_TOKENS)}
    for name, file in report["files"].items():
        tried = {(check["batch"], check["tokens"]) for check in file["checks"]}
        assert tried == ({(1, None), (2, None), (5, None)} if name == "image.onnx" else sizes)
        assert all(set(check["outputs"]) == set(file["outputs"]) for check in file["checks"])
        assert 0 < file["largest"]["absolute"] < 1e-5, name
        assert 0 < file["largest"]["relative"] < 1e-5, name
        assert file["bytes"] == (folder / name).stat().st_size
    assert report["opset"] == 18
    assert report["padding_counts"] == {"reports": False, "contexts": False}


def test_batch_and_length_are_free_and_the_rest_is_fixed(report: dict[str, Any], folder: Path) -> None:
    shapes = {
        "image": ["batch", 1, SIZE, SIZE],
        "view": ["batch"],
        "token_ids": ["batch", "tokens"],
        "token_mask": ["batch", "tokens"],
        "image_features": ["batch", WIDTH],
        "image_logits": ["batch", 14],
        "patch_features": ["batch", PATCHES, WIDTH],
        "text_features": ["batch", WIDTH],
        "text_logits": ["batch", 14],
    }
    for name in report["files"]:
        graph = onnx.load(folder / name)
        onnx.checker.check_model(graph)
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
        session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for value in (*session.get_inputs(), *session.get_outputs()):
            assert value.shape == shapes[value.name], (name, value.name)
        assert session.get_modelmeta().custom_metadata_map["views"].split(",") == list(VIEWS)


def test_nothing_of_this_machine_is_in_them(report: dict[str, Any], folder: Path) -> None:
    for name in report["files"]:
        content = (folder / name).read_bytes()
        for trace in (str(Path(graphs.__file__).parents[2]), "site-packages", "modeling.py", "token_features"):
            assert trace.encode() not in content, (name, trace)


def test_they_answer_as_one_forward_of_the_model_does(model: CoGazeModel, report: dict[str, Any], folder: Path) -> None:
    """Against the forward of training, with shared contexts and length buckets, at sizes that were not compared."""
    seen, said, about = images(1, 3), texts(2, 4, 11, 2), texts(3, 13, 1, 5)
    longest = 13
    tokens = {
        name: torch.cat(
            [torch.nn.functional.pad(part[name], (0, longest - part[name].shape[1])) for part in (said, about)]
        )
        for name in said
    }
    rows = torch.arange(3)
    with torch.no_grad():
        wanted = model(
            **seen,
            **tokens,
            report_row=rows,
            context_row=torch.tensor([5, -1, 3]),
            segment_row=rows,
            segment_image=rows,
        )
    text_features, text_logits = answer(folder / "text.onnx", **said)
    torch.testing.assert_close(text_features, wanted.text_features, atol=2e-6, rtol=0)
    torch.testing.assert_close(text_features, wanted.segment_features, atol=2e-6, rtol=0)
    torch.testing.assert_close(text_logits, wanted.text_logits, atol=1e-5, rtol=0)

    alone = answer(folder / "image.onnx", image=seen["image"][1:2], view=seen["view"][1:2])
    pair = {name: value[[0, 2]] for name, value in seen.items()}
    with_context = answer(
        folder / "image_context.onnx", **pair, **{name: value[[2, 0]] for name, value in about.items()}
    )
    fields = (wanted.image_features, wanted.image_logits, wanted.patch_features)
    for of_one, of_two, field in zip(alone, with_context, fields, strict=True):
        torch.testing.assert_close(of_one, field[1:2], atol=1e-5, rtol=0)
        torch.testing.assert_close(of_two, field[[0, 2]], atol=1e-5, rtol=0)
    assert (alone[0] - with_context[0]).abs().max() > 1e-2, "the pictures tell apart"


def test_a_context_changes_what_is_seen(report: dict[str, Any], folder: Path) -> None:
    shown = images(4, 1)
    without = answer(folder / "image.onnx", **shown)
    one, other = (answer(folder / "image_context.onnx", **shown, **texts(seed, 9)) for seed in (5, 6))
    assert (one[0] - other[0]).abs().max() > 1e-3
    assert (one[0] - without[0]).abs().max() > 1e-3
    assert torch.equal(one[2], other[2])  # patches do not read the context


def test_padding_changes_nothing_by_default(report: dict[str, Any], folder: Path) -> None:
    shown, tight, wide = images(7, 1), texts(8, 6), texts(8, 6)
    wide = {name: torch.nn.functional.pad(value, (0, 9)) for name, value in wide.items()}
    for path, inputs in ((folder / "text.onnx", {}), (folder / "image_context.onnx", shown)):
        for one, other in zip(answer(path, **inputs, **tight), answer(path, **inputs, **wide), strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ released settings
def test_the_released_settings_are_the_model_too(released: tuple[CoGazeModel, Path]) -> None:
    model, folder = released
    for name in ("image_context", "text"):
        most = graphs.largest(graphs.compare(model, name, folder / f"{name}.onnx"))
        assert 0 < most["relative"] < 1e-5, name


def test_padding_counts_in_the_released_settings(released: tuple[CoGazeModel, Path]) -> None:
    """Wider padding is another input, to the graph as to the model: the mean runs over every position given."""
    model, folder = released
    tight = texts(8, 6)
    wide = {name: torch.nn.functional.pad(value, (0, 9)) for name, value in tight.items()}
    for path, inputs in ((folder / "text.onnx", {}), (folder / "image_context.onnx", images(7, 1))):
        one, other = (answer(path, **inputs, **given)[0] for given in (tight, wide))
        assert (one - other).abs().max() > 1e-3, path.name
    with torch.no_grad():  # by hand: encode all positions, mean over all of them, unit length
        hidden = model.text.encoder(input_ids=wide["token_ids"], attention_mask=wide["token_mask"]).last_hidden_state
        mean = model.text.projector(hidden).sum(1) / 15
    features, logits = answer(folder / "text.onnx", **wide)
    torch.testing.assert_close(features, mean / torch.linalg.vector_norm(mean, dim=1, keepdim=True), atol=2e-6, rtol=0)
    torch.testing.assert_close(logits, model.text_head(mean).detach(), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ what is refused
def test_another_model_is_told_from_this_one(model: CoGazeModel, report: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ExportError, match=r"text\.onnx: text_features differs from torch by [\d.]+.*is allowed"):
        graphs.compare(model_of(seed=1), "text", folder / "text.onnx")


@pytest.mark.parametrize("output", ["text_features", "text_logits"])
def test_a_small_difference_is_one_too(
    model: CoGazeModel, report: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """Just above what is let through in one output, and just below."""
    exact, place = graphs.of_model, graphs.OUTPUTS["text"].index(output)

    def off_by(factor: float) -> Any:
        def shifted(*asked: Any) -> tuple[torch.Tensor, ...]:
            found = list(exact(*asked))
            found[place] = found[place] * (1 + factor * graphs.TOLERANCE)
            return tuple(found)

        return shifted

    monkeypatch.setattr(graphs, "of_model", off_by(1.1))
    with pytest.raises(ExportError, match=f"{output} differs from torch by .*, relative 0.00011,"):
        graphs.compare(model, "text", folder / "text.onnx")
    monkeypatch.setattr(graphs, "of_model", off_by(0.9))
    graphs.compare(model, "text", folder / "text.onnx")
    monkeypatch.setattr(graphs, "of_model", off_by(float("nan")))
    with pytest.raises(ExportError, match=f"{output} differs from torch by nan"):
        graphs.compare(model, "text", folder / "text.onnx")


def test_drawn_texts_have_mixed_padding(model: CoGazeModel, released: tuple[CoGazeModel, Path]) -> None:
    mask = graphs.draw(model, "text", 5, 16, 0)["token_mask"].numpy()
    assert len(set(mask.sum(1).tolist())) > 2
    assert (np.diff(mask.astype(int), axis=1) <= 0).all(), "padding stands at the end"
    assert graphs.draw(released[0], "text", 1, 16, 0)["token_mask"].all(), "the width of the call, where padding counts"


@pytest.mark.parametrize("opset", [17, 24])
def test_other_opsets_are_refused(model: CoGazeModel, tmp_path: Path, opset: int) -> None:
    with pytest.raises(ExportError, match="this torch writes 18 to 23"):
        graphs.write_all(model, tmp_path, opset)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_opset(model: CoGazeModel, tmp_path: Path) -> None:
    graphs.write(model, "text", tmp_path / "text.onnx", 20)
    assert onnx.load(tmp_path / "text.onnx").opset_import[0].version == 20
    assert max(graphs.largest(graphs.compare(model, "text", tmp_path / "text.onnx")).values()) < 1e-5
