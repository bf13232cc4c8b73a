"""How long does the pooling laboratory train, against a plain loop; and what does it find on CIFAR-100?

    python benchmarks/pooling.py --root data [--epochs 100] [--seeds 0 1 2] [--rounds 1] [--words KEY=VALUE ...]

Each round, in turn: `python benchmarks/plain_pooling.py`, a DataLoader over tensors with batches of 128 and metrics of
each batch; and `python commands.py compare_pooling`, with the same networks, images, seeds and epochs, the validation
after each epoch included in both. Three times of each are compared, like with like:

- From the start of the process to the end of the last run: of the loop that is the whole process. Of ours it includes
  the start of its processes, compilation, checkpoints, the test of each run and the drawing of the learning curves.
- Training alone: of the loop all epochs; of ours from the opening of the first run to the end of the last one, which
  includes compilation, checkpoints, tests and drawing.
- Our whole command, with report, export and the check of the winner, against the whole loop, which has none of them.

A CPU without AMX and without AVX-512's bfloat16 computes in float32, with PyTorch's operators: `--words
training.precision=fp32` does so everywhere.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, forget_kernels, in_turn, ratio, spread, table, timed, write_results

from cifar10.analysis.paired_differences import Interval
from cifar10.analysis.pooling_results import percent, points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY / "data", help="holds cifar-100-python")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--words", nargs="*", default=[], help="further settings of ours")
    arguments = parser.parse_args()
    plain: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pooling_") as scratch:
        ways = {
            "plain loop": lambda: run_plain(arguments, plain),
            "laboratory": lambda: run_ours(arguments, Path(scratch), ours),
        }
        figures = in_turn(ways, arguments.rounds)
    words = f"{len(arguments.seeds)} seeds, {arguments.epochs} epochs{', with ' * bool(arguments.words)}"
    words += ", ".join(arguments.words)
    body = [*report(figures, plain, ours, words), "", *finding(ours[0]["results"])]
    raw = {"epochs": arguments.epochs, "seeds": arguments.seeds, "wall_seconds": figures, "plain": plain, "ours": ours}
    write_results(
        "pooling", "The pooling laboratory: training time compared with a plain loop, and test accuracy", body, raw
    )


def run_plain(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> float:
    """Run the loop in a process of its own, keep what it prints, and return its wall seconds."""
    command = [sys.executable, str(Path(__file__).with_name("plain_pooling.py")), f"--root={arguments.root.absolute()}"]
    command += [f"--epochs={arguments.epochs}", "--seeds", *map(str, arguments.seeds)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall = time.perf_counter() - started
    found.append({**json.loads(done.stdout), "wall_seconds": wall})
    return wall


def run_ours(arguments: argparse.Namespace, scratch: Path, found: list[dict[str, Any]]) -> float:
    """Run the comparison, keep what it writes, and return the wall seconds to the end of its last run."""
    name, seeds = f"round-{len(found)}", ",".join(map(str, arguments.seeds))
    words = [f"data_loading.root={arguments.root.absolute()}", f"training.epochs={arguments.epochs}", "tracking=none"]
    words += [f"pooling.seeds=[{seeds}]", f"run_name={name}", f"models_dir={scratch}", *arguments.words]
    started = time.time()
    forget_kernels()
    spent = timed([sys.executable, "commands.py", "compare_pooling", *words])
    folder = scratch / name / "laboratory"
    records = [json.loads(record.read_text()) for record in folder.glob("*/run.json")]
    opened = min(record["started"] for record in records) / 1000
    ended = max(record["ended"] for record in records) / 1000
    text = (folder / "results.json").read_text()
    results = json.loads(text.replace(f"{folder.parent.parent}/", ""))  # of this machine, and temporary
    of_runs = sum(json.loads(scores.read_text())["cpu_seconds"] for scores in folder.glob("*/scores.json"))
    seconds = {
        "wall_seconds": spent["wall_seconds"],
        "seconds_to_last_run": ended - started,
        "training_seconds": ended - opened,
        "cpu_seconds_of_runs": of_runs,
    }
    found.append({**seconds, "results": results})
    return float(found[-1]["seconds_to_last_run"])


def report(
    figures: dict[str, list[float]], plain: list[dict[str, Any]], ours: list[dict[str, Any]], words: str
) -> list[str]:
    """Return the comparison of times and, since both learn the same, of accuracies."""
    names = list(ours[0]["results"]["ways"])
    rows = []
    for name in names:
        of_plain = [run for each in plain for run in each["runs"] if run["way"] == name]
        of_ours = [run for each in ours for run in each["results"]["ways"][name]["runs"].values()]
        rows.append(
            [
                name,
                f"{1000 * statistics.median(second for run in of_plain for second in run['epoch_seconds']):.0f}",
                f"{1000 * statistics.median(run['epoch_seconds'] for run in of_ours):.0f}",
                f"{statistics.mean(run['test_accuracy'] for run in of_plain):.1%}",
                f"{statistics.mean(run['accuracy']['test'] for run in of_ours):.1%}",
            ]
        )
    head = ["way", "plain loop, ms an epoch", "ours, ms an epoch of one process", "test accuracy of the loop", "ours"]
    loop = figures["plain loop"]
    epochs_of_loop = [sum(sum(run["epoch_seconds"]) for run in each["runs"]) for each in plain]
    training, whole = ([each[key] for each in ours] for key in ("training_seconds", "wall_seconds"))
    return [
        f"{len(names)} ways, {words}; the plain loop has {plain[0]['threads']} threads, ours one process for each "
        "processor, with one thread.",
        "",
        *table(head, rows),
        "",
        f"- from the start to the end of the last run: ours {spread(figures['laboratory'], 1)} s, the loop "
        f"{spread(loop, 1)} s; ratio {ratio(figures['laboratory'], loop)}, n = {len(ours)}",
        f"- training alone: ours {spread(training, 1)} s, the loop {spread(epochs_of_loop, 1)} s; ratio "
        f"{ratio(training, epochs_of_loop)}",
        f"- our whole command, with report and check of the winner: {spread(whole, 1)} s; over the loop, which has "
        f"neither: {ratio(whole, loop)}",
        f"- processor time of all our runs: {spread([each['cpu_seconds_of_runs'] for each in ours], 0)} s",
    ]


def finding(results: dict[str, Any]) -> list[str]:
    """Return what the comparison of the first round has found."""
    head = ["way", "parameters", "multiplications", "test accuracy", "validation", "overfits from epoch", "gap"]
    rows = []
    for name, way in results["ways"].items():
        runs = list(way["runs"].values())
        begins = [run["overfitting_begins"] for run in runs if run["overfitting_begins"] is not None]
        since = f"{statistics.median(begins):.0f} ({min(begins)} to {max(begins)})" if begins else "not seen"
        gap = 100 * statistics.mean(run["gap_at_end"] for run in runs)
        accuracies = [percent(as_interval(way["accuracy"][split])) for split in ("test", "validation")]
        sizes = [f"{way[key]:,}" for key in ("parameters", "multiplications")]
        rows.append([name, *sizes, *accuracies, since, f"{gap:.1f} points"])
    differences = [
        [
            f"{each['first']} less {each['second']}",
            f"{points(as_interval(each['test_accuracy']))}",
            "yes" if each["beyond_chance"] else "no",
        ]
        for each in results["differences"]
    ]
    images = ", ".join(f"{number} {split}" for split, number in results["images"].items())
    return [
        f"Classes: {', '.join(results['classes'])}; {images} images. Intervals of 95 %: of accuracies over seeds, of "
        "differences over seeds and test images, and for all pairs together. Gap: training less validation accuracy at "
        "the end.",
        "",
        *table(head, rows),
        "",
        *table(["difference of test accuracy", "points", "beyond chance"], differences),
        "",
        *(f"- {sentence}" for sentence in results["verdict"]),
        *(f"- {check}: {Path(result).name}" for check, result in results["checks"].items() if "saved" not in check),
    ]


def as_interval(ends: dict[str, float | None]) -> Interval:
    value, low, high = (ends[name] for name in ("value", "low", "high"))
    return Interval(value or 0.0, float("-inf") if low is None else low, float("inf") if high is None else high)


if __name__ == "__main__":
    main()
