"""What the benchmarks share: taking turns, ratios with their spread, and results that say where they come from."""

import itertools
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[1]))

from cifar10.files import cache_folder
from cifar10.runs.provenance import code_state, machine, versions

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_PROCESSOR_TIMES = Path("/proc/stat")


def _processor_times() -> list[int]:
    """Return how long processors were in each state since boot; the eighth is what a virtual machine's host kept."""
    try:
        return [int(field) for field in _PROCESSOR_TIMES.read_text().splitlines()[0].split()[1:9]]
    except OSError:  # not Linux
        return []


_AT_START = _processor_times()
_LOAD_AT_START = os.getloadavg()[0]

neighbour = ""
"""What the busy process does beside which a benchmark was started; see busy_process.py."""


def in_turn(
    ways: Mapping[str, Callable[[], float]], rounds: int, most_seconds: float = math.inf
) -> dict[str, list[float]]:
    """Let each of `ways` measure itself once a round, each round beginning with another one.

    Args:
        ways: Name -> makes a measurement, and returns its figure.
        rounds: How many, or fewer if `most_seconds` have passed.
        most_seconds: No round begins after that.

    Returns:
        For each way, its figure in each round.
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    names, began = list(ways), time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began > most_seconds:
            break
        start = number % len(names)
        for name in names[start:] + names[:start]:
            figures[name].append(ways[name]())
        shown = ", ".join(f"{name} {values[-1]:.4g}" for name, values in figures.items())
        print(f"round {number + 1} of {rounds}: {shown}", file=sys.stderr, flush=True)
    return figures


def wall_and_cpu(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and processor seconds of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def timed(command: Sequence[str], stdout: TextIO | int = sys.stderr) -> dict[str, float]:
    """Run `command` from the repository; return wall_seconds and cpu_seconds of its processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=stdout)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def forget_kernels() -> None:
    """Remove the kernels that earlier processes have compiled: the next process compiles its own, as the first does."""
    with suppress(FileNotFoundError):
        shutil.rmtree(cache_folder("kernels"))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Return median and range of the ratios within each round."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return spread(ratios, digits=3)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def median_interval(values: Sequence[float], digits: int) -> str:
    """Return the median and the ends of its 95 % interval: two of the sorted values, however they are distributed.

    The median lies below the k-th of n values with the probability of fewer than k heads in n throws of a coin.
    """
    ordered, n = sorted(values), len(values)
    tails = itertools.accumulate(math.comb(n, heads) / 2**n for heads in range(n))
    outside = sum(tail <= 0.025 for tail in tails)  # values at each end that the interval can do without
    low, high = (ordered[outside - 1], ordered[-outside]) if outside else (-math.inf, math.inf)
    return f"{statistics.median(ordered):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def write_results(name: str, title: str, body: Sequence[str], raw: Mapping[str, Any]) -> Path:
    """Write results/NAME_HARDWARE_DATE.md, with `raw` as JSON beside it, and print the text.

    Args:
        name: Of the question.
        title: First line of the text.
        body: Its lines, of Markdown.
        raw: Every single figure.
    """
    computer, command, time_made = machine(), " ".join(["python", *map(_without_folder, sys.orig_argv[1:])]), now()
    place = {"command": command, "made": time_made, "machine": computer, "versions": versions(), **code_state()}
    path = result_path(name, computer, time_made)
    text = "\n".join([f"# {title}", "", *origin(place), "", *body]) + "\n"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(text)
    path.with_suffix(".json").write_text(json.dumps({**place, **raw}, indent=2) + "\n")
    print(text)
    print(path, file=sys.stderr)
    return path


def _without_folder(word: str) -> str:
    """Return a word of a command with the name in place of an absolute path, which others do not have."""
    flag, equals, value = word.rpartition("=")
    return f"{flag}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def now() -> str:
    """Return the time, UTC, as results state it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def result_path(name: str, computer: Mapping[str, Any], time_made: str) -> Path:
    """Return results/NAME_HARDWARE_DATE.md, or, if there is such a file, the same with a number behind it.

    Results are added, never edited. Beside a busy process, "beside_" and what it does precede the name: such figures
    are not mistaken for others.
    """
    beside = f"beside_{neighbour}_" if neighbour else ""
    path = RESULTS / f"{beside}{name}_{hardware(computer)}_{time_made[:10]}.md"
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def newest_runs(experiment: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the runs of the newest result of a recipe on this kind of processor, and the name of its table.

    Args:
        experiment: A file of conf/experiment; only runs without overrides count.

    Returns:
        "" and nothing, if there is none.
    """
    here, found = machine(), []
    for path in [*RESULTS.glob(f"recipe_{experiment}_*.json"), *RESULTS.glob("race_cpu_*.json")]:
        result = json.loads(path.read_text())
        there = result["runs"][0]["machine"]
        is_here = (there["cpu"], there["cores"]) == (here["cpu"], here["cores"])
        if is_here and result["experiment"] == experiment and not result["overrides"]:
            found.append((result.get("made", ""), path.with_suffix(".md").name, result["runs"]))
    return max(found)[1:] if found else ("", [])


def origin(place: Mapping[str, Any]) -> list[str]:
    """Return the lines that say where figures come from."""
    computer = place["machine"]
    commit = str(place["git_commit"])[:12] + (" with changes" if place["git_dirty"] else "")
    company = [f"a process that {neighbour}"] if neighbour else []
    if _LOAD_AT_START >= 1:
        company.append(f"other work (load {_LOAD_AT_START:.1f} at its start)")
    beside = f"beside {' and '.join(company)}" if company else "alone on the machine"
    return [
        f"Command: `{place['command']}`, {beside}.",
        f"Machine: {computer['cpu']}, {computer['cores']} cores, GPU {computer['gpu']}.",
        f"CPU flags: {' '.join(computer['flags'])}.{_stolen()}",
        f"Versions: {', '.join(f'{key} {value}' for key, value in place['versions'].items())}. Commit {commit}.",
    ]


def _stolen() -> str:
    passed = [now - before for now, before in zip(_processor_times(), _AT_START, strict=True)]
    share = passed[7] / max(sum(passed), 1) if passed else 0.0
    return f" The host kept {share:.1%} of the processors' time for others." if passed else ""


def hardware(computer: Mapping[str, Any]) -> str:
    """Return a name for files: letters, digits and hyphens."""
    words = f"{computer['gpu'] or computer['cpu']} {computer['cores']} cores".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")
