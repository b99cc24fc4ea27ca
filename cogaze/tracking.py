"""MLflow mirrors a run: parameters, the data set's digest, metrics, figures. Rank 0 only.

The run folder stays the truth. A tracking server that is slow, away or refuses something is warned about once, asked
again later with growing pauses, and never stops or fails training; what it could not take in time is dropped.
Neither report text nor identifiers of patients, studies or images may be passed to anything in this module.
"""

from __future__ import annotations

import json
import logging
import numbers
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .config import Config, ConfigError, dump

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("cogaze.tracking")

SEND_EVERY_S = 10.0  # metrics are sent in one request this often
SEND_AT = 500  # or as soon as this many points wait
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 900.0  # between attempts while the server is away, doubling
ATTEMPTS = 5  # in a row that fail, before the waiting points are dropped
PARAM_CHARACTERS = 500  # what every MLflow release takes
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # limits of MLflow's log_batch


def start(
    config: Config,
    *,
    run_id: str | None = None,
    manifest_digest: str | None = None,
    rank: int | None = None,
) -> Tracker:
    """A tracker of this run; on ranks other than 0 and with `tracking.mlflow: false`, one that does nothing.

    `run_id` continues a run (after a requeue) where the store still has it. The store is `tracking.uri`, else
    MLFLOW_TRACKING_URI, else sqlite in the run folder. Raises ConfigError where that needs a run folder and there is
    none; an unreachable store is not an error.
    """
    if rank is None:
        from . import dist

        rank = dist.rank()
    if rank != 0 or not config.tracking.mlflow:
        return Tracker(None, config)
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = None
    if not uri:
        if config.run.dir is None:
            raise ConfigError("MLflow's default store lies in the run folder: set run.dir, or tracking.mlflow=false")
        folder = config.run.dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlartifacts").as_uri()
    tracker = Tracker(uri, config, run_id=run_id, manifest_digest=manifest_digest, artifacts=artifacts)
    tracker.flush()  # so that run_id is known to the first checkpoint
    tracker.log_text(dump(_public(config)), "config.yaml")
    return tracker


class Tracker:
    """One MLflow run. `run_id` is None until the store has answered once; `uri` None tracks nothing."""

    def __init__(
        self,
        uri: str | None,
        config: Config,
        *,
        run_id: str | None = None,
        manifest_digest: str | None = None,
        artifacts: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri = uri
        self.run_id = run_id
        self._config = config
        self._digest = manifest_digest
        self._artifacts = artifacts
        self._now = now
        self._client: MlflowClient | None = None
        self._points: list[tuple[str, float, int, int]] = []  # key, value, milliseconds since 1970, step
        self._sent_at = now()
        self._ask_at = 0.0  # no attempt before this, while the store is away
        self._failures = 0  # attempts in a row

    # -------------------------------------------------------------------------------------------- what callers use
    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Take the numbers of one step; nested mappings become `outer.inner`, anything not a number is left out."""
        if self.uri is None:
            return
        stamp = int(time.time() * 1000)
        for key, value in _flat(metrics):
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                self._points.append((_metric_name(key), float(value), stamp, step))
        if len(self._points) >= SEND_AT or self._now() - self._sent_at >= SEND_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send the waiting points now (unless the store is away and its pause has not passed)."""
        self._attempt(self._send_points)

    def log_figure(self, path: Path | str) -> None:
        """Keep an image file under `figures/`."""
        self.log_artifact(path, "figures")

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep a file. It must hold no report text and no identifiers."""
        self._attempt(lambda client, run: client.log_artifact(run, str(path), folder))

    def log_text(self, text: str, name: str) -> None:
        """Keep `text` as a file of that name. It must hold no report text and no identifiers."""
        self._attempt(lambda client, run: client.log_text(run, text, name))

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Send what waits and close the run; KILLED is a run that a signal stopped and that will be resumed."""
        self._ask_at = 0.0  # one last attempt, away or not
        self._attempt(self._send_points)
        self._attempt(lambda client, run: client.set_terminated(run, status))

    # -------------------------------------------------------------------------------------------- the store
    def _attempt(self, send: Callable[[MlflowClient, str], object]) -> None:
        if self.uri is None or self._now() < self._ask_at:
            return
        self._sent_at = self._now()
        try:
            if self._client is None:
                client = _client(self.uri)
                self._open(client)
                self._client = client
            send(self._client, str(self.run_id))
        except Exception as error:  # whatever MLflow, its database or the network raise: training goes on
            self._failed(error)
            return
        if self._failures:
            log.info("MLflow answers again")
        self._failures = 0

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._ask_at = self._now() + min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        if self._failures >= ATTEMPTS:
            self._points.clear()
        if self._failures == 1:
            reason = (str(error).splitlines() or [""])[0][:300]
            log.warning(
                "MLflow at %s cannot be used (%s: %s); training goes on, the run folder holds everything",
                _without_password(str(self.uri)),
                type(error).__name__,
                _without_password(reason),
            )

    def _send_points(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Metric

        while self._points:
            batch = self._points[:METRICS_AT_ONCE]
            client.log_batch(run_id, metrics=[Metric(*point) for point in batch])
            del self._points[: len(batch)]  # only now: a failed request is repeated

    def _open(self, client: MlflowClient) -> None:
        """Find or make the run, and give it what it does not have yet. May be repeated after a failure half-way."""
        from mlflow.entities import Param

        from . import __version__

        run = _find_run(client, self.run_id)
        if run is None:
            name = self._config.run.name
            experiment = client.get_experiment_by_name(name)
            key = experiment.experiment_id if experiment else client.create_experiment(name, self._artifacts)
            folder = self._config.run.dir
            run = client.create_run(key, run_name=folder.resolve().name if folder else None)
            self.run_id = run.info.run_id
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        run_id: str = run.info.run_id
        client.set_tag(run_id, "cogaze.version", __version__)

        params = [
            Param(key, _param(value))
            for key, value in _flat(_public(self._config).model_dump(mode="json"))
            if key not in run.data.params  # a parameter cannot be changed; config.yaml has the newest values
        ]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params[first : first + PARAMS_AT_ONCE])
        if self._digest is not None:
            self._log_dataset(client, run, self._digest)

    def _log_dataset(self, client: MlflowClient, run: Any, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        client.set_tag(run.info.run_id, "cogaze.manifest_digest", digest)
        short = digest[:36]  # MLflow takes no more
        known = run.inputs.dataset_inputs if run.inputs is not None else []
        if all(entry.dataset.digest != short for entry in known):
            folders = json.dumps({"shards": [Path(folder).name for folder in self._config.data.shards]})
            dataset = Dataset(name="shards", digest=short, source_type="local", source=folders)
            context = [InputTag("mlflow.data.context", "training")]
            client.log_inputs(run.info.run_id, datasets=[DatasetInput(dataset, context)])


def _client(uri: str) -> MlflowClient:
    """An MLflow client that gives up within seconds and stays quiet; the user's own environment wins."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's cluster reports to nobody
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # "Creating initial MLflow database tables..."
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line a retry; we warn once ourselves
    return MlflowClient(tracking_uri=uri)


def _public(config: Config) -> Config:
    """The same configuration without the tracking URI, which may carry a password."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": None})})


def _find_run(client: MlflowClient, run_id: str | None) -> Any:
    """The run of that id, or None where there is no id or the store does not have it (any more)."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _param(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= PARAM_CHARACTERS else text[: PARAM_CHARACTERS - 1] + "…"


def _metric_name(key: str) -> str:
    """MLflow takes letters, digits, `_ - . / :` and spaces, 250 characters, and no name that looks like a path."""
    return re.sub(r"[^\w\-.: ]", "_", key)[:250]


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", text)
