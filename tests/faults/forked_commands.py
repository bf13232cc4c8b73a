"""Command lines in processes of their own that start in milliseconds: forks of one that has imported the program.

Each has its own memory, standard streams, exit code and working folder, as if it were typed. No connection leaves this
machine: a proxy is named that is not there.
"""

import atexit
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cifar10.system.parent import end_with_parent

_ROOT = Path(__file__).resolve().parents[2]
_IMPORTED = (
    *(f"cifar10.{name}" for name in ("train", "infer", "evaluate", "export", "verify", "sync", "compare", "feedback")),
    *(f"cifar10.formats.{name}" for name in ("onnx", "parity", "safetensors")),
    *("cifar10.analysis.evaluation_report", "cifar10.inference.engines.pytorch", "cifar10.images.sources.folder"),
    *("onnx", "onnxruntime", "safetensors.torch", "torchvision", "yaml", "pyarrow.parquet", "fire", "jinja2"),
    *("matplotlib.pyplot", "torch._dynamo", "torchvision.datasets", "dvc", "filelock"),
)
_SECONDS = 120.0
_MOST_BYTES = 3 * 2**30
_MOST_LINES = 3
_NO_NETWORK = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:1"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}


@dataclass(frozen=True)
class Done:
    """What became of a command."""

    exit_code: int
    """Minus the number of the signal that ended it: -9 if it took two minutes, or 3 GB."""
    stdout: str
    stderr: str
    seconds: float
    """Of the clock."""
    processor_seconds: float
    gained_bytes: int
    """The most memory that it has used beyond that of the process it was forked from."""

    def refusal_problem(self) -> str:
        """Return what is wrong with a refusal: exit code 1 or 2, and at most three lines of error; "" if nothing is."""
        errors = [line for line in self.stderr.splitlines() if line.startswith(("error:", "help:"))]
        if self.exit_code not in (1, 2):
            return f"exit code {self.exit_code}: {self.last_line()}"
        if not errors:
            return f"no line begins with error: {self.last_line()}"
        return self.words_problem()

    def words_problem(self) -> str:
        """Return what is wrong with what was printed: a traceback, or more than three lines from the first error on."""
        lines = self.stderr.splitlines()
        first = next((number for number, line in enumerate(lines) if line.startswith("error:")), len(lines))
        if "Traceback" in self.stderr:
            return f"a traceback: {self.last_line()}"
        if len(lines) - first > _MOST_LINES:
            return f"{len(lines) - first} lines: {self.last_line()}"
        return ""

    def last_line(self) -> str:
        """Return the last line of stderr, shortened."""
        return (self.stderr.strip().splitlines() or ["nothing was printed"])[-1][:300]


class ForkedCommands:
    """A process that has imported the program, and forks itself for each command."""

    def __init__(self) -> None:
        environment = {**os.environ, **_NO_NETWORK, "MPLBACKEND": "agg", "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forked_commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=_ROOT,
            text=True,
        )
        self._streams = tempfile.TemporaryDirectory()

    def run(self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Done:
        """Run one command in a working folder."""
        [done] = self.run_at_once([words], folder, environment)
        return done

    def run_at_once(
        self,
        lines: Sequence[Sequence[str]],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        kill_after: float | None = None,
    ) -> list[Done]:
        """Run several commands in the same working folder, all at once; after `kill_after` seconds, kill the first."""
        names = [str(Path(self._streams.name) / str(number)) for number in range(len(lines))]
        requests = [
            {
                "words": list(words),
                "folder": str(folder),
                "environment": dict(environment or {}),
                "streams": name,
                "seconds": _SECONDS if kill_after is None or number else kill_after,
            }
            for number, (words, name) in enumerate(zip(lines, names, strict=True))
        ]
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(requests), file=self._process.stdin, flush=True)
        facts = json.loads(self._process.stdout.readline())
        return [
            Done(stdout=_read(f"{name}.out"), stderr=_read(f"{name}.err"), **about)
            for name, about in zip(names, facts, strict=True)
        ]

    def import_too(self, package: str) -> None:
        """Import a package before further commands are forked."""
        assert self._process.stdin is not None
        print(json.dumps(package), file=self._process.stdin, flush=True)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._streams.cleanup()


@cache
def forked_commands() -> ForkedCommands:
    """Return the process that all experiments share; it ends with this one."""
    shared = ForkedCommands()
    atexit.register(shared.close)
    return shared


def _read(name: str) -> str:
    return Path(name).read_text(encoding="utf-8", errors="replace")


def _serve() -> None:
    end_with_parent()
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        started = time.monotonic()
        requests = json.loads(line)
        if isinstance(requests, str):
            importlib.import_module(requests)
            continue
        waiting = {_forked(request): position for position, request in enumerate(requests)}
        facts: dict[int, dict[str, Any]] = {}
        while waiting:
            for pid in list(waiting):
                ended, status, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    position = waiting.pop(pid)
                    before = int(_read(f"{requests[position]['streams']}.kilobytes"))
                    facts[position] = {
                        "exit_code": os.waitstatus_to_exitcode(status),
                        "seconds": time.monotonic() - started,
                        "processor_seconds": usage.ru_utime + usage.ru_stime,
                        "gained_bytes": 1024 * (usage.ru_maxrss - before),
                    }
                elif time.monotonic() - started > requests[waiting[pid]]["seconds"] or _num_bytes(pid) > _MOST_BYTES:
                    os.killpg(pid, signal.SIGKILL)
            time.sleep(0.005)
        print(json.dumps([facts[position] for position in sorted(facts)]), flush=True)


def _num_bytes(pid: int) -> int:
    """Return how much memory a process uses."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forked(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    exit_code = 1
    try:
        end_with_parent()
        os.setpgid(0, 0)
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Path(f"{request['streams']}.kilobytes").write_text(str(kilobytes), encoding="ascii")
        for descriptor, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{request['streams']}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import commands
        from cifar10.cli.command_line import main

        exit_code = main(commands.COMMANDS, "", request["words"])
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


if __name__ == "__main__":
    _serve()
