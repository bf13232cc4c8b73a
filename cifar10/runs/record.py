"""The metadata of a run that its folder keeps for MLflow: `run.json` and `run_id`.

With them a run that MLflow did not record can be recorded later (`sync.py`). `run.json` holds a key that is a tag of
the run in MLflow, so that no run is recorded twice, even if the process ended before MLflow returned the run's id.
"""

import contextlib
import getpass
import json
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from cifar10.errors import UserError
from cifar10.files import read_text, write_text
from cifar10.system.process_identity import is_alive, this_process

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""As MLflow calls them."""

Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]

RECORD, RUN_ID = "run.json", "run_id"
_QUIET_SECONDS = 15 * 60  # a run on another machine has ended if its folder has not changed for so long


def _now() -> int:
    return int(time.time() * 1000)


@dataclass
class RunRecord:
    """Start and end of a run, and its tags and data set for MLflow. Times are milliseconds since 1970."""

    folder: Path
    name: str = ""
    """Name of the folder that the record was made for; older records have none."""
    key: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = field(default_factory=lambda: uuid.uuid4().hex)
    started: Milliseconds = field(default_factory=_now)
    ended: Milliseconds | None = None
    status: Status = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    """Name, digest and source."""
    process: dict[str, Any] = field(default_factory=dict)
    """The process that runs it; see `this_process`."""

    @classmethod
    def of(cls, folder: Path) -> "RunRecord | None":
        """Return the record in `folder`; None if it has no readable `run.json`, as in folders of older versions."""
        try:
            values = json.loads(read_text(folder / RECORD))
            return TypeAdapter(cls).validate_python({**values, "folder": folder})
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it has one."""
        try:
            return read_text(self.folder / RUN_ID).strip() or None
        except (OSError, ValueError):
            return None

    @run_id.setter
    def run_id(self, run_id: str | None) -> None:
        if run_id is None:
            (self.folder / RUN_ID).unlink(missing_ok=True)
        else:
            write_text(self.folder / RUN_ID, run_id + "\n")

    def begin(self, tags: dict[str, Any], data: dict[str, str]) -> None:
        """Write the id of this process and the metadata known before the first step."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # the user of a container may have no name
            user = None
        tags = {
            **tags,
            "mlflow.user": user,
            "mlflow.source.name": "commands.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": tags.get("git_commit"),
        }
        self.tags = {key: str(value) for key, value in tags.items() if value is not None}
        self.data = data
        self.name = self.folder.name
        self.process = this_process()
        self.status, self.ended = "RUNNING", None
        self.save()

    def is_copied(self) -> bool:
        """Whether the folder is a copy of another one beside it; a renamed folder is not."""
        if self.name in ("", self.folder.name):
            return False
        original = RunRecord.of(self.folder.with_name(self.name))
        return original is not None and original.key == self.key

    def end(self, status: Status, ended: int | None = None) -> None:
        """Write the status, and the time of the end: by default now, but not before the start."""
        self.status, self.ended = status, max(ended or _now(), self.started)
        self.save()

    def close(self, status: Status) -> None:
        """Write that the run ends now; ignore a full disk, which is reported elsewhere."""
        with contextlib.suppress(UserError, OSError):
            self.end(status)

    def save(self) -> None:
        """Write `run.json`.

        Raises:
            UserError: It could not be written; the previous content is unchanged.
        """
        values = asdict(self)
        del values["folder"]
        write_text(self.folder / RECORD, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def is_running(self) -> bool:
        """Whether the run may still be running: its process is alive, or, on another machine, its folder changes."""
        if self.ended is not None:
            return False
        alive = is_alive(self.process)
        return time.time() - self.changed() < _QUIET_SECONDS if alive is None else alive

    def changed(self) -> float:
        """Return when the training last wrote to the folder, in seconds since 1970."""
        files = [file for file in self.folder.iterdir() if file.is_file() and file.name not in (RECORD, RUN_ID)]
        return max((file.stat().st_mtime for file in files), default=self.started / 1000)
