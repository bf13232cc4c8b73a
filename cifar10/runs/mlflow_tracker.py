"""Record a run in MLflow from a separate thread, so that a slow or unavailable store does not stop training.

The run's folder holds the same information (`run.json`, `history.csv`, `scores.json`, figures, checkpoints), so an
unavailable store costs a warning, not a result. The thread also opens the store. Records that the store did not accept
are sent again when it is available, and at the end. Epochs are sent by number, and only those that the store lacks, so
that neither a resume nor an interruption causes gaps or duplicates. `sync.py` can send the missing records later.
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
from cifar10.runs.mlflow_entities import EPOCH_METRIC, NOTE, data_sets, metrics, note, parameters_of, tags_of
from cifar10.runs.mlflow_store import MLflowStore, probe, reason_of
from cifar10.runs.record import RunRecord, Status

log = logging.getLogger(__name__)

_OPENING_SECONDS = 5.0  # that training waits for the store, so that checkpoints contain the run's id
_PROBED_SECONDS = 8.0  # that a run which requires the store waits for the first probe
_CREATION_SECONDS = 240.0  # that it waits for an available store to open, which several runs do one after the other
_RETRY_SECONDS = 5.0  # between attempts while the store is unavailable
_REFUSED_SECONDS = 60.0  # between attempts to send a record that the store refused
_UNAVAILABLE_SECONDS = 8.0  # that the end of a run waits for an unavailable store
_PATIENT_SECONDS = 60.0  # that it waits for an available one, since the last record was sent
_KILLED_SECONDS = 15.0  # the same for a run that was stopped by a signal: a second signal may follow soon
_SILENT_SECONDS = 3.0  # of waiting without a message
_SAMPLING_SECONDS = 10.0  # of system metrics

Job = Callable[[MLflowStore], object]


def missing_store(reason: str) -> UserError:
    """Return the error of a run that requires a store which cannot be used."""
    return UserError(
        f"{reason}; start it or correct tracking.uri (docker compose up mlflow starts a server), "
        "or train without it: tracking.required=false"
    )


class MLflowTracker:
    """Sends a run to MLflow from a thread, which also opens the store.

    Args:
        config: Store and experiment.
        record: The run. It is created if its store does not know it.
    """

    def __init__(self, config: TrackingConfig, record: RunRecord) -> None:
        self.config = config
        self.record = record
        self.uri = config.uri
        self.store: MLflowStore | None = None
        self.failure: str | None = None
        """Why the store does not accept the record now, if it does not."""
        self._is_unavailable = False
        self._is_abandoned = False  # the run ends before it has begun
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._unsent: list[Job] = []
        self._epochs: dict[int, tuple[int, dict[str, float]]] = {}  # with the time, so that a repeated one is equal
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
        return self.store.run_id if self.store is not None else self.record.run_id

    def wait_until_open(self) -> None:
        """Return when the store is open, is known to be unavailable, or takes too long.

        Raises:
            UserError: It is not open, and `required` is set.
        """
        if not self.config.required:
            self._settled.wait(_OPENING_SECONDS)
            return
        if self._probed.wait(_PROBED_SECONDS):
            self._settled.wait(_CREATION_SECONDS)
        if self.store is None:
            self._is_abandoned = True
            self._jobs.put(None)
            raise missing_store(self.failure or f"MLflow at {shown_uri(self.uri)} could not be opened in time")

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None:
        """Send the information known before the first step: settings, tags, and `data` (name, digest, source)."""
        self.record.begin(tags, data)
        values, all_tags = parameters_of(parameters), tags_of(self.record, {})
        self._jobs.put(lambda store: _send_settings(store, values, all_tags))
        self._jobs.put(lambda store: store.client.log_inputs(store.run_id, data_sets(data)))

    def log_history(self, history: list[dict[str, float]]) -> None:
        """Send every epoch that the store lacks; `epoch` counts from 0 and is MLflow's step."""
        now = int(time.time() * 1000)
        epochs = {int(entry["epoch"]): entry for entry in history}
        self._epochs = {epoch: self._epochs.get(epoch, (now, entry)) for epoch, entry in epochs.items()}
        self._jobs.put(self._send_epochs)

    def log_scores(self, scores: dict[str, float], step: int) -> None:
        """Send the final scores that the last epoch lacks, and a description of the run that states them."""
        now = int(time.time() * 1000)
        _, of_epoch = self._epochs.get(step, (now, {}))
        final = {key: value for key, value in scores.items() if key not in of_epoch}
        tags = {NOTE: note(self.record.tags, scores)}
        self._jobs.put(lambda store: store.send(metrics(final, now, step), tags=tags))

    def log_file(self, path: Path, folder: str) -> None:
        """Send a file into the run's artifacts."""
        self._jobs.put(lambda store: store.send_file(path, folder))

    def flush(self) -> None:
        """Return once everything has been sent, or tried; after a minute at the latest."""
        done = threading.Event()
        self._jobs.put(lambda _: done.set())
        done.wait(_PATIENT_SECONDS)

    def finish(self, status: Status) -> None:
        """Send the remaining records, close the run as FINISHED, FAILED or KILLED, and warn if something is missing."""
        self.record.close(status)
        if status != "FINISHED" and (self.record.folder / "history.csv").exists():
            self.log_file(self.record.folder / "history.csv", "")
        self._jobs.put(lambda store: store.client.set_terminated(store.run_id, status, self.record.ended))
        self._deadline = time.monotonic() + _UNAVAILABLE_SECONDS
        self._progressed = time.monotonic()
        self._jobs.put(None)
        self._wait_for_end(_KILLED_SECONDS if status == "KILLED" else _PATIENT_SECONDS)
        if self._thread.is_alive() or self._unsent:
            reason = self.failure or f"MLflow at {shown_uri(self.uri)} did not accept everything in time"
            log.warning(
                "MLflow's record of this run has gaps: %s. The run's folder is complete; record it later with: %s",
                reason,
                sync_line(self.record.folder, self.config),
            )

    def describe(self) -> str:
        """Return the line to type, or the page to open, to see the run."""
        if self.store is None:
            return f"not in MLflow at {shown_uri(self.uri)} yet: {sync_line(self.record.folder, self.config)}"
        return self.store.address()

    def _wait_for_end(self, patience: float) -> None:
        """Wait for the thread, up to `patience` seconds after the last record that an available store accepted."""
        self._thread.join(_SILENT_SECONDS)
        if self._thread.is_alive() and not self._is_unavailable:
            log.warning("waiting for MLflow at %s to accept the rest of the record", shown_uri(self.uri))
        while self._thread.is_alive():
            available = 4 * patience if self.store is None else patience  # opening takes longest
            if time.monotonic() > self._progressed + (_UNAVAILABLE_SECONDS + 1 if self._is_unavailable else available):
                return
            self._thread.join(0.2)

    def _work(self) -> None:
        """Collect jobs and send them: when there are new ones, and again at intervals."""
        while self._take():
            self._sample_system()
            self._try()
        while not self._is_abandoned:
            self._try()
            given_up = time.monotonic() > (self._deadline or 0)
            if (self.store is not None and not self._unsent) or not self._is_unavailable or given_up:
                return
            time.sleep(0.5)

    def _take(self) -> bool:
        """Wait for jobs, or until a retry or a sample is due; return False at the end of the run."""
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=self._pause())
            while job is not None:
                if job not in self._unsent:
                    self._unsent.append(job)
                job = self._jobs.get_nowait()
            return False
        return True

    def _pause(self) -> float | None:
        """Return the seconds until the next retry or sample, None if none is due."""
        if not self._settled.is_set():
            return 0.0
        pauses = []
        if self.failure is not None:
            pauses.append(_RETRY_SECONDS if self._is_unavailable else _REFUSED_SECONDS)
        if self._monitor is not None:
            pauses.append(max(self._next_sample - time.monotonic(), 0.0))
        return min(pauses, default=None)

    def _try(self) -> None:
        """Send as many jobs as possible, and report when this starts to fail or works again."""
        if self.store is not None and not self._unsent:
            return
        try:
            probe(self.uri)
            self._is_unavailable = False
            self._probed.set()
            store = self.store or self._open()
            failure = self._send_unsent(store)
        except Exception as error:  # no error may reach training
            self._is_unavailable = True
            failure = reason_of(error)
        self._report(failure)
        self._probed.set()
        self._settled.set()

    def _open(self) -> MLflowStore:
        """Open the store, and find or create the run in it."""
        store = MLflowStore(self.config, self.record)
        if not store.is_new:
            store.client.update_run(store.run_id, status="RUNNING")
            self._sent_epochs = store.steps(EPOCH_METRIC)
        self.record.run_id = store.run_id
        self.store = store
        if self.config.system_metrics:
            self._watch_system(store)
        return store

    def _send_unsent(self, store: MLflowStore) -> str | None:
        """Try each unsent job, and keep those that fail; return the reason if any did.

        Neither order nor repetition matters: MLflow keeps one of equal entries. If the store becomes unavailable
        meanwhile, a StoreError is raised.
        """
        reason = None
        for job in list(self._unsent):
            try:
                job(store)
                self._unsent.remove(job)
                self._progressed = time.monotonic()
            except Exception as error:  # no error may reach training
                reason = f"MLflow at {shown_uri(self.uri)} did not accept a record: {reason_of(error)}"
                probe(self.uri)
        return reason

    def _report(self, failure: str | None) -> None:
        """Log that records cannot be sent, or that they can be again, unless an error or the end reports it."""
        is_reported = self._is_abandoned or self._deadline is not None
        is_reported |= self.config.required and not self._settled.is_set()
        if failure is not None and self.failure is None and not is_reported:
            log.warning("%s; training continues, and the record is sent when the store is available", failure)
        if failure is None and self.failure is not None and not self._is_abandoned:
            log.warning("MLflow at %s is available again, and has received what it missed", shown_uri(self.uri))
        self.failure = failure

    def _send_epochs(self, store: MLflowStore) -> None:
        fresh = {epoch: entry for epoch, entry in self._epochs.items() if epoch not in self._sent_epochs}
        store.send([metric for epoch, (now, scores) in fresh.items() for metric in metrics(scores, now, epoch)])
        self._sent_epochs |= fresh.keys()

    def _watch_system(self, store: MLflowStore) -> None:
        """Prepare MLflow's monitors of CPU, memory, disk, network and GPU; MLflow's own thread ends at an error."""
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(store.run_id, tracking_uri=store.client.tracking_uri)
            self._measure_system()  # CPU use is counted from here
        except Exception as error:
            log.warning("system metrics cannot be measured: %s", reason_of(error))
        self._next_sample = time.monotonic() + _SAMPLING_SECONDS

    def _sample_system(self) -> None:
        if self._monitor is None or time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + _SAMPLING_SECONDS
        now = int(time.time() * 1000)
        step = round((now - self.record.started) / (1000 * _SAMPLING_SECONDS))  # continues after a resume
        entries = metrics(self._measure_system(), now, step)
        self._unsent.append(lambda store: store.send(entries))

    def _measure_system(self) -> dict[str, float]:
        """Return the measurements of MLflow's monitors since the last call, nothing if one of them fails."""
        with contextlib.suppress(Exception):
            self._monitor.collect_metrics()
            measured = self._monitor.aggregate_metrics()
            for part in self._monitor.monitors:
                part.clear_metrics()
            return {f"system/{key}": value for key, value in measured.items()}
        return {}


def _send_settings(store: MLflowStore, values: dict[str, str], tags: dict[str, str]) -> None:
    """Send parameters and tags. MLflow lets no parameter change, so one that a resume has changed becomes a tag."""
    known = store.client.get_run(store.run_id).data.params
    changed = {f"resumed.{key}": value for key, value in values.items() if known.get(key, value) != value}
    new = {key: value for key, value in values.items() if key not in known}
    store.send(params=new, tags={**tags, **changed})
