"""K1: command lines that cannot be meant, typed at the real program."""

import resource
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.cli.wrong_lines import WRONG, write_folder
from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.program import PROGRAM, run_program

MOST_LINES = 3
_MOST_SECONDS = 1.0  # of the processor, in all processes
_RIGHT = ("config", "--help", "completion bash", "--version", "help train")


def type_wrong_lines(number: int, folder: Path) -> Iterator[Trial]:
    yield from _typed(sample(WRONG, number), folder)


def type_right_lines(number: int, folder: Path) -> Iterator[Trial]:
    yield from _typed(_RIGHT[:number], folder)


def _typed(lines: Iterable[str], folder: Path) -> Iterator[Trial]:
    """Yield a trial for each line, typed in a folder of its own; `fault` has the seconds of the processor."""
    place = folder / "here"
    for line in lines:
        place.mkdir()
        write_folder(place)
        before, used = state_of(place), _seconds_of_children()
        done = run_program(place, *line.split(" "))
        seconds = _seconds_of_children() - used
        said = done.stderr.replace(shlex.join(PROGRAM), "python commands.py")
        problem = wrong_refusal(done.returncode, done.stdout, said)
        if state_of(place) != before:
            problem = problem or f"files are {state_of(place)}"
        if WRONG.get(line, "") not in said:
            problem = problem or f"{WRONG[line]!r} is not said: {said}"
        if seconds > _MOST_SECONDS:
            problem = problem or f"{seconds:.2f} s of the processor"
        yield Trial(f"{line}: {seconds:.2f} s", problem)
        shutil.rmtree(place)


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of everything in a folder, by path."""
    found = {str(path.relative_to(folder)): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def wrong_refusal(exit_code: int, stdout: str, stderr: str) -> str:
    """Return why this is not a refusal in a few lines, or ""."""
    lines = stderr.splitlines()
    if "Traceback" in stderr:
        return f"a traceback: {stderr[-300:]}"
    if exit_code != 2 or stdout:
        return f"exit code {exit_code}, stdout {stdout[:100]!r}, stderr {stderr[-300:]!r}"
    if not stderr.startswith("error: "):
        return f"the first line is no error: {stderr[:200]!r}"
    of_errors = sum(line.startswith("error: ") for line in lines)
    return "" if len(lines) <= max(MOST_LINES, of_errors) else f"{len(lines)} lines: {stderr[:300]!r}"


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


WRONG_COMMAND_LINES = Experiment(
    row="K1",
    name="wrong_command_lines",
    claim="exit code 2, at most three lines with the way out, nothing started or written, within 1 s of processor time",
    run=type_wrong_lines,
    short=5,
    full=len(WRONG),
    control=type_right_lines,
    is_quick=True,
)
