"""Checkpoint folders: whole or absent, the newest sound one is found, and what does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogaze import checkpoint, keeping, saving
from cogaze.checkpoint import CheckpointError, TrainerState
from cogaze.config import Config, validate
from tests.model.tiny import tiny_model
from tests.saves import TOKENIZER, make_engine, settings, state_of


def written(run: Path, step: int) -> Path:
    """A sound checkpoint folder as `save` leaves it, without the model."""
    folder = run / "checkpoints" / checkpoint.folder_name(step)
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "trainer.json").write_text(json.dumps(asdict(TrainerState(step=step))))
    (folder / "tokenizer" / "tokenizer.json").write_bytes(b"0123456789" * step)
    listing = {str(p.relative_to(folder)): checkpoint.fingerprint(p) for p in folder.rglob("*") if p.is_file()}
    (folder / "files.json").write_text(json.dumps(listing))
    keeping.point(run, "latest", folder.name)
    return folder


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_latest_names_the_one_to_take(tmp_path: Path) -> None:
    first, second = written(tmp_path, 10), written(tmp_path, 20)
    assert checkpoint.newest(tmp_path) == second
    keeping.point(tmp_path, "latest", first.name)
    assert checkpoint.newest(tmp_path) == first


@pytest.mark.parametrize("content", ["", "step-99999999", "\x00\x00", "../../etc"])
def test_a_corrupt_latest_does_not_matter(tmp_path: Path, content: str) -> None:
    written(tmp_path, 10)
    last = written(tmp_path, 20)
    latest = tmp_path / "checkpoints" / "latest"
    latest.write_text(content)
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == last
    assert said == [f"{latest} names no checkpoint; taking the newest intact one"]
    latest.unlink()
    assert checkpoint.newest(tmp_path, said.append) == last


def test_what_lies_beyond_latest_comes_last(tmp_path: Path) -> None:
    """Training went back from step 30 to 10 and has saved 20 since: 30 is of a course that was given up."""
    first, second, third = (written(tmp_path, step) for step in (10, 20, 30))
    keeping.point(tmp_path, "latest", second.name)
    (second / "trainer.json").unlink()
    assert checkpoint.newest(tmp_path, lambda line: None) == first
    (first / "trainer.json").unlink()
    assert checkpoint.newest(tmp_path, lambda line: None) == third


def test_a_truncated_file_sends_us_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    first, second = written(tmp_path, 10), written(tmp_path, 20)
    deep = second / "tokenizer" / "tokenizer.json"
    deep.write_bytes(deep.read_bytes()[:-1])
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == first
    assert said == [
        f"checkpoint {second.name} is damaged (tokenizer/tokenizer.json differs from what was written); "
        "trying the one before it"
    ]
    (first / "trainer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact; train\.resume=never"):
        checkpoint.newest(tmp_path, said.append)


def test_a_half_written_folder_is_never_taken(tmp_path: Path) -> None:
    whole = written(tmp_path, 10)
    partial = written(tmp_path, 20)
    partial.rename(partial.with_name(f".{partial.name}.partial"))
    assert checkpoint.newest(tmp_path) == whole


def test_state_of_another_schema_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, 10)
    tree = json.loads((folder / "trainer.json").read_text()) | {"schema_version": 99}
    (folder / "trainer.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="checkpoint schema 99, this code reads 3"):
        checkpoint.read_state(folder)


def config(**train: object) -> Config:
    return validate({"train": {"steps": 10, **train}}, "test")


def test_what_may_differ_on_resume() -> None:
    free = {"micro_batch": 5, "log_every": 1, "save_every": 7}
    assert checkpoint.differences(config(), config(**free)) == []
    assert checkpoint.differences(config(), config(global_batch=32)) == ["train.global_batch: 160 -> 32"]
    other = validate({"train": {"steps": 10}, "loss": {"gaze": {"rho": 0.5}}}, "test")
    assert checkpoint.differences(config(), other) == ["loss.gaze.rho: 0.25 -> 0.5"]


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = tiny_model()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    checkpoint.load_weights(tiny_model(seed=1), tmp_path)

    lacking = dict(weights)
    lacking.pop("log_logit_scale")
    save_file(lacking, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors are missing, first log_logit_scale"):
        checkpoint.load_weights(tiny_model(), tmp_path)

    save_file(weights | {"log_gaze_scale": weights["image_latents"].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="of another shape, first log_gaze_scale"):
        checkpoint.load_weights(tiny_model(), tmp_path)


# ------------------------------------------------------------------------------------------------ what does not fit
def test_what_does_not_fit_is_refused_by_name_with_both_values(tmp_path: Path) -> None:
    config = settings()
    facts: dict[str, Any] = {"manifest_digest": "a" * 64, "frozen_source": "old/encoder", "frozen_sha256": "c" * 64}
    folder = saving.save(make_engine(), TOKENIZER, TrainerState(step=2, **facts), tmp_path, config)
    engine = make_engine(seed=1, steps=0)

    def refusal(config: Config = config, **changes: Any) -> str:
        with pytest.raises(CheckpointError) as raised:
            checkpoint.resume(engine, folder, config, TrainerState(**(facts | changes)))
        return str(raised.value)

    before = state_of(engine.model)
    assert "manifest aaaaaaaaaaaa -> bbbbbbbbbbbb" in refusal(manifest_digest="b" * 64)
    said = refusal(frozen_source="other/encoder", frozen_sha256="d" * 64)
    assert "model.vision.pretrained: old/encoder -> other/encoder, sha256 cccccccccccc -> dddddddddddd" in said
    assert "sha256 cccccccccccc -> none" in refusal(frozen_source=None, frozen_sha256="")
    tree = config.model_dump(mode="json")
    tree["model"]["text"]["dropout"] = 0.1
    tree["optim"]["lr"] = 0.5
    assert "model.text.dropout: 0.0 -> 0.1; optim.lr: 5e-05 -> 0.5" in refusal(validate(tree, "test"))

    (folder / "config.yaml").write_text("loss: {hinge: {weight: 1}}")
    assert "written by another version of cogaze" in refusal()
    assert "unknown key loss.hinge" in refusal()
    trainer = json.loads((folder / "trainer.json").read_text())
    (folder / "trainer.json").write_text(json.dumps({**trainer, "schema_version": 1}))
    assert "checkpoint schema 1, this code goes on from 3 only" in refusal()
    assert checkpoint.read_state(folder).step == 2  # but it is readable
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


def test_an_encoder_may_move_and_the_settings_of_keeping_may_change(tmp_path: Path) -> None:
    config = settings(keep_best="eval_loss")
    state = TrainerState(step=2, frozen_source="here", frozen_sha256="c" * 64)
    state.best = {"metric": "eval_loss", "value": 1.0, "step": 2}
    folder = saving.save(make_engine(), TOKENIZER, state, tmp_path, config)
    tree = config.model_dump(mode="json")
    tree["model"]["vision"]["pretrained"] = "there"
    tree["train"] |= {"keep_best": "gaze_nss", "keep_every": 7, "keep_last": 5, "strategy": "ddp"}
    now = TrainerState(frozen_source="there", frozen_sha256="c" * 64)
    assert checkpoint.resume(make_engine(steps=0), folder, config, now).best == state.best
    assert checkpoint.resume(make_engine(steps=0), folder, validate(tree, "test"), now).best is None  # of eval_loss


def test_the_digest_of_a_frozen_encoder() -> None:
    def digest(seed: int = 0, trainable: Any = "none", change: str | None = None) -> str:
        model = tiny_model(seed, vision={"trainable": trainable})
        model.vision.encoder.embeddings.mask_token = torch.nn.Parameter(torch.zeros(1, 8))
        model.vision.freeze()
        if change is not None:
            with torch.no_grad():
                dict(model.named_parameters())[change].view(-1)[0].add_(1e-12)
        return checkpoint.frozen_digest(model)

    assert digest(trainable="all") == ""
    assert len(digest()) == 64
    assert digest() == digest()
    assert digest(trainable=1) not in ("", digest())  # fewer are frozen
    assert digest(seed=1) != digest()
    assert digest(change="vision.encoder.embeddings.cls_token") != digest()
    assert digest(change="vision.encoder.embeddings.mask_token") == digest()  # never used
    assert digest(change="log_logit_scale") == digest()  # trained
    assert digest(trainable=1, change="vision.encoder.layernorm.bias") == digest(trainable=1)
