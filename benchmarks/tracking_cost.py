"""Which part of a run's time does MLflow take?

    python benchmarks/tracking_cost.py [--rounds 5] [--epochs 40] [--steps 50]

Trains a small network on the built-in shapes with tracking=mlflow (a SQLite file) and tracking=none in turn, each run
in a process of its own, with epochs that are far shorter than anybody's: whatever is paid once an epoch shows. Both
must learn the same weights. Stated are the fit, in which the share is sought, and what comes before it (MLflow's
import; the first run of all also makes the tables) and after it. A share of the default recipe, whose epochs are long,
is extrapolated: the seconds that an epoch gained, over those of an epoch in the newest result of recipe.py on this kind
of processor.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import in_turn, newest_runs, spread, table, write_results

_BATCH_SIZE = 20
_BACKENDS = ("none", "mlflow")
_PHASES = ("open", "fit", "close")


def main() -> None:
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments.one, recipe(arguments))))
        return
    runs: dict[str, list[dict[str, Any]]] = {backend: [] for backend in _BACKENDS}
    with tempfile.TemporaryDirectory(prefix="tracking_") as scratch:

        def run(backend: str) -> float:
            command = [sys.executable, __file__, f"--one={backend}", f"--store={scratch}"]
            command += [f"--epochs={arguments.epochs}", f"--steps={arguments.steps}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[backend].append(json.loads(done.stdout.splitlines()[-1]))
            return float(runs[backend][-1]["fit"]["wall"])

        run("mlflow")
        first = runs["mlflow"].pop()
        in_turn({backend: lambda backend=backend: run(backend) for backend in _BACKENDS}, arguments.rounds)  # type: ignore[misc]
    assert len({each["digest"] for found in runs.values() for each in found}) == 1, "tracking changed what is learnt"
    body = report(runs, first, arguments.epochs, default_epoch())
    write_results("tracking_cost", "What MLflow's record costs a run", body, {"runs": runs, "first": first})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50, help=f"of {_BATCH_SIZE} images, in each epoch")
    parser.add_argument("--store", type=Path, default=Path("mlruns"), help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=_BACKENDS, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def report(
    runs: dict[str, list[dict[str, Any]]], first: dict[str, Any], epochs: int, default: tuple[float, str] | None
) -> list[str]:
    rows = [
        [f"{phase}, {clock} s", *(spread([run[phase][clock] for run in runs[backend]], 3) for backend in _BACKENDS)]
        for phase in _PHASES
        for clock in ("wall", "cpu")
    ]
    pairs = list(zip(runs["none"], runs["mlflow"], strict=True))
    gains = {clock: [with_["fit"][clock] - bare["fit"][clock] for bare, with_ in pairs] for clock in ("wall", "cpu")}
    walls = [bare["fit"]["wall"] for bare, _ in pairs]
    shares = [100 * gain / wall for gain, wall in zip(gains["wall"], walls, strict=True)]
    waits = {name: [1000 * with_["waited"][name] for _, with_ in pairs] for name in ("start", "log_history")}
    per_epoch = [1000 * gain / epochs for gain in gains["wall"]]
    lines = [
        f"{len(pairs)} pairs of runs with {epochs} epochs of {spread([wall / epochs for wall in walls], 3)} s.",
        "Medians, in brackets the range.",
        "",
        *table(["", "tracking=none", "tracking=mlflow"], rows),
        "",
        f"- share of the fit, wall: {spread(shares)} %",
        f"- wall time that an epoch gains: {spread(per_epoch)} ms; cpu time: "
        f"{spread([1000 * gain / epochs for gain in gains['cpu']])} ms",
        f"- of it, the training thread waits in the tracker: once {spread(waits['start'], 1)} ms, and "
        f"{spread([wait / epochs for wait in waits['log_history']], 3)} ms an epoch",
        f"- a store that is new takes {first['open']['wall']:.1f} s wall, {first['open']['cpu']:.1f} s cpu to open",
    ]
    if default is None:
        return [*lines, "- the default recipe has not been measured on this processor: no share can be extrapolated"]
    seconds, file = default
    least, middle, most = (x / 1000 / seconds for x in (min(per_epoch), statistics.median(per_epoch), max(per_epoch)))
    return [
        *lines,
        f"- extrapolated to the default recipe, {seconds:.0f} s an epoch ([{file}]({file})): {100 * middle:.4f} "
        f"({100 * least:.4f} to {100 * most:.4f}) %",
    ]


def default_epoch() -> tuple[float, str] | None:
    """Return the seconds of an epoch of the default recipe on this kind of processor, and the result it is from."""
    file, runs = newest_runs("fast")
    return (runs[0]["wall_seconds"] / runs[0]["epochs"], file) if runs else None


def measure(backend: str, words: list[str]) -> dict[str, Any]:
    """Train once as `words` say; return wall and cpu seconds of each phase, and those of waiting for the tracker."""
    from cifar10.config.build import build
    from cifar10.config.compose import load_config
    from cifar10.config.targets import DATA
    from cifar10.data.image_dataset import ImageDataset
    from cifar10.runs.checkpoints import digest_of
    from cifar10.runs.run import open_run
    from cifar10.system.memory import keep_memory_warm
    from cifar10.trainer import resolve_precision
    from cifar10.training.fitting import fit, make_network

    keep_memory_warm()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([*words, f"models_dir={folder}", f"tracking.backend={backend}"])
        data: ImageDataset = build(DATA, config.data_loading)
        network = make_network(config, data)
        marks = [clocks()]
        run = open_run(config, data, resolve_precision(config))
        marks.append(clocks())
        waited = Waiting(run.tracker)
        with contextlib.redirect_stderr(io.StringIO()):
            fit(network, config, data, run)
        marks.append(clocks())
        run.tracker.finish("FINISHED")
        marks.append(clocks())
        phases = {
            phase: {clock: after[clock] - before[clock] for clock in after}
            for phase, before, after in zip(_PHASES, marks, marks[1:], strict=False)
        }
        return {**phases, "waited": waited.seconds, "digest": digest_of(network.state_dict())}


def recipe(arguments: argparse.Namespace) -> list[str]:
    return [
        "data_loading=shapes",
        "data_loading.image_size=16",
        f"data_loading.train_size={_BATCH_SIZE * arguments.steps}",
        "data_loading.validation_size=20",
        "data_loading.test_size=10",
        "model=simple_cnn",
        f"training.batch_size={_BATCH_SIZE}",
        f"training.epochs={arguments.epochs}",
        "training.save_every_seconds=null",  # epochs are recorded when they are saved: here each of them
        "optimizer=adamw",
        "run_name=small",
        f"tracking.uri=sqlite:///{arguments.store}/mlflow.db",
        f"tracking.artifacts={arguments.store}/artifacts",
    ]


class Waiting:
    """Counts the seconds that calls of a tracker's methods take the thread that makes them, by method."""

    def __init__(self, tracker: Any) -> None:
        self.seconds = dict.fromkeys(("start", "log_history"), 0.0)
        for name in self.seconds:
            setattr(tracker, name, self._counting(name, getattr(tracker, name)))

    def _counting(self, name: str, method: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            started = time.perf_counter()
            method(*arguments, **named)
            self.seconds[name] += time.perf_counter() - started

        return call


def clocks() -> dict[str, float]:
    return {"wall": time.perf_counter(), "cpu": time.process_time()}


if __name__ == "__main__":
    main()
