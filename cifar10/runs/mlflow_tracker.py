"""Record a run in MLflow from a separate thread, so that a slow or unavailable store does not stop training.

What is sent is also in the run's folder (`run.json`, `history.csv`, `scores.json`, figures, checkpoints): a store that
is away costs a warning, not a result. It is opened in the thread, too. What it did not take waits, and is sent again
when it answers, and at the end. Epochs are sent by number, and only those that the store does not have yet. So neither
a resumed run nor a store that was away leaves gaps or doubles; what is missing in the end, `sync.py` can send later.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cifar10.config.mlflow_uri import shown_uri
from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.runs.known_stores import sync_line
from cifar10.runs.mlflow_entities import NOTE, data_sets, metrics, note, parameters_of, params, run_tags, send_metrics
from cifar10.runs.mlflow_store import KEY_TAG, MLflowStore, StoreError, probe, reason_of
from cifar10.runs.record import RunRecord, Status

log = logging.getLogger(__name__)

_OPENING_SECONDS = 5.0  # that training waits for the store, so that checkpoints bear the run's id
_PROBED_SECONDS = 8.0  # that a run which requires the store waits to hear whether it is there
_MAKING_SECONDS = 240.0  # and for a store that is there to be opened, which several runs do one after the other
_AGAIN_SECONDS = 5.0  # between attempts while the store is away
_REFUSED_SECONDS = 60.0  # likewise, of what it refused
_AWAY_SECONDS = 8.0  # that the end of a run waits for a store that is away
_PATIENT_SECONDS = 60.0  # and for one that is there, since it last took something
_KILLED_SECONDS = 15.0  # likewise, of a run that was told to end: who sent the signal will not wait for long
_SILENT_SECONDS = 3.0  # of waiting without a word
_SAMPLING_SECONDS = 10.0  # of system metrics

Job = Callable[[], object]


def missing_store(reason: str) -> UserError:
    """Return the error of a run that requires a store which cannot be used."""
    return UserError(
        f"{reason}; start it or correct tracking.uri (docker compose up mlflow starts a server), "
        "or let training go on without it: tracking.required=false"
    )


class MLflowTracker:
    """Sends a run to MLflow from a thread, which also opens the store.

    Args:
        config: Store and experiment.
        record: The run. A run that its store does not know is begun anew.
    """

    def __init__(self, config: TrackingConfig, record: RunRecord) -> None:
        self.config = config
        self.record = record
        self.uri = config.uri
        self.store: MLflowStore | None = None
        self._run_id: str | None = None
        self.failure: str | None = None
        """Why the store does not take the record now, if it does not."""
        self._is_away = False
        self._is_abandoned = False  # the run ends before it has begun
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._unsent: list[Job] = []
        self._history: list[dict[str, float]] = []
        self._timestamps: dict[int, int] = {}  # of each epoch; a repeated one with the same is no second one
        self._sent_epochs: set[int] = set()
        self._monitor: Any = None
        self._next_sample = 0.0
        self._deadline: float | None = None  # of the attempts at the end of the run
        self._progressed = time.monotonic()
        self._probed, self._settled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, None as long as it has none."""
        return self._run_id or self.record.run_id

    def wait_until_open(self) -> None:
        """Return when the store is open, has turned out to be away, or takes its time.

        Raises:
            UserError: It is not open, and `required` is set.
        """
        if not self.config.required:
            self._settled.wait(_OPENING_SECONDS)
            return
        if self._probed.wait(_PROBED_SECONDS):
            self._settled.wait(_MAKING_SECONDS)
        if self.store is None:
            self._is_abandoned = True
            self._jobs.put(None)
            raise missing_store(self.failure or f"MLflow at {shown_uri(self.uri)} could not be opened in time")

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None:
        """Send what is known before the first step: settings, tags, and `data` (name, digest, source)."""
        self.record.begin(tags, data)
        all_tags = {**self.record.tags, KEY_TAG: self.record.key, NOTE: note(self.record.tags, {})}
        values = parameters_of(parameters)
        self._send(lambda: self._send_settings(values, all_tags))
        self._send(lambda: self._client.log_inputs(self.run_id, data_sets(data)))

    def log_history(self, history: list[dict[str, float]]) -> None:
        """Send every epoch that the store lacks; `epoch` counts from 0 and is MLflow's step."""
        now = int(time.time() * 1000)
        for entry in history:
            self._timestamps.setdefault(int(entry["epoch"]), now)
        self._history = list(history)
        self._send(self._send_epochs)

    def log_scores(self, scores: dict[str, float], step: int) -> None:
        """Send final scores, but for those of the last epoch, and the description of the run that tells them."""
        now = int(time.time() * 1000)
        tags = {NOTE: note(self.record.tags, scores)}
        of_epoch = next((entry for entry in self._history if int(entry["epoch"]) == step), {})
        entries = metrics({key: value for key, value in scores.items() if key not in of_epoch}, now, step)
        self._send(lambda: self._client.log_batch(self.run_id, metrics=entries, tags=run_tags(tags)))

    def log_file(self, path: Path, folder: str) -> None:
        """Send a file into the run's artifacts."""
        self._send(lambda: self._client.log_artifact(self.run_id, str(path), folder or None))

    def flush(self) -> None:
        """Return once everything has been sent, or tried; after a minute at the latest."""
        done = threading.Event()
        self._send(done.set)
        done.wait(_PATIENT_SECONDS)

    def finish(self, status: Status) -> None:
        """Send what waits, close the run as FINISHED, FAILED or KILLED, and say so if something is missing."""
        self.record.close(status)
        if status != "FINISHED" and (self.record.folder / "history.csv").exists():
            self.log_file(self.record.folder / "history.csv", "")
        self._send(lambda: self._client.set_terminated(self.run_id, status, self.record.ended))
        self._deadline = time.monotonic() + _AWAY_SECONDS
        self._progressed = time.monotonic()
        self._jobs.put(None)
        self._wait_for_end(_KILLED_SECONDS if status == "KILLED" else _PATIENT_SECONDS)
        if self._thread.is_alive() or self._unsent:
            reason = self.failure or f"MLflow at {shown_uri(self.uri)} did not take everything in time"
            log.warning(
                "MLflow's record of this run has gaps: %s. The run's folder is complete; record it later with: %s",
                reason,
                self._sync_line(),
            )

    def describe(self) -> str:
        """Return the line to type, or the page to open, to see the run."""
        run_id = self.run_id
        if self.store is None or run_id is None:
            return f"not in MLflow at {shown_uri(self.uri)} yet: {self._sync_line()}"
        return self.store.address(run_id)

    def _sync_line(self) -> str:
        return sync_line(self.record.folder, self.config)

    @property
    def _client(self) -> Any:
        assert self.store is not None  # nothing is sent before it is open
        return self.store.client

    def _send(self, job: Job) -> None:
        self._jobs.put(job)

    def _wait_for_end(self, patience: float) -> None:
        """Return when the thread has ended, or has sent nothing for too long: `patience` seconds while it may send."""
        self._thread.join(_SILENT_SECONDS)
        if self._thread.is_alive() and not self._is_away:
            log.warning("waiting for MLflow at %s to take the rest of the record", shown_uri(self.uri))
        while self._thread.is_alive():
            willing = 4 * patience if self.store is None else patience  # opening it takes longest
            if time.monotonic() > self._progressed + (_AWAY_SECONDS + 1 if self._is_away else willing):
                return
            self._thread.join(0.2)

    def _work(self) -> None:
        """Take jobs, and try to send what waits: when there is something new, and again from time to time."""
        while self._take():
            self._sample_system()
            self._try()
        while not self._is_abandoned:
            self._try()
            given_up = time.monotonic() > (self._deadline or 0)
            if (self.store is not None and not self._unsent) or not self._is_away or given_up:
                return
            time.sleep(0.5)

    def _take(self) -> bool:
        """Wait for jobs, or until it is time for something else; return False at the end of the run."""
        job: Job | None
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=self._pause())
            while job is not None:
                if job not in self._unsent:
                    self._unsent.append(job)
                job = self._jobs.get_nowait()
            return False
        return True

    def _pause(self) -> float | None:
        """Return the seconds until something must be done even if no job comes, None if there is nothing to do."""
        if not self._settled.is_set():
            return 0.0
        pauses = []
        if self.failure is not None:
            pauses.append(_AGAIN_SECONDS if self._is_away else _REFUSED_SECONDS)
        if self._monitor is not None:
            pauses.append(max(self._next_sample - time.monotonic(), 0.0))
        return min(pauses, default=None)

    def _try(self) -> None:
        """Send what waits as far as possible, and tell when that begins or ceases to be possible."""
        if self.store is not None and not self._unsent:
            return
        try:
            probe(self.uri)
            self._is_away = False
            self._probed.set()
            if self.store is None:
                self._open()
            failure = self._send_unsent()
        except Exception as error:  # whatever it is, it must not reach training
            self._is_away = True
            failure = reason_of(error)
        self._tell(failure)
        self._probed.set()
        self._settled.set()

    def _open(self) -> None:
        """Open the store and find or begin the run in it."""
        store = MLflowStore(self.config)
        run_id, is_new = store.begin(self.record)
        if not is_new:
            store.client.update_run(run_id, status="RUNNING")
            self._sent_epochs = {metric.step for metric in store.client.get_metric_history(run_id, "train/loss")}
        self.record.run_id = self._run_id = run_id
        self.store = store
        if self.config.system_metrics:
            self._watch_system(run_id)

    def _send_unsent(self) -> str | None:
        """Try each job that waits, and keep those that fail; return the reason if any did.

        Neither order nor repetition matters: MLflow keeps one of equal entries.

        Raises:
            StoreError: The store has gone away meanwhile.
        """
        waiting, self._unsent = self._unsent, []
        reason = None
        while waiting:
            job = waiting.pop(0)
            try:
                job()
                self._progressed = time.monotonic()
            except Exception as error:  # whatever it is, it must not reach training
                self._unsent.append(job)
                reason = f"MLflow at {shown_uri(self.uri)} did not take a record: {reason_of(error)}"
                try:
                    probe(self.uri)
                except StoreError:
                    self._unsent += waiting
                    raise
        return reason

    def _tell(self, failure: str | None) -> None:
        is_told_elsewhere = self._is_abandoned or self._deadline is not None
        is_told_elsewhere |= self.config.required and not self._settled.is_set()
        if failure is not None and self.failure is None and not is_told_elsewhere:
            log.warning("%s; training goes on, and the record is sent when it can be", failure)
        if failure is None and self.failure is not None and not self._is_abandoned:
            log.warning("MLflow at %s answers again, and has been sent what it missed", shown_uri(self.uri))
        self.failure = failure

    def _send_settings(self, values: dict[str, str], tags: dict[str, str]) -> None:
        """Send parameters and tags. MLflow lets no parameter change, so what a resume has changed becomes a tag."""
        known = self._client.get_run(self.run_id).data.params
        changed = {f"resumed.{key}": value for key, value in values.items() if known.get(key, value) != value}
        new = {key: value for key, value in values.items() if key not in known}
        self._client.log_batch(self.run_id, params=params(new), tags=run_tags({**tags, **changed}))

    def _send_epochs(self) -> None:
        fresh = [entry for entry in self._history if int(entry["epoch"]) not in self._sent_epochs]
        entries = [
            metric
            for entry in fresh
            for metric in metrics(
                {key: value for key, value in entry.items() if key != "epoch"},
                self._timestamps[int(entry["epoch"])],
                int(entry["epoch"]),
            )
        ]
        send_metrics(self._client, str(self.run_id), entries)
        self._sent_epochs |= {int(entry["epoch"]) for entry in fresh}

    def _watch_system(self, run_id: str) -> None:
        """Prepare MLflow's monitors of CPU, memory, disk, network and GPU; its own thread ends at the first fault."""
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(run_id, tracking_uri=self._client.tracking_uri)
            self._measure_system()  # use of the CPU is counted from here
        except Exception as error:
            self._monitor = None
            log.warning("system metrics cannot be measured: %s", reason_of(error))
        self._next_sample = time.monotonic() + _SAMPLING_SECONDS

    def _sample_system(self) -> None:
        if self._monitor is None or time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + _SAMPLING_SECONDS
        now = int(time.time() * 1000)
        step = round((now - self.record.started) / (1000 * _SAMPLING_SECONDS))  # goes on after a resume
        entries = metrics(self._measure_system(), now, step)
        self._unsent.append(lambda: self._client.log_batch(self.run_id, metrics=entries))

    def _measure_system(self) -> dict[str, float]:
        """Return what MLflow's monitors measure since the last time, nothing if one of them fails."""
        with contextlib.suppress(Exception):
            self._monitor.collect_metrics()
            measured = self._monitor.aggregate_metrics()
            for part in self._monitor.monitors:
                part.clear_metrics()
            return {f"system/{key}": value for key, value in measured.items()}
        return {}
