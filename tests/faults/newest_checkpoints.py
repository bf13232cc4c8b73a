"""C4: the newest checkpoint is damaged, and one before it is there."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch

from cifar10.runs.checkpoints import digest_of
from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import Done, forked_commands
from tests.faults.trained_folder import CHECKPOINT, IMAGES, LAST, make_trained_folder

_EPOCHS = ("training.epochs=3", "training.monitor=val/loss")  # the best epoch need not be the last
_ADVISED = re.compile(r"--checkpoint_name=(\S+)$", re.MULTILINE)

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut at 10 %": lambda data: data[: len(data) // 10],
    "cut at 99 %": lambda data: data[: len(data) * 99 // 100],
    "its last byte missing": lambda data: data[:-1],
    "zeros at the end, as after a power cut": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "a bit flipped in the middle": lambda data: _flipped(data, len(data) // 2),
    "a thousand bits flipped": lambda data: _flipped(data, *random.Random(0).sample(range(len(data)), 1000)),
    "random bytes": lambda data: random.Random(1).randbytes(len(data)),
}
WAYS = {
    "--resume=tiny": (LAST, ["train", "--resume=tiny"]),
    "--resume=last": (LAST, ["train", "--resume=last"]),
    "infer": (CHECKPOINT, ["infer", f"--test_dir={IMAGES}"]),
    "evaluate last": (LAST, ["evaluate", "last", "--report=false"]),
}


def _flipped(data: bytes, *positions: int) -> bytes:
    flipped = bytearray(data)
    for position in positions:
        flipped[position] ^= 4
    return bytes(flipped)


def damage_the_newest(number: int, folder: Path) -> Iterator[Trial]:
    """Damage the checkpoint that a command would take, and look whether it says so and what it does then."""
    kept = make_trained_folder(folder / "kept", *_EPOCHS)
    (kept / "models" / "tiny" / "scores.json").unlink()  # as if it had been interrupted
    reference = _weights(kept / LAST)
    faults = [f"{damage}: {way}" for damage, way in product(DAMAGES, WAYS)]
    for fault in sample(faults, number):
        damage, _, way = fault.partition(": ")
        path, words = WAYS[way]
        work = folder / "work"
        shutil.copytree(kept, work)
        _replace(work / path, DAMAGES[damage]((work / path).read_bytes()))
        done = forked_commands().run(words, work)
        yield Trial(
            fault, _of_resuming(done, work, reference) if words[0] == "train" else _of_asking(done, words, work)
        )
        shutil.rmtree(work)


def _of_resuming(done: Done, work: Path, reference: str) -> str:
    """Return what is wrong with a run that went on from the checkpoint before the damaged one."""
    if done.exit_code or "Traceback" in done.stderr:
        return f"exit code {done.exit_code}: {done.last_line()}"
    if f"warning: {LAST}" not in done.stderr or f"goes on from {CHECKPOINT}" not in done.stderr:
        return f"it does not say so: {done.last_line()}"
    return "" if _weights(work / LAST) == reference else "the weights differ from those of the uninterrupted run"


def _of_asking(done: Done, words: list[str], work: Path) -> str:
    """Return what is wrong with a refusal that names another checkpoint, which must work."""
    if problem := done.refusal_problem():
        return problem
    advised = _ADVISED.search(done.stderr)
    if advised is None:
        return f"no way out is said: {done.last_line()}"
    others = [word for word in words if word not in ("best", "last")]
    again = forked_commands().run([*others, f"--checkpoint_name={advised[1]}"], work)
    return f"{advised[1]} is no way out: {again.last_line()}" if again.exit_code else ""


def _weights(path: Path) -> str:
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return digest_of(weights)


def _replace(path: Path, data: bytes) -> None:
    """Write another file of that name: the two checkpoints may be links to one file."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    os.replace(beside, path)


NEWEST_CHECKPOINT_CORRUPT = Experiment(
    row="C4",
    name="newest_checkpoint_corrupt",
    claim="Training goes on from the one before, says so, and ends with the weights of the uninterrupted run bit for "
    "bit; other commands refuse it and name a checkpoint that works.",
    run=damage_the_newest,
    short=4,
    full=len(DAMAGES) * len(WAYS),
)
