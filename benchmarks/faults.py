"""How many faults does the program survive? The full form of the fault bench of tests/faults.

    python benchmarks/faults.py                      # all experiments: some hours on two cores
    python benchmarks/faults.py --list               # their names and claims
    python benchmarks/faults.py --only C1 killed_while_saving
    python benchmarks/faults.py --short --folder DIR

Each experiment makes its faults on purpose, and counts those after which its claim holds. Where a check could pass
although nothing was tested, a control makes the same faults without the protection, and the check has to notice at
least one of them. What an experiment has found is kept in --folder at once: the same command later continues with the
next experiment. What was found with other code is made again, unless --any_code is given. The full form, of some rows
as well, writes its table into benchmarks/results.

Exit codes: 0 if each fault was survived and each control noticed one; 1 if not; 130 after Ctrl-C.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, table, write_results

sys.path.insert(0, str(REPOSITORY))

from cifar10.runs.provenance import code_state
from cifar10.suggest import did_you_mean
from tests.faults.bench import EXPERIMENTS
from tests.faults.experiment import Experiment, Run, Trial

_CONTROL_TRIALS = 5
_MOST_LISTED = 1000
_MARKER = ".fault_bench"
"""An empty file in each folder that this script has made, and in no other one: it deletes what is in them."""
_CODE = ("cifar10", "conf", "commands.py", "tests", "benchmarks/faults.py")


def main() -> int:
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(f"{each.row}  {each.name}: {each.claim}" for each in EXPERIMENTS))
        return 0
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # of each process that an experiment starts
    print(f"what is found is kept in {arguments.folder}", file=sys.stderr)
    chosen = [each for each in EXPERIMENTS if not arguments.only or {each.row, each.name} & set(arguments.only)]
    try:
        found = [found_or_made(each, arguments) for each in chosen]
    except KeyboardInterrupt:
        print("stopped; the same command continues with the experiment that was stopped", file=sys.stderr)
        return 130
    if arguments.short:
        print("\n".join(report(found)))
    else:
        facts = {"experiments": [kept(each) for each in found]}
        write_results("faults", "Faults that were made, and survived", report(found), facts)
    return 0 if all(map(is_survived, found)) else 1


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print row, name and claim of each experiment, and stop")
    parser.add_argument("--only", nargs="+", default=[], type=known_name, metavar="ROW|NAME")
    parser.add_argument("--short", action="store_true", help="as many faults as the tests make; writes no result file")
    parser.add_argument("--any_code", action="store_true", help="take what another version of the code has found too")
    default = Path(tempfile.gettempdir(), "fault_bench")
    parser.add_argument("--folder", default=str(default), help=f"of this script alone ({default})")
    arguments = parser.parse_args(words)
    if not arguments.list:
        try:
            arguments.folder = own_folder(arguments.folder)
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --folder: {error}")
    return arguments


def known_name(word: str) -> str:
    """Return the row or name of an experiment."""
    names = [name for each in EXPERIMENTS for name in (each.row, each.name)]
    name = word if word in names else word.replace(" ", "_")
    if name not in names:
        raise argparse.ArgumentTypeError(f"there is no {word!r}{did_you_mean(word, names)}; --list prints all names")
    return name


def own_folder(word: str) -> Path:
    """Return a folder of this script, made if it does not exist."""
    folder = Path(word).absolute()
    if not word or REPOSITORY in (folder, *folder.parents):
        # Below the project, a command prints a note before its answer.
        raise argparse.ArgumentTypeError(f"must be outside of {REPOSITORY}")
    try:
        if not (folder / _MARKER).exists() and folder.exists() and any(folder.iterdir()):
            raise argparse.ArgumentTypeError(f"{word} has files of others, which would be deleted; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{word} cannot be used: {error.strerror}") from None
    return folder


def found_or_made(experiment: Experiment, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the experiment found: read from the folder if it was made there with this code, else made now."""
    folder, is_short = arguments.folder, arguments.short
    kept = folder / f"{experiment.name}{'.short' if is_short else ''}.json"
    code = code_version()
    found = read(kept)
    if found and (arguments.any_code or found["commit"] == code):
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
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(kept)
    return found


def read(kept: Path) -> dict[str, Any]:
    """Return what an experiment found before; nothing if there is no such file, or it is damaged."""
    try:
        found: dict[str, Any] = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return found


def code_version() -> str:
    """Return the commit, with a digest of what was changed since; a digest of the package where there is no commit."""
    state = code_state()
    if state["git_commit"] is None:
        return f"digest {state['code_digest']}"
    command = ["git", "-C", str(REPOSITORY), "diff", "HEAD", "--", *_CODE]
    changes = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return f"{state['git_commit']}{f' with changes {hashlib.sha256(changes).hexdigest()}' if changes else ''}"


def is_survived(found: dict[str, Any]) -> bool:
    """Whether each fault was survived, and a control, if there is one, noticed a fault."""
    controls = found["control"]
    is_controlled = controls is None or any(trial["problem"] for trial in controls)
    return is_controlled and not any(trial["problem"] for trial in found["trials"])


def made(experiment: Experiment, run: Run, number: int, folder: Path) -> list[dict[str, str]]:
    """Return the trials of `run`, made in an empty folder, and print each."""
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
        rows.append(
            [*words, f"{tried:,}", survived, control(each), f"{each['seconds'] / 60:.1f}", short(each["commit"])]
        )
        problems += [f"- {each['row']}, {trial['fault']}: {trial['problem']}" for trial in failed]
        not_made += [f"- {each['row']}, {trial['fault']}: {trial['obstacle']}" for trial in impossible]
    head = ["row", "faults", "claim", "tried", "survived", "control", "minutes", "code"]
    outcome = ["", "Not survived:" if problems else "All were survived.", *problems]
    return [*table(head, rows), *outcome, *(["", "Not possible on this machine:", *not_made] if not_made else [])]


def short(code: str) -> str:
    """Return a code version as the table has it."""
    commit, _, changes = code.partition(" ")
    return f"{commit[:7]}, changed" if changes.startswith("with") else code[:14] if changes else commit[:7]


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
    sys.exit(main())
