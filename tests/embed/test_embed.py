"""Embedding many images: values, kills at any moment, two ranks, foreign files, models of every kind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as td
from PIL import Image

from cogaze import embed as package
from cogaze.embed import EmbedError, Settings, load_model
from cogaze.embed import output as output_module
from cogaze.model import CoGazeModel
from cogaze.observations import OBSERVATIONS
from tests.model.exported import tiny_citizen, write_checkpoint
from tests.model.tiny import tiny_settings

from .helpers import FILMS, arrays, run, same


# ------------------------------------------------------------------------------------------------ values
def test_a_folder_as_the_model_sees_it_alone(model: CoGazeModel, films: Path, whole: Path) -> None:
    got = arrays(whole)
    assert got["labels"].tolist() == list(OBSERVATIONS)
    ids = got["id"].tolist()
    names = [f"{i:02}.png" for i in range(FILMS) if i % 3] + [f"p10/s50/{i:02}.png" for i in range(0, FILMS, 3)]
    assert ids == sorted(names)
    assert got["image_features"].dtype == np.float32
    for row, name in enumerate(ids):
        with torch.no_grad():
            out = model(**model.processor(films / name))
        np.testing.assert_allclose(got["image_features"][row], out.image_features[0], atol=2e-6)
        np.testing.assert_allclose(got["probabilities"][row], 1 / (1 + np.exp(-out.image_logits[0])), atol=1e-4)
    assert set(got["view"]) == {"UNKNOWN"}
    assert not got["has_context"].any()
    assert not whole.with_name("films.npz.partial").exists()
    aside = [json.loads(line) for line in (whole.parent / "films.npz.quarantine.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in aside] == [
        ("05a.png", "image truncated"), ("p10/page.jpg", "not an image"),
    ]  # fmt: skip
    every = sorted([*ids, "05a.png", "p10/page.jpg"], key=lambda name: Path(name).parts)
    assert [every[row["row"]] for row in aside] == [row["id"] for row in aside]


def test_parquet_holds_the_same(model: CoGazeModel, films: Path, whole: Path, tmp_path: Path) -> None:
    summary = run(model, films, tmp_path / "films.parquet")
    assert summary == {
        "rows": FILMS, "width": 12, "with_context": 0, "with_text": 0, "views": {"UNKNOWN": FILMS},
        "set_aside": {"image truncated": 1, "not an image": 1}, "resumed": 0, "chunks": 6,
    }  # fmt: skip
    table, want = pd.read_parquet(tmp_path / "films.parquet"), arrays(whole)
    assert list(table.columns) == [
        "id",
        "view",
        "has_context",
        "image_features",
        *(f"probability.{n}" for n in OBSERVATIONS),
    ]
    assert table["id"].tolist() == want["id"].tolist()
    assert np.array_equal(np.stack(table["image_features"]), want["image_features"])
    assert np.array_equal(table[[f"probability.{n}" for n in OBSERVATIONS]], want["probabilities"])


def test_patch_features_as_forward_gives_them(model: CoGazeModel, films: Path, tmp_path: Path) -> None:
    settings = Settings(patches=True, batch_size=2)
    assert run(model, films, tmp_path / "a.npz", settings)["chunks"] == 8  # smaller ones
    run(model, films, tmp_path / "a.parquet", settings)
    got = arrays(tmp_path / "a.npz")
    assert got["patch_features"].shape == (FILMS, 16, 12)
    assert got["patch_features"].dtype == np.float16
    for row in (0, 7, FILMS - 1):
        inputs = model.processor(films / str(got["id"][row]), transcripts=[["heart"]])
        with torch.no_grad():
            want = model(**inputs).patch_features[0]
        np.testing.assert_allclose(got["patch_features"][row], want, atol=1e-3)
    flat = pq.read_table(tmp_path / "a.parquet")["patch_features"].to_numpy()
    assert np.array_equal(np.stack(flat).reshape(got["patch_features"].shape), got["patch_features"])


def test_bf16_is_close(model: CoGazeModel, films: Path, whole: Path, tmp_path: Path) -> None:
    run(model, films, tmp_path / "a.npz", Settings(batch_size=3, bf16=True))
    got, want = arrays(tmp_path / "a.npz")["image_features"], arrays(whole)["image_features"]
    assert 0 < abs(got - want).max() < 0.1


# ------------------------------------------------------------------------------------------------ kills, restarts
def in_a_process(body: Callable[[], Any]) -> int | None:
    """The exit code of a forked process that runs `body`; -9 where it was killed."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join(60)
    return process.exitcode


def kill(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("out", ["films.npz", "films.parquet"])
@pytest.mark.parametrize(
    ("moment", "left"),
    [("in a batch", 2), ("while a chunk is written", 3), ("while chunks are merged", 6), ("before cleaning up", None)],
)
def test_killed_and_started_again_gives_the_same(
    model: CoGazeModel, films: Path, whole: Path, tmp_path: Path, moment: str, left: int | None, out: str
) -> None:
    target = tmp_path / out

    def killed() -> None:
        if moment == "in a batch":
            run(model, films, target, progress=lambda done, total: kill() if done >= 11 else None)
        replace = os.replace

        def killing(source: Path, destination: Path) -> None:
            if (moment == "while a chunk is written" and destination.name == "chunk-000003.npz") or (
                moment == "while chunks are merged" and destination == target
            ):
                kill()
            replace(source, destination)

        output_module.os.replace = killing  # type: ignore[attr-defined]
        if moment == "before cleaning up":
            shutil.rmtree = kill  # type: ignore[assignment]
        run(model, films, target)

    assert in_a_process(killed) == -signal.SIGKILL
    work = target.with_name(f"{out}.partial")
    assert len(list(work.glob("chunk-*.npz"))) == (6 if left is None else left)
    assert target.exists() == (left is None)
    told: list[tuple[int, int]] = []
    summary = run(model, films, target, progress=lambda done, total: told.append((done, total)))
    assert summary["resumed"] == (6 if left is None else left)
    if left is not None:
        assert told[0] == (min(4 * left, 24), 24)  # the bar starts where it was
        assert told[-1] == (24, 24)
    assert not work.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [out, f"{out}.quarantine.jsonl"]
    if out.endswith(".npz"):
        same(target, whole)
    else:
        table = pd.read_parquet(target)
        assert np.array_equal(np.stack(table["image_features"]), arrays(whole)["image_features"])


def test_two_ranks_give_the_same_also_after_one(model: CoGazeModel, films: Path, whole: Path, tmp_path: Path) -> None:
    """Half of it by one process, which is asked to stop; the rest by two ranks."""
    asked = iter([False] * 4 + [True] * 9)
    assert run(model, films, tmp_path / "films.npz", stop=lambda: next(asked)) is None
    assert len(list((tmp_path / "films.npz.partial").glob("chunk-*"))) == 2

    def rank(number: int) -> None:
        torch.set_num_threads(1)
        td.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=number, world_size=2)
        written: list[str] = []
        write = package.write_chunk
        package.write_chunk = lambda path, *rest, **more: (written.append(path.name), write(path, *rest, **more))  # type: ignore[assignment]
        summary = run(model, films, tmp_path / "films.npz")
        (tmp_path / f"{number}.json").write_text(json.dumps([summary, written]))
        td.destroy_process_group()

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=rank, args=(number,)) for number in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    (zero, by_zero), (one, by_one) = (json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2))
    assert zero["resumed"] == 2
    assert one == {}  # rank 0 speaks
    assert by_zero == ["chunk-000002.npz", "chunk-000004.npz"]
    assert by_one == ["chunk-000003.npz", "chunk-000005.npz"]
    same(tmp_path / "films.npz", whole)


def test_a_damaged_chunk_is_made_anew(model: CoGazeModel, films: Path, whole: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "films.npz", tmp_path / "films.npz.partial"
    asked = iter([False] * 6 + [True] * 9)
    assert run(model, films, out, stop=lambda: next(asked)) is None
    first, second = work / "chunk-000000.npz", work / "chunk-000001.npz"
    first.write_bytes(first.read_bytes()[:700])  # seen at once
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1  # seen when it is read
    second.write_bytes(data)
    with pytest.raises(EmbedError, match=r"chunk-000001\.npz was damaged .* start the same command again"):
        run(model, films, out)
    assert run(model, films, out)["resumed"] == 5
    same(out, whole)


def test_done_is_done(model: CoGazeModel, films: Path, whole: Path, tmp_path: Path) -> None:
    for name in ("films.npz", "films.parquet"):
        out = tmp_path / name
        first = run(model, films, out)
        before = out.stat().st_mtime_ns
        again = run(model, films, out, overwrite=True)
        assert again == {**first, "resumed": 6}
        assert out.stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------ refusals
def test_another_job_does_not_go_on(model: CoGazeModel, films: Path, tmp_path: Path) -> None:
    copy = tmp_path / "films"
    shutil.copytree(films, copy)
    os.utime(copy / "01.png", ns=(0, 0))
    out = tmp_path / "a.npz"
    asked = iter([False] * 4 + [True] * 9)
    assert run(model, copy, out, stop=lambda: next(asked)) is None
    other = tiny_citizen()
    with torch.no_grad():
        other.log_logit_scale.add_(1e-6)

    def refuse(words: str, model: CoGazeModel = model, settings: Settings | None = None) -> None:
        with pytest.raises(EmbedError, match=words):
            run(model, copy, out, settings)

    refuse(r"a\.npz\.partial was begun with another model; give the same again to go on, or --overwrite", other)
    refuse("begun with other settings", settings=Settings(batch_size=4))
    refuse("begun with other settings", settings=Settings(batch_size=3, contexts=False))
    os.utime(copy / "01.png", ns=(0, 10**9))
    refuse("begun with image files that have changed since")
    os.utime(copy / "01.png", ns=(0, 0))
    (copy / "z.png").touch()
    refuse(r"begun with another source \(or its listing has changed\) and image files")
    (copy / "z.png").unlink()

    assert run(model, copy, out)["resumed"] == 2  # what was begun is still there
    begun = tmp_path / "b.npz"
    asked = iter([False] * 4 + [True] * 9)
    assert run(model, copy, begun, stop=lambda: next(asked)) is None
    assert run(other, copy, begun, overwrite=True)["resumed"] == 0
    refuse("a.npz exists and was made from another model; choose another --out, or --overwrite replaces it", other)
    assert run(other, copy, out, overwrite=True)["resumed"] == 0
    out.write_bytes(b"mine")
    refuse("a.npz exists and is not of cogaze embed")
    assert out.read_bytes() == b"mine"
    assert run(other, copy, out, overwrite=True)["rows"] == FILMS


def test_two_at_once_are_refused(
    model: CoGazeModel, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.npz"
    monkeypatch.setattr(package.time, "sleep", lambda seconds: None)

    def second(done: int, total: int) -> None:
        if done == 12:
            with pytest.raises(EmbedError, match=r"another `cogaze embed` is writing .*a\.npz"):
                run(model, films, out)

    assert run(model, films, out, progress=second)["rows"] == FILMS


def test_nothing_usable_and_nothing_finite_are_failures(model: CoGazeModel, tmp_path: Path, films: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).touch()
    with pytest.raises(EmbedError, match=r"none of 2 rows could be embedded: 2 not an image; see .*quarantine\.jsonl"):
        run(model, tmp_path / "bad", tmp_path / "a.npz")
    assert len((tmp_path / "a.npz.quarantine.jsonl").read_text().splitlines()) == 2
    diverged = tiny_citizen()
    with torch.no_grad():
        diverged.image_head.weight[3, 3] = float("nan")
    with pytest.raises(EmbedError, match="not finite: it has diverged"):
        run(diverged, films, tmp_path / "b.npz")


def test_a_disk_that_fails_stops_the_work_instead_of_setting_all_aside(
    model: CoGazeModel, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"now": True}
    opened = Image.open

    def failing(file: Any, *args: Any, **kwargs: Any) -> Any:
        if broken["now"] and Path(file).name == "07.png":
            raise OSError(errno.EIO, "Input/output error", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(EmbedError, match="images cannot be read: Input/output error; start again when") as caught:
        run(model, films, tmp_path / "a.npz")
    assert "07" not in str(caught.value)  # file names stay out of logs
    broken["now"] = False
    assert run(model, films, tmp_path / "a.npz")["resumed"] == 1


# ------------------------------------------------------------------------------------------------ models
def test_models_from_exports_runs_and_checkpoints(model: CoGazeModel, films: Path, tmp_path: Path) -> None:
    config = tiny_settings()
    config.data.use_context = False
    config.data.report_sections = ["impression"]
    folder = write_checkpoint(tmp_path / "run", model, config)
    model.save_pretrained(tmp_path / "exported")
    images = sorted(films.glob("0[1-4].png"))
    want = model.encode_image(images)
    for name, sections, contexts in (
        ("exported", ("findings", "impression"), True),
        ("run", ("impression",), False),
        (f"run/checkpoints/{folder.name}", ("impression",), False),
    ):
        loaded, *trained = load_model(str(tmp_path / name))
        assert trained == [sections, contexts]
        assert not loaded.training
        torch.testing.assert_close(loaded.encode_image(images), want, atol=2e-6, rtol=0)
    with pytest.raises(EmbedError, match="neither a run folder with checkpoints/, nor a checkpoint, nor"):
        load_model(str(films))
    with pytest.raises(EmbedError, match="neither a model folder here nor to be had from the hub"):
        load_model("nobody/no-such-model")


def test_a_frozen_encoder_comes_from_its_source(model: CoGazeModel, films: Path, tmp_path: Path) -> None:
    model.vision.encoder.save_pretrained(tmp_path / "encoder")
    config = tiny_settings(vision={"trainable": "none", "pretrained": str(tmp_path / "encoder")})
    frozen = tiny_citizen(settings=config)
    frozen.load_state_dict(model.state_dict(), strict=False)
    write_checkpoint(tmp_path / "run", frozen, config)
    loaded, _, _ = load_model(str(tmp_path / "run"))
    torch.testing.assert_close(
        loaded.encode_image(films / "01.png"), model.encode_image(films / "01.png"), atol=2e-6, rtol=0
    )


def test_the_digest_is_of_what_makes_the_numbers(model: CoGazeModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = (load_model(str(tmp_path / name))[0] for name in "ab")
    digest = package.model_digest(one)
    assert package.model_digest(two) == digest
    two.config.perceiver = {**two.config.perceiver, "mask_padding": False}
    assert package.model_digest(two) != digest
    one.processor.max_tokens -= 1
    assert package.model_digest(one) != digest
