"""D1, C4: several processes write the same files at the same time, others read them meanwhile, or one is killed."""

import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import Done, forked_commands
from tests.faults.readers import PHOTOS, SIMILAR, copy_photo
from tests.faults.trained_folder import EXPORTED, IMAGES, make_trained_folder, run
from tests.tiny_run import TINY

_PROCESSES = 4
_KILLED = -9
_TEMPORARY = re.compile(r"\..*\.tmp|.*\.partial|\.unpacking-.*")
_VARYING = re.compile(r"[0-9.,]+ (images/s|s\b)")


@dataclass(frozen=True)
class Race:
    """Commands that run at once."""

    writer: list[str]
    reader: list[str]
    """Runs after them, and reads what they wrote."""
    readers_meanwhile: int = 0
    """How many of the processes run the reader."""
    num_winners: int | None = None
    """How many writers may succeed; None: any number but none."""
    packages: tuple[str, ...] = ()


_INFER = ["infer", f"--test_dir={IMAGES}", "--format=jsonl"]
_OUTPUT = "answers.jsonl"
_OUT = "--output=exported"
RACES: dict[str, Race] = {
    "decoded photos": Race(PHOTOS, PHOTOS),
    "embeddings": Race(SIMILAR, SIMILAR),
    "an exported network": Race(["export", "tiny"], [*_INFER, f"--checkpoint_name={EXPORTED}"]),
    "an exported network, which others read": Race(["export", "tiny"], [*_INFER, f"--checkpoint_name={EXPORTED}"], 2),
    "a run of one name": Race(["train", *TINY, "run_name=new"], [*_INFER, "--checkpoint_name=new"], num_winners=1),
    "a new run, and others want the newest": Race(["train", *TINY, "run_name=new"], [*_INFER], 3),
    "an interrupted run": Race(["train", "--resume=tiny"], [*_INFER, "--checkpoint_name=tiny"]),
    "an evaluation": Race(
        ["evaluate", "tiny"], ["export", "tiny", "--temperature=models/tiny/evaluation", "--output=o"]
    ),
    "predictions": Race([*_INFER, f"--output={_OUTPUT}", "--receipts"], ["verify", _OUTPUT]),
    "images of the data set": Race(["data", *TINY, "--export_images"], ["infer", f"--test_dir={IMAGES}"]),
    "a comparison": Race(["compare", "tiny", "second"], ["compare", "tiny", "second"]),
    "a promotion": Race(
        ["promote", "tiny", "promotion.latency_factor=1000", "promotion.floor=0"],
        [*_INFER, "--checkpoint_name=models:/shapes@champion"],
        packages=("mlflow", "mlflow.tracking", "cifar10.promote", "cifar10.runs.registry"),
    ),
}
"""By what is written."""
FAULTS = [f"{what}{how}" for how in ("", ", and one writer is killed") for what in RACES]


def race(number: int, folder: Path) -> Iterator[Trial]:
    """Run each race in a copy of a folder with two runs."""
    prepared = make_trained_folder(folder / "prepared")
    run(prepared, "train", *TINY, "run_name=second", "seed=1")
    copy_photo(prepared)
    for seed, fault in enumerate(sample(FAULTS, number)):
        what, _, killed = fault.partition(", and one")
        moment = random.Random(seed).uniform(0.1, 1.0) if killed else None
        work = folder / "work"
        shutil.copytree(prepared, work)
        yield Trial(fault if moment is None else f"{fault} after {moment:.2f} s", _problem(RACES[what], work, moment))
        shutil.rmtree(work)


def _problem(race: Race, work: Path, moment: float | None) -> str:
    for package in race.packages:
        forked_commands().import_too(package)
    if race.readers_meanwhile and "run_name=new" not in race.writer:
        run(work, *race.writer)  # there is something to read
    writers = [race.writer] * (_PROCESSES - race.readers_meanwhile)
    done = forked_commands().run_at_once([*writers, *[race.reader] * race.readers_meanwhile], work, kill_after=moment)
    writing, reading = done[: len(writers)], done[len(writers) :]
    if problem := _of_each(writing, done, moment) or _of_winners(writing, race, moment):
        return problem
    if moment is None and (left := [path.name for path in work.rglob("*") if _TEMPORARY.fullmatch(path.name)]):
        return f"{left[0]} was left"
    if moment is not None and not any(each.exit_code == 0 for each in writing):
        run(work, *race.writer)
    after = forked_commands().run(race.reader, work)
    if after.exit_code:
        return f"cannot be read afterwards: {after.last_line()}"
    others = [each for each in reading if each.exit_code == 0 and _answer(each) != _answer(after)]
    return "a reader got another answer" if others and "run_name=new" not in race.writer else ""


def _of_each(writing: list[Done], done: list[Done], moment: float | None) -> str:
    """Return what is wrong with an ending: each succeeds or is refused; the first may have been killed."""
    for each in done:
        was_killed = moment is not None and each is writing[0] and each.exit_code == _KILLED
        if not was_killed and (problem := each.words_problem() if each.exit_code == 0 else each.refusal_problem()):
            return problem
    return ""


def _of_winners(writing: list[Done], race: Race, moment: float | None) -> str:
    winners = [each for each in writing if each.exit_code == 0]
    if race.num_winners is not None and len(winners) > race.num_winners:
        return f"{len(winners)} processes got it"
    if not winners and moment is None:
        return f"no process got it: {writing[0].last_line()}"
    answers = {_answer(each) for each in winners}
    return "their answers differ" if len(answers) > 1 and race.writer[0] in ("data", "similar", "evaluate") else ""


def _answer(done: Done) -> str:
    return _VARYING.sub("", done.stdout)


WRITTEN_AT_ONCE = Experiment(
    row="D1",
    name="written_at_once",
    claim="Of four processes that write the same files at once, each writes them whole or is refused; readers find "
    "whole files, also after one was killed.",
    run=race,
    short=2,
    full=len(FAULTS),
)
