"""Entry point of `compare_pooling`: ways to shrink feature maps -> a network for each, trained -> report, winner."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cifar10.analysis.pooling_report import pooling_numbers, pooling_report
from cifar10.analysis.pooling_results import PoolingResults, percent
from cifar10.config.advice import command_line
from cifar10.config.build import build, require_buildable
from cifar10.config.schema import Config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError, UserError
from cifar10.files import write_text
from cifar10.laboratory.evaluation import evaluate_runs, summarize_networks
from cifar10.laboratory.folder import Laboratory, open_laboratory
from cifar10.laboratory.progress import CURVES, LiveCurves, Show
from cifar10.laboratory.tracking import record_comparison
from cifar10.laboratory.winner import check_winner, keep_winner
from cifar10.laboratory.workers import train_side_by_side
from cifar10.runs.checkpoint_names import name_of_run
from cifar10.runs.provenance import code_state, machine, versions
from cifar10.system.limits import num_cpus
from cifar10.system.signals import if_stopped
from cifar10.system.streams import print_message
from cifar10.wording import counted

REPORT, RESULTS = "report.html", "results.json"


def compare_pooling(
    config: Config, resume: bool = False, show: Show | None = None, overrides: Sequence[str] | None = None
) -> PoolingResults:
    """Train each way with each seed, compare, and keep the winner as the run `config.run_name`; return the results.

    Args:
        config: With a section `pooling`, as from `experiment=pooling`.
        resume: Refuse to begin a new comparison; without it, one of this name is continued as well.
        show: Gets the learning curves as PNG, whenever they are drawn.
        overrides: What `config` was made of, for the line that continues; None: not from a command line.

    Raises:
        UserError: Settings, data or folders are not as needed, or no way could be trained.
    """
    _refuse_unfit(config)
    require_buildable(config)
    data: ImageDataset = build(DATA, config.data_loading)
    if not len(data.validation):
        raise UsageError("data_loading.validation_size=0: overfitting is measured on validation images; hold some out")
    laboratory = open_laboratory(config, must_exist=resume)
    again = "" if overrides is None else f": {command_line('compare_pooling', *overrides)}"
    try:
        return _compare(laboratory, data, show, again)
    finally:
        laboratory.claim.release()


def _refuse_unfit(config: Config) -> None:
    if config.pooling is None:
        raise UsageError("there is nothing to compare: add experiment=pooling")
    if config.run_name is None:
        raise UsageError("run_name=null: a comparison needs a name, by which it is continued; set run_name=NAME")
    if not config.training.batch_quartiles:
        raise UsageError("training.batch_quartiles=false: the learning curves show the quartiles; leave it out")
    if config.training.num_processes > 1:
        raise UsageError("training.devices: each run of a comparison is one process; set pooling.workers instead")
    if config.probe is not None or config.weights is not None:
        raise UsageError("probe and weights: a comparison trains from random weights; leave them out")


def _compare(laboratory: Laboratory, data: ImageDataset, show: Show | None, again: str) -> PoolingResults:
    """Train, compare and write; `again` ends the message of a stopped comparison."""
    started = time.monotonic()
    with if_stopped(f"while networks were trained; what is there is saved, and the same command goes on{again}"):
        failures = _train(laboratory, data, show)
    with if_stopped("while networks were compared; all are trained, and the same command repeats this part"):
        results = evaluate_runs(laboratory, data, failures)
        way, seed = results.winner
        winner = way.runs[seed]
        keep_winner(winner, results.labels["test"], data.class_names, laboratory.winner)
        checks = check_winner(laboratory.winner, winner.predictions["test"], laboratory.folder / "check.log")
        _write(laboratory, results, data, checks)
        _record(laboratory, results)
    _announce(laboratory, results, time.monotonic() - started)
    return results


def _train(laboratory: Laboratory, data: ImageDataset, show: Show | None) -> dict[str, str]:
    """Train all runs that are not finished; return run -> reason of those that failed."""
    curves = LiveCurves(laboratory, show)
    runs = {name: laboratory.config_of(name) for name in laboratory.runs}
    if done := len(laboratory.finished()):
        print_message(f"{done} of {counted(len(runs), 'run')} in {laboratory.folder} are finished already")
    try:
        for event in train_side_by_side(runs, _num_workers(laboratory), laboratory.folder, data):
            curves.take(event)
    finally:
        curves.close()
    return curves.failures


def _num_workers(laboratory: Laboratory) -> int:
    threads = laboratory.config.training.threads or num_cpus()
    return laboratory.pooling.workers or max(1, num_cpus() // threads)


def _write(laboratory: Laboratory, results: PoolingResults, data: ImageDataset, checks: list[tuple[str, str]]) -> None:
    networks = summarize_networks(laboratory, data)
    code, computer = code_state(), machine()
    origin = [
        ("data", f"{data.name}, SHA-256 {data.digest[:12]}"),
        ("settings", str(laboratory.folder / "settings.yaml")),
        ("optimizer", json.dumps(laboratory.config.optimizer.model_dump())),
        ("batches", f"{laboratory.config.training.batch_size} images"),
        ("machine", f"{computer['cpu']}, {computer['cores']} cores, {_num_workers(laboratory)} processes"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
        ("code", f"{code['git_commit'] or 'no commit'}, digest {code['code_digest'][:12]}"),
    ]
    pooling_report(results, networks, checks, origin).write(laboratory.folder / REPORT)
    numbers = {**pooling_numbers(results, networks), "checks": dict(checks), **dict(origin)}
    text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(laboratory.folder / RESULTS, f"{text}\n")


def _record(laboratory: Laboratory, results: PoolingResults) -> None:
    """Record everything in MLflow, if that is configured; an unavailable store costs a warning."""
    if laboratory.config.tracking.backend == "none":
        return
    files = [laboratory.folder / name for name in (REPORT, RESULTS, CURVES)]
    way, seed = results.winner
    names = [run.name for each in results.ways for run in each.runs.values()]
    try:
        print_message(f"tracked  {record_comparison(laboratory, names, way.runs[seed].name, files)}")
    except UserError as error:
        if laboratory.config.tracking.required:
            raise
        print_message(f"warning: {error}; the same command records it later")


def _announce(laboratory: Laboratory, results: PoolingResults, seconds: float) -> None:
    for way in results.ways:
        runs = list(way.runs.values())
        print(
            f"{way.name:<10} test {percent(results.accuracy(way, 'test'))}, validation "
            f"{percent(results.accuracy(way, 'validation'))}, {counted(len(runs), 'seed')}"
        )
    print("\n".join(results.verdict), flush=True)
    folder = laboratory.folder
    print_message(f"written  {folder}/: {REPORT}, {RESULTS}, {CURVES}; {seconds:.0f} s")
    name = name_of_run(Path(laboratory.winner))
    print(f"next     {command_line('infer', test_dir='DIR', checkpoint_name=name)}", file=sys.stderr, flush=True)
