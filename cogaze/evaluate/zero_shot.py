"""Zero-shot classification: is the image closer to sentences that state a finding or to sentences that rule it out?

For each observation two ensembles of prompts, encoded like reports ([FINDINGS] role). With t+ and t- the normalised
means of their normalised features, the score of an image x is x . t+ - x . t-, a monotone function of the softmax over
the pair at any logit scale. AUROC and average precision come from these scores; no threshold, no training.

The same scores are made three times: `context` (each image with its own indication and history, as the data has it),
`no_context` (hidden), and `blind` (every image replaced by one flat grey, its context kept): what `blind` reaches, the
words of the indication give away.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cogaze.evaluate import EvaluationError
from cogaze.evaluate.labels import rank_metrics
from cogaze.observations import OBSERVATIONS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

Floats = NDArray[np.floating]
SIDES = ("present", "absent")


@dataclass(frozen=True)
class Prompts:
    """Prompt ensembles by observation: {name: {"present": [...], "absent": [...]}}; origin and digest name the file.

    Each sentence is encoded once in every frame: a text with `{}` where the sentence goes.
    """

    ensembles: dict[str, dict[str, list[str]]]
    origin: str
    digest: str
    frames: tuple[str, ...] = ("{}",)

    def summary(self) -> dict[str, Any]:
        counts = {name: [len(sides[s]) for s in SIDES] for name, sides in self.ensembles.items()}
        frames = len(self.frames)
        return {"file": self.origin, "sha256": self.digest, "prompts_present_absent": counts, "frames": frames}


def load_prompts(path: Path | str | None = None) -> Prompts:
    """Prompts from a YAML file, or the packaged ones (None).

    Raises EvaluationError: no such file, bad YAML, an unknown observation (with the nearest name), an ensemble that is
    missing, empty or holds something else than text, a frame without its one {}.
    """
    try:
        text = Path(path).read_text(encoding="utf-8") if path else _packaged()
        tree = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EvaluationError(f"prompts {path}: cannot be read ({error})") from None
    origin = Path(path).name if path else "packaged"
    if not isinstance(tree, dict) or not tree:
        raise EvaluationError(f"prompts {origin}: expected a mapping of observations to `present` and `absent` lists")
    frames = tree.pop("frames", None) or ["{}"]
    if not isinstance(frames, list) or not all(isinstance(f, str) and f.count("{}") == 1 for f in frames):
        raise EvaluationError(f"prompts {origin}: frames must be a list of texts with one {{}} each")
    for name, sides in tree.items():
        if name not in OBSERVATIONS:
            near = difflib.get_close_matches(str(name), OBSERVATIONS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(OBSERVATIONS)}"
            raise EvaluationError(f"prompts {origin}: unknown observation {name!r}; {hint}")
        if not isinstance(sides, dict) or set(sides) != set(SIDES):
            raise EvaluationError(f"prompts {origin}: {name} needs exactly the lists `present` and `absent`")
        for side in SIDES:
            lines = sides[side]
            if not isinstance(lines, list) or not lines or not all(isinstance(s, str) and s.strip() for s in lines):
                raise EvaluationError(f"prompts {origin}: {name}.{side} must be a list of at least one sentence")
    return Prompts(tree, origin, hashlib.sha256(text.encode()).hexdigest(), tuple(frames))


def encode_prompts(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    max_tokens: int,
    device: torch.device | str,
    batch: int = 64,
) -> Floats:
    """Class directions (14,2,D): normalised mean feature of the present and the absent prompts; NaN without prompts.

    Runs the text encoder in fixed batches; every rank of a sharded model calls it alike.
    """
    import torch

    from cogaze.data.text import report_ids

    where, rows = [], []
    for name, sides in prompts.ensembles.items():
        for s, side in enumerate(SIDES):
            for sentence in sides[side]:
                for frame in prompts.frames:
                    where.append((OBSERVATIONS.index(name), s))
                    rows.append(report_ids(tokenizer, frame.replace("{}", sentence), max_tokens))
    features = []
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            chunk = rows[start : start + batch]
            ids = torch.full((len(chunk), max(map(len, chunk))), int(tokenizer.pad_token_id or 0))  # (n,T)
            mask = torch.zeros(ids.shape, dtype=torch.bool)
            for i, row in enumerate(chunk):
                ids[i, : len(row)] = torch.tensor(row)
                mask[i, : len(row)] = True
            features.append(model.text_tensors(ids.to(device), mask.to(device)).float().cpu())
    return class_directions(torch.cat(features).numpy(), np.array(where))


def class_directions(features: Floats, where: NDArray[np.integer]) -> Floats:
    """Prompt features (n,D), normalised, and their (observation, side) (n,2) -> class directions (14,2,D)."""
    directions = np.full((len(OBSERVATIONS), 2, features.shape[1]), np.nan)
    for c, s in sorted({(int(row[0]), int(row[1])) for row in where}):
        mean = features[(where[:, 0] == c) & (where[:, 1] == s)].astype(np.float64).mean(axis=0)
        directions[c, s] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return directions


def scores(image_features: Floats, directions: Floats) -> Floats:
    """x . t+ - x . t-: image_features (n,D), directions (14,2,D) -> (n,14); NaN columns without prompts."""
    return np.asarray(image_features, np.float64) @ (directions[:, 0] - directions[:, 1]).T


def evaluate(
    image_features: dict[str, Floats], labels: Floats, known: NDArray[np.bool_], directions: Floats
) -> dict[str, Any]:
    """AUROC and average precision per observation for every variant of the images.

    image_features: variant name ("context", "no_context", "blind") -> (n,D); labels, known (n,14); directions from
    `encode_prompts`. Returns {"variants": {name: table of labels.rank_metrics}}; observations without prompts are
    listed as skipped. Raises EvaluationError on features that are not finite.
    """
    prompted: NDArray[np.bool_] = np.asarray(np.isfinite(directions).all(axis=(1, 2)))  # (14,)
    variants = {}
    for name, features in image_features.items():
        score = scores(features, np.where(prompted[:, None, None], directions, 0.0))
        table = rank_metrics(score, labels, known & prompted)
        table["skipped"] |= {OBSERVATIONS[c]: "no prompts" for c in np.flatnonzero(~prompted)}
        variants[name] = table
    return {"variants": variants}


def _packaged() -> str:
    return files("cogaze.evaluate").joinpath("prompts.yaml").read_text(encoding="utf-8")
