"""Against a real sqlite store, a real server process (slow) and an address where nothing listens."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from cogaze import __version__, config, tracking
from cogaze.config import ConfigError

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _no_outside_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def settings(folder: Path, **tracking_settings: object) -> config.Config:
    tree = {
        "run": {"dir": str(folder), "name": "unit"},
        "data": {"shards": ["secret/place/shards-a", "shards-b"]},
        "tracking": tracking_settings,
    }
    return config.validate(tree, "test")


def store(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run with the default store: two parts, as after a requeue."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    figure = folder.parent / "curve.png"
    figure.write_bytes(b"not really a picture")
    os.environ.pop("MLFLOW_TRACKING_URI", None)

    first = tracking.start(settings(folder), manifest_digest=DIGEST, rank=0)
    first.log_metrics({"loss": 2.5, "event": "eval", "done": True, "labels": {"P@1": 0.5}}, step=1)
    first.log_figure(figure)
    first.end("KILLED")

    requeued = settings(folder)
    requeued.run.nproc = 2  # MLflow refuses to change a parameter
    second = tracking.start(requeued, run_id=first.run_id, manifest_digest=DIGEST, rank=0)
    for step in range(2, 1302):
        second.log_metrics({"loss": 1 / step}, step=step)
    second.end()
    return folder, first.run_id, second.run_id


def test_a_run_is_continued_under_its_id(finished):
    folder, first, second = finished
    assert first is not None
    assert first == second
    (experiment,) = [e for e in store(folder).search_experiments() if e.name == "unit"]
    (run,) = store(folder).search_runs([experiment.experiment_id])
    assert run.info.run_id == first
    assert (run.info.status, run.info.run_name) == ("FINISHED", "one")


def test_metrics_arrive_once_each_and_exactly(finished):
    folder, run_id, _ = finished
    history = store(folder).get_metric_history(run_id, "loss")
    assert {m.step: m.value for m in history} == {1: 2.5} | {step: 1 / step for step in range(2, 1302)}
    assert len(history) == 1301
    metrics = store(folder).get_run(run_id).data.metrics
    assert metrics["labels.P_1"] == 0.5
    assert set(metrics) == {"loss", "labels.P_1"}  # neither the text nor the flag


def test_params_tags_and_data_set(finished):
    folder, run_id, _ = finished
    run = store(folder).get_run(run_id)
    assert run.data.params["run.nproc"] == "null"  # as the first part had it
    assert run.data.params["optim.lr"] == "5e-05"
    assert run.data.params["optim.schedule.name"] == "cosine"
    assert run.data.params["data.report_sections"] == '["findings", "impression"]'
    assert run.data.tags["cogaze.manifest_digest"] == DIGEST
    assert run.data.tags["cogaze.version"] == __version__
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.digest == DIGEST[:36]
    assert entry.dataset.source == '{"shards": ["shards-a", "shards-b"]}'
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]


def test_artifacts_lie_beside_the_store(finished):
    folder, run_id, _ = finished
    assert sorted(a.path for a in store(folder).list_artifacts(run_id)) == ["config.yaml", "figures"]
    (kept,) = (folder / "mlartifacts").rglob("curve.png")
    assert kept.read_bytes() == b"not really a picture"
    (resolved,) = (folder / "mlartifacts").rglob("config.yaml")
    assert yaml.safe_load(resolved.read_text())["run"]["nproc"] == 2


def test_an_id_that_the_store_lost_starts_a_new_run(finished, tmp_path):
    _, run_id, _ = finished
    tracker = tracking.start(settings(tmp_path / "two"), run_id=run_id, rank=0)
    assert tracker.run_id not in (None, run_id)


def test_a_password_in_the_uri_is_kept_out(tmp_path):
    uri = f"sqlite:///{tmp_path}/own.db"
    tracker = tracking.start(settings(tmp_path / "one", uri=uri), rank=0)
    run = MlflowClient(tracking_uri=uri).get_run(tracker.run_id)
    assert run.data.params["tracking.uri"] == "null"
    assert tracking._without_password("http://me:secret@host/x") == "http://***@host/x"


def test_environment_names_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1/from-environment")
    assert tracking.start(settings(tmp_path), rank=0).uri == "http://127.0.0.1:1/from-environment"
    mine = settings(tmp_path, uri="http://127.0.0.1:1/from-config")
    assert tracking.start(mine, rank=0).uri == "http://127.0.0.1:1/from-config"


@pytest.mark.parametrize(("rank", "mlflow"), [(1, True), (0, False)])
def test_nothing_happens_on_other_ranks_or_switched_off(tmp_path, rank, mlflow):
    tracker = tracking.start(settings(tmp_path / "run", mlflow=mlflow), rank=rank)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_artifact(tmp_path / "absent")
    tracker.end()
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_the_default_store_needs_a_run_folder():
    with pytest.raises(ConfigError, match=r"run\.dir"):
        tracking.start(config.Config(), rank=0)


def test_a_server_that_is_away_stops_nothing(tmp_path, caplog):
    with socket.socket() as taken:  # bound, never listening: the connection is refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}"
        with caplog.at_level(logging.INFO, "cogaze.tracking"):
            tracker = tracking.start(settings(tmp_path, uri=uri), rank=0)
            for step in range(2000):
                tracker.log_metrics({"loss": 1.0}, step)
            tracker.log_artifact(tmp_path / "absent")
            tracker.end()
    assert tracker.run_id is None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "cannot be used" in warning
    assert "secret" not in warning


class FakeClient:
    """Fails while `away`; counts what it was asked."""

    def __init__(self) -> None:
        self.away = True
        self.asked = 0
        self.received: list[int] = []

    def log_batch(self, run_id, metrics):
        self.asked += 1
        assert len(metrics) <= 1000
        if self.away:
            raise ConnectionError("gone")
        self.received += [metric.step for metric in metrics]


def test_pauses_grow_points_wait_and_are_dropped_at_last(tmp_path, monkeypatch, caplog):
    seconds = [0.0]
    client = FakeClient()
    tracker = tracking.Tracker("fake", settings(tmp_path), now=lambda: seconds[0])
    monkeypatch.setattr(tracking, "_client", lambda uri: client)
    monkeypatch.setattr(tracking.Tracker, "_open", lambda self, client: None)
    asked_at = []
    with caplog.at_level(logging.INFO, "cogaze.tracking"):
        for second in range(0, 400, 10):
            seconds[0] = float(second)
            before = client.asked
            tracker.log_metrics({"loss": 1.0}, second)
            if client.asked > before:
                asked_at.append(second)
        # the first after 10 s (the send interval), then pauses of 30, 60, 120, 240 s
        assert asked_at == [10, 40, 100, 220]
        client.away = False  # the fifth attempt, after 240 s, succeeds: nothing was lost
        seconds[0] = 460.0
        tracker.log_metrics({"loss": 1.0}, 460)
        assert client.received == [*range(0, 400, 10), 460]

        client.away, client.received = True, []
        for second in range(1000, 2000, 10):
            seconds[0] = float(second)
            tracker.log_metrics({"loss": 1.0}, second)
        assert 0 < len(tracker._points) < 100  # five failures in a row emptied it once
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3  # away, back, away
    assert messages[1] == "MLflow answers again"


def test_more_points_than_one_request_takes(tmp_path, monkeypatch):
    client = FakeClient()
    client.away = False
    monkeypatch.setattr(tracking, "_client", lambda uri: client)
    monkeypatch.setattr(tracking.Tracker, "_open", lambda self, client: None)
    tracking.Tracker("fake", settings(tmp_path)).log_metrics({f"m{i}": i for i in range(2500)}, 7)
    assert client.asked == 3
    assert client.received == [7] * 2500


def test_long_values_are_cut():
    assert tracking._param("x" * 500) == "x" * 500
    assert tracking._param("x" * 501) == "x" * 499 + "…"
    assert tracking._param(None) == "null"


@pytest.mark.slow
def test_with_a_real_server(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
         "--artifacts-destination", str(tmp_path / "artifacts")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "mlflow server ended by itself"
                time.sleep(0.2)
        tracker = tracking.start(settings(tmp_path / "run", uri=uri), manifest_digest=DIGEST, rank=0)
        figure = tmp_path / "curve.png"
        figure.write_bytes(b"a picture")
        tracker.log_metrics({"loss": 0.1}, 1)
        tracker.log_figure(figure)
        tracker.end()
        run = MlflowClient(tracking_uri=uri).get_run(tracker.run_id)
        assert run.data.metrics == {"loss": 0.1}
        assert run.info.status == "FINISHED"
        assert run.inputs.dataset_inputs[0].dataset.digest == DIGEST[:36]
        (kept,) = (tmp_path / "artifacts").rglob("curve.png")
        assert kept.read_bytes() == b"a picture"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
