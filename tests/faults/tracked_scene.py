"""The real `train`, which reports to a real MLflow server, and what its store has to hold afterwards."""

import csv
import random
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.program import PROGRAM, run_program, wrong_ending
from tests.runs.mlflow_server import MLflowServer, wait_until
from tests.runs.recorded import record_problem

_EPOCHS = 25
RUN = (
    *("experiment=demo", "data_loading.image_size=16", "data_loading.train_size=2000", "model.width=16"),
    *("data_loading.validation_size=20", "data_loading.test_size=30", "run_name=run"),
)


class BrokenClaimError(Exception):
    """A claim does not hold; the message says what was seen."""


@dataclass
class Scene:
    """A server, and a training that reports to it."""

    folder: Path
    server: MLflowServer
    chance: random.Random
    epochs: int = _EPOCHS
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def run(self) -> Path:
        return self.folder / "models" / "run"

    def train(self) -> None:
        """Start the training."""
        words = (*RUN, f"training.epochs={self.epochs}", f"tracking.uri={self.server.uri}")
        with (self.folder / "train.log").open("wb") as log:
            self._process = subprocess.Popen([*PROGRAM, "train", *words], cwd=self.folder, stdout=log, stderr=log)

    def seconds_of_epochs(self) -> list[float]:
        """Return how long each finished epoch took."""
        file = self.run / "history.csv"
        if not file.exists():
            return []
        with file.open(newline="") as rows:
            return [float(row["seconds"]) for row in csv.DictReader(rows) if row["seconds"]]

    def reach(self, epoch: int) -> None:
        """Wait until so many epochs are finished.

        Raises:
            RuntimeError: The run has ended before, so that nothing could happen in it.
        """
        assert self._process is not None
        wait_until(lambda: self._has_ended() or len(self.seconds_of_epochs()) >= epoch, 300)
        if self._has_ended():
            raise RuntimeError(f"the run had ended before its store was touched: {self.messages()}")

    def bring_back(self) -> None:
        """Start the server; the training stands still until it responds, so that it responds in mid-run."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            self.server.start()
        finally:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Wait for the end of the training, which has to be a good one."""
        assert self._process is not None
        exit_code = self._process.wait(300)
        require(wrong_ending(exit_code, self.messages(), expected=0))

    def messages(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    def stop(self) -> None:
        """Kill what still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.server.kill()

    def sync_words(self) -> list[str]:
        """Return the command that the run has advised."""
        advice = re.search(r"record it later with: (.*)", self.messages())
        require("" if advice else f"no word of the gaps: {self.messages()[-300:]}")
        assert advice is not None
        line = shlex.split(advice[1])
        return line[line.index("sync") :]

    def sync(self) -> str:
        """Record the run later as advised, and return what was printed."""
        done = run_program(self.folder, *self.sync_words())
        require(wrong_ending(done.returncode, done.stderr, expected=0))
        return done.stdout

    def require_record(self) -> None:
        """Require that the store has all of the run once."""
        require(record_problem(self.server.database, self.server.files, self.run))

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def require(problem: str) -> None:
    """Raise a BrokenClaimError if there is a problem."""
    if problem:
        raise BrokenClaimError(problem)
