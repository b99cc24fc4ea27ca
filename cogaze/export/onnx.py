"""The model as three ONNX graphs, each compared with torch before anybody gets it.

    image.onnx          image, view                         -> image_features, image_logits, patch_features
    image_context.onnx  image, view, token_ids, token_mask  -> the same, each image with a context of its own
    text.onnx           token_ids, token_mask               -> text_features, text_logits

    image uint8 (B,1,H,W), view int64 (B,), token_ids int64 (B,T), token_mask bool (B,T), True = a token
    *_features fp32, L2-normalised: (B,D), patches (B,P,D) row-major; *_logits fp32 (B,14), before the sigmoid

B and T are free, H = W = the model's image size; the image is normalised inside. A text of the text graph is a report
or a prompt ("[CLS] [FINDINGS] text"), a context "[CLS] [INDICATION] indication [SEP] [HISTORY] history". With masked
pooling and reading (the default) padding changes nothing. A model of `report_pooling: padded_mean` counts every
position it is given, and one of `mask_padding: false` reads every position of a context: there the width T of the
input is part of the input, as it is in training. Of a model with `transcript_pooling: cls` the text graph gives
reports and prompts, not spoken sentences.

The graphs are made by torch's exporter on top of torch.export (`dynamo=True`), which keeps batch and length free
without scripting; its operator library is written for opset 18, so that is the default and needs no conversion.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogaze import __version__
from cogaze.checkpoint import fingerprint
from cogaze.export import ExportError
from cogaze.model import CoGazeModel
from cogaze.model.modeling import unit
from cogaze.model.text import masked_mean
from cogaze.observations import OBSERVATIONS, VIEWS

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSETS = range(18, 24)  # what torch's exporter writes
DEFAULT_OPSET = 18
TOLERANCE = 1e-4  # largest difference to torch that is let through, over the output's largest absolute value
BATCHES = (1, 2, 5)
LENGTHS = (1, 7)  # tokens, and the longest the model takes
ONE_FILE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB; beyond, the weights lie beside the graph

INPUTS = {
    "image": ("image", "view"),
    "image_context": ("image", "view", "token_ids", "token_mask"),
    "text": ("token_ids", "token_mask"),
}
IMAGE_OUTPUTS = ("image_features", "image_logits", "patch_features")
OUTPUTS = {"image": IMAGE_OUTPUTS, "image_context": IMAGE_OUTPUTS, "text": ("text_features", "text_logits")}


# ------------------------------------------------------------------------------------------------ the graphs
class ImagePath(nn.Module):
    """Images without a context: the Perceiver starts from the image latents."""

    def __init__(self, model: CoGazeModel):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image uint8 (B,1,H,W), view int64 (B,) -> features (B,D), logits (B,14), patch features (B,P,D)."""
        _, for_image = self.model.start_latents()  # (M,D)
        return self.read(image, view, for_image.expand(image.shape[0], -1, -1))

    def read(self, image: Tensor, view: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """start (B,M,D): the latents that read the image."""
        seen = self.model.vision(image, view)  # (B,P,D), CLS before the patches with read_cls
        latent = self.model.final_norm(self.model.perceiver(start, seen)).mean(1)  # (B,D)
        patches = seen[:, self.model.vision.first_patch :]
        return unit(latent), self.model.image_head(latent), unit(patches)


class ImageContextPath(ImagePath):
    """Images with a context each: the context's latents read the image."""

    def forward(  # type: ignore[override]
        self, image: Tensor, view: Tensor, token_ids: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `ImagePath`, with token_ids int64 (B,T) and token_mask bool (B,T)."""
        for_context, _ = self.model.start_latents()  # (M,D)
        tokens = token_features(self.model, token_ids, token_mask)  # (B,T,D)
        readable = token_mask if self.model.config.perceiver["mask_padding"] else None
        start = self.model.perceiver(for_context.expand(image.shape[0], -1, -1), tokens, readable)  # (B,M,D)
        return self.read(image, view, start)


class TextPath(nn.Module):
    """Reports and prompts."""

    def __init__(self, model: CoGazeModel):
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """token_ids int64 (N,T), token_mask bool (N,T) -> features (N,D), logits (N,14)."""
        tokens = token_features(self.model, token_ids, token_mask)  # (N,T,D)
        pooled = masked_mean(tokens, torch.ones_like(token_mask) if counts_padding(self.model) else token_mask)
        return unit(pooled), self.model.text_head(pooled)


def token_features(model: CoGazeModel, token_ids: Tensor, token_mask: Tensor) -> Tensor:
    """Projected token features (N,T,D), all texts in one call of the encoder."""
    hidden = model.text.encoder(input_ids=token_ids, attention_mask=token_mask).last_hidden_state
    return model.text.projector(hidden)


def counts_padding(model: CoGazeModel) -> bool:
    """Padding is part of a report's mean."""
    return model.config.report_pooling == "padded_mean"


PATHS: dict[str, type[nn.Module]] = {"image": ImagePath, "image_context": ImageContextPath, "text": TextPath}


# ------------------------------------------------------------------------------------------------ writing
def require_packages() -> None:
    """Raises ExportError naming what is missing; called before any work is done."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(f"--onnx needs {', '.join(missing)}, not installed here: pip install 'cogaze[onnx]'")


def write_all(model: CoGazeModel, folder: Path, opset: int = DEFAULT_OPSET, seed: int = 0) -> dict[str, Any]:
    """Write the three graphs into `folder` and compare each with torch; returns what onnx.json holds.

    model: on the CPU, fp32, in evaluation mode. Raises ExportError: packages missing, an opset that cannot be written,
    a graph that is not the model (the files then stay, for whoever wants to look into them).
    """
    require_packages()
    if opset not in OPSETS:
        raise ExportError(f"--opset {opset}: this torch writes {OPSETS.start} to {OPSETS.stop - 1}")
    import onnx
    import onnxruntime

    files: dict[str, Any] = {}
    for name in PATHS:
        path = folder / f"{name}.onnx"
        write(model, name, path, opset)
        checks = compare(model, name, path, seed)
        files[path.name] = {
            "bytes": path.stat().st_size,
            "sha256": fingerprint(path)["sha256"],
            "inputs": list(INPUTS[name]),
            "outputs": list(OUTPUTS[name]),
            "largest": largest(checks),
            "checks": checks,
        }
    return {
        "opset": opset,
        "exporter": "torch.onnx.export(dynamo=True)",
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "image_size": model.config.image_size,
        "max_tokens": model.config.max_tokens,
        "pad_token_id": model.config.pad_token_id,
        "padding_counts": {"reports": counts_padding(model), "contexts": not model.config.perceiver["mask_padding"]},
        "views": list(VIEWS),
        "observations": list(OBSERVATIONS),
        "tolerance": TOLERANCE,
        "files": files,
    }


def write(model: CoGazeModel, name: str, path: Path, opset: int) -> None:
    """One graph of PATHS as an ONNX file."""
    batch = torch.export.Dim("batch", min=1)
    tokens = torch.export.Dim("tokens", min=1, max=model.config.max_tokens)
    free = {"image": {0: batch}, "view": {0: batch}}
    free |= {key: {0: batch, 1: tokens} for key in ("token_ids", "token_mask")}
    inputs = draw(model, name, batch=2, length=min(3, model.config.max_tokens), seed=0)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            PATHS[name](model).eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(free[key] for key in inputs),
            input_names=list(inputs),
            output_names=list(OUTPUTS[name]),
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        graph = program.model
        for node in graph.graph.all_nodes():  # where in which file a node comes from is nobody's business
            node.metadata_props.clear()
        graph.metadata_props.clear()
        graph.metadata_props.update(
            cogaze=__version__,
            image_size=str(model.config.image_size),
            max_tokens=str(model.config.max_tokens),
            views=",".join(VIEWS),
            observations=",".join(OBSERVATIONS),
        )
        weights = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
        program.save(path, external_data=weights > ONE_FILE_BYTES)


# ------------------------------------------------------------------------------------------------ comparing
def compare(model: CoGazeModel, name: str, path: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Differences of an ONNX file to the model's own methods, at several sizes with mixed padding.

    A check is {batch, tokens, outputs: {name: {absolute, relative}}}: the largest absolute difference of an output,
    and that over the output's largest absolute value (for features the stricter of the two: none is above 1; logits
    may be large). Raises ExportError when the latter is above TOLERANCE anywhere, or a value is not finite.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    longest = model.config.max_tokens
    with_text = "token_ids" in INPUTS[name]
    lengths: Sequence[int] = sorted({min(n, longest) for n in (*LENGTHS, longest)}) if with_text else (0,)
    checks = []
    for batch in BATCHES:
        for length in lengths:
            inputs = draw(model, name, batch, length, seed + 1000 * batch + length)
            found = session.run(list(OUTPUTS[name]), {key: value.numpy() for key, value in inputs.items()})
            row: dict[str, Any] = {"batch": batch, "tokens": length or None, "outputs": {}}
            for output, got, wanted in zip(OUTPUTS[name], found, of_model(model, name, inputs), strict=True):
                difference = (torch.from_numpy(got) - wanted).abs().max().item()
                size = max(wanted.abs().max().item(), torch.finfo(torch.float32).tiny)
                relative = difference / size
                row["outputs"][output] = {"absolute": difference, "relative": relative}
                if not relative <= TOLERANCE:  # also where it is NaN
                    raise ExportError(
                        f"{path.name}: {output} differs from torch by {difference:.2g}, relative {relative:.2g}, at "
                        f"{batch} x {length} tokens; {TOLERANCE:.0e} is allowed"
                    )
            checks.append(row)
    return checks


def largest(checks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The largest absolute and relative difference of all checks."""
    kinds = ("absolute", "relative")
    return {kind: max(value[kind] for check in checks for value in check["outputs"].values()) for kind in kinds}


def draw(model: CoGazeModel, name: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random inputs of a graph, texts of 1 to `length` tokens; where padding counts the first has them all, so that
    `length` is the width of the call in the model too."""
    g = torch.Generator().manual_seed(seed)
    config = model.config
    inputs: dict[str, Tensor] = {}
    if "image" in INPUTS[name]:
        inputs["image"] = torch.randint(
            0, 256, (batch, 1, config.image_size, config.image_size), dtype=torch.uint8, generator=g
        )
        inputs["view"] = torch.randint(0, len(VIEWS), (batch,), generator=g)
    if "token_ids" in INPUTS[name]:
        lengths = torch.randint(1, length + 1, (batch, 1), generator=g)
        if counts_padding(model) or not config.perceiver["mask_padding"]:
            lengths[0] = length
        mask = torch.arange(length) < lengths  # (B,T)
        ids = torch.randint(0, config.text_config.vocab_size, (batch, length), generator=g)
        inputs |= {"token_ids": ids.where(mask, config.pad_token_id), "token_mask": mask}
    return inputs


@torch.no_grad()
def of_model(model: CoGazeModel, name: str, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The outputs by the model's own evaluation methods, which divide texts into runs and share contexts."""
    if name == "text":
        every = torch.arange(len(inputs["token_ids"]))
        pooled = model.text(inputs["token_ids"], inputs["token_mask"], every[:0], every).pooled[:-1]
        return model.text_tensors(inputs["token_ids"], inputs["token_mask"]), model.text_head(pooled)
    rows = {"context_row": torch.arange(len(inputs["view"]))} if name == "image_context" else {}
    return model.image_tensors(**inputs, **rows)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own workings (optional packages, renamed axes) from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
