"""How many faults does the program survive? The full form of the fault bench of tests/faults.

    python benchmarks/faults.py                      # all experiments: some hours on two cores
    python benchmarks/faults.py --only C1 killed_while_saving
    python benchmarks/faults.py --short --folder DIR

Each experiment makes its faults on purpose, and counts those after which its claim holds. Where a check could pass
although nothing was tested, a control makes the same faults without the protection, and has to fail. What an
experiment has found is kept in --folder at once: the same command later continues with the next one. What was found
with another version of the code is made again, unless --any_code is given.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, table, write_results

sys.path.insert(0, str(REPOSITORY))

from cifar10.runs.provenance import code_state
from tests.faults.bench import EXPERIMENTS
from tests.faults.experiment import Experiment, Run, Trial

_CONTROL_TRIALS = 5
_MOST_LISTED = 1000


def main() -> None:
    arguments = parse_arguments()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # of each process that an experiment starts
    arguments.folder.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in EXPERIMENTS if not arguments.only or {each.row, each.name} & set(arguments.only)]
    found = [found_or_made(each, arguments) for each in chosen]
    if arguments.short:
        print("\n".join(report(found)))
        return
    facts = {"experiments": [kept(each) for each in found]}
    write_results("faults", "Faults that were made, and survived", report(found), facts)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({each.row for each in EXPERIMENTS} | {each.name for each in EXPERIMENTS})
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="ROW|NAME")
    parser.add_argument("--short", action="store_true", help="as many faults as the tests make; writes no result file")
    parser.add_argument("--any_code", action="store_true", help="take what another version of the code has found too")
    parser.add_argument("--folder", type=Path, default=Path("faults"), help="keeps what was found until now")
    return parser.parse_args(words)


def found_or_made(experiment: Experiment, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the experiment found: read from the folder if it was made there with this code, else made now."""
    folder, is_short = arguments.folder, arguments.short
    kept = folder / f"{experiment.name}{'.short' if is_short else ''}.json"
    code = code_state()["git_commit"]
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        if arguments.any_code or found["commit"] == code:
            print(f"{experiment.name}: read from {kept}", file=sys.stderr, flush=True)
            return found
    found = {"row": experiment.row, "name": experiment.name, "claim": experiment.claim, "commit": code}
    if why := experiment.obstacle():
        return {**found, "obstacle": why, "trials": [], "control": None, "seconds": 0.0}
    started = time.monotonic()
    number = experiment.short if is_short else experiment.full
    found["trials"] = made(experiment, experiment.run, number, folder)
    found["control"] = made(experiment, experiment.control, _CONTROL_TRIALS, folder) if experiment.control else None
    found["seconds"] = time.monotonic() - started
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def made(experiment: Experiment, run: Run, number: int, folder: Path) -> list[dict[str, str]]:
    """Return the trials of `run`, made in an empty folder, and print each."""
    folder = folder.absolute()
    place = folder / experiment.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    kind = "" if run is experiment.run else ", control"
    before = Path.cwd()
    os.chdir(place)
    try:
        trials = [
            {key: text.replace(f"{folder}/", "").replace(f"{REPOSITORY}/", "") for key, text in vars(trial).items()}
            for trial in shown(run(number, place.absolute()), experiment, kind, number)
        ]
    finally:
        os.chdir(before)
    shutil.rmtree(place, ignore_errors=True)
    return trials


def shown(trials: Iterable[Trial], experiment: Experiment, kind: str, number: int) -> Iterator[Trial]:
    """Yield each of the `trials` again, after a line of progress."""
    for index, trial in enumerate(trials, 1):
        words = f"{experiment.row} {experiment.name}{kind} {index} of {number}: {trial.fault}"
        outcome = trial.problem or (f"not made: {trial.obstacle}" if trial.obstacle else "survived")
        print(f"{words}: {outcome}", file=sys.stderr, flush=True)
        yield trial


def report(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table, and a list of the faults that were not survived."""
    rows, problems, not_made = [], [], []
    for each in found:
        failed = [trial for trial in each["trials"] if trial["problem"]]
        impossible = [trial for trial in each["trials"] if trial["obstacle"]]
        tried = len(each["trials"]) - len(impossible)
        survived = each.get("obstacle") or f"{tried - len(failed):,}"
        words = [each["row"], each["name"].replace("_", " "), each["claim"]]
        rows.append([*words, f"{tried:,}", survived, control(each), f"{each['seconds'] / 60:.1f}", each["commit"][:7]])
        problems += [f"- {each['row']}, {trial['fault']}: {trial['problem']}" for trial in failed]
        not_made += [f"- {each['row']}, {trial['fault']}: {trial['obstacle']}" for trial in impossible]
    head = ["row", "faults", "claim", "tried", "survived", "control", "minutes", "code"]
    outcome = ["", "Not survived:" if problems else "All were survived.", *problems]
    return [*table(head, rows), *outcome, *(["", "Not possible on this machine:", *not_made] if not_made else [])]


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the result file keeps: of many faults that were survived only their number, which is their seeds."""
    trials = found["trials"]
    survived = [trial["fault"] for trial in trials if not trial["problem"] and not trial["obstacle"]]
    others = [trial for trial in trials if trial["problem"] or trial["obstacle"]]
    return {**found, "trials": others, "survived": survived if len(survived) <= _MOST_LISTED else len(survived)}


def control(found: dict[str, Any]) -> str:
    """Return how many faults without protection the check noticed."""
    trials = found["control"]
    if trials is None:
        return ""
    return f"{sum(bool(trial['problem']) for trial in trials)} of {len(trials)} noticed"


if __name__ == "__main__":
    main()
