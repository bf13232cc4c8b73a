"""What does a small sweep on CIFAR-10 find, how long does it take, and how much of it is saved by stopping early?

    python benchmarks/sweeping.py --root data [--trials 16] [--epochs 3] [--pictures docs/_static]

Runs `sweep experiment=teaching sweep=teaching` on four classes of CIFAR-10, 10,000 training and 10,000 validation
images, in this process. The best trial is tested in the end. With --pictures, two figures of the report are written as
PNG files.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
from measuring import REPOSITORY, table, write_results

from cifar10.analysis.report import png_of
from cifar10.analysis.sweep_figures import learning_curves, slices
from cifar10.analysis.sweep_results import SweepResults, plain_results, shown_value
from cifar10.config.sweep_plan import plan_sweep
from cifar10.studies.opening import open_storage
from cifar10.sweep import SweepRequest, sweep

mpl.use("agg")

_WORDS = (
    *("experiment=teaching", "sweep=teaching", "data_loading.classes=[airplane,automobile,ship,truck]"),
    *("data_loading.validation_size=10000", "tracking=none"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY / "data", help="holds cifar-10-batches-py")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="a folder for two figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweeping_") as scratch:
        words = [*_WORDS, f"training.epochs={arguments.epochs}", f"models_dir={scratch}"]
        plan = plan_sweep([*words, f"data_loading.root={arguments.root.absolute()}"], trials=arguments.trials)
        folder = Path(scratch) / plan.study
        url = f"sqlite:///{folder / 'study.db'}"
        storage = open_storage(plan.study, folder, url, resume=False)
        started = time.perf_counter()
        results = sweep(SweepRequest(plan, storage, url, folder, arguments.trials, resume=False, test=True))
        seconds = time.perf_counter() - started
    if arguments.pictures is not None:
        for name, draw in {"sweep_slices": slices, "sweep_curves": learning_curves}.items():
            (arguments.pictures / f"{name}.png").write_bytes(png_of(draw(results)))
    raw = {"epochs": arguments.epochs, "seconds": seconds, **plain_results(results)}
    write_results("sweeping", "A small sweep on CIFAR-10: what it finds, and its time", report(results, seconds), raw)


def report(results: SweepResults, seconds: float) -> list[str]:
    """Return the best trials, the shares of the settings, and the times."""
    head = ["trial", results.metric, *results.keys]
    rows = [
        [trial.name, results.shown(trial.score), *(shown_value(trial.values[key]) for key in results.keys)]
        for trial in results.ranking[:5]
    ]
    shares = [f"{key} {share:.0%}" for key, share in results.importance.items()]
    times = [trial.seconds or 0.0 for trial in results.of_state("complete")]
    early = [trial.seconds or 0.0 for trial in results.of_state("pruned")]
    lines = [
        f"{len(results.trials)} trials: {results.counts()}. 10,000 training, 10,000 validation and 4,000 test images "
        "of four classes.",
        "",
        *table(head, rows),
        "",
        f"- share of the differences between the complete trials: {', '.join(shares)}",
        f"- test accuracy of the best trial: {results.test['test/accuracy']:.2%}",
        f"- whole sweep: {seconds:.0f} s; a complete trial takes {statistics.median(times):.1f} s (median)",
    ]
    if early:
        lines.append(f"- a trial that was stopped early takes {statistics.median(early):.1f} s (median)")
    return lines


if __name__ == "__main__":
    main()
