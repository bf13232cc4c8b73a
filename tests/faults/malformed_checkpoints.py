"""C4: files that are no checkpoints of this program, or hostile ones, in every command that takes a checkpoint."""

import gzip
import io
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import Done, forked_commands
from tests.faults.trained_folder import CHECKPOINT, EXPORTED, IMAGES, contents, make_trained_folder, run
from tests.runs.test_checkpoints import MALFORMED, Payload
from tests.test_train import BROKEN_STATES
from tests.tiny_run import TINY

_ROOT = Path(__file__).resolve().parents[2]
_BAD = Path("models/bad/best.ckpt")
_CANARY = Path("canary")
_PROCESSOR_SECONDS = 3.0
_GAINED_BYTES = 400e6
_IN_A_PROCESS_OF_ITS_OWN = 14  # each so many trials
_NEWEST = "infer, the newest run"
_PHOTO = f"{IMAGES}/ring"

COMMANDS: dict[str, list[str]] = {
    "infer": ["infer", f"--test_dir={IMAGES}", "--checkpoint_name=bad"],
    "evaluate": ["evaluate", "bad"],
    "export": ["export", "bad"],
    "train --resume": ["train", f"--resume={_BAD}"],
    "train weights=": ["train", *TINY, "weights=bad", "run_name=second"],
    "benchmark": ["benchmark", "bad"],
    "compare": ["compare", "bad", "tiny"],
    "reproduce": ["reproduce", "bad", "tracking=none"],
    "explore": ["explore", *TINY[1:5], "data_loading=shapes", "--checkpoint_name=bad"],
    _NEWEST: ["infer", f"--test_dir={IMAGES}"],
}
"""Each loads the file models/bad/best.ckpt."""

Make = Callable[[Path], object]
"""Writes the malformed file at a path; beside it are models/tiny and its images."""


def _good() -> bytes:
    return CHECKPOINT.read_bytes()


def _cut(part: float) -> Make:
    return lambda path: path.write_bytes(_good()[: int(len(_good()) * part)])


def _flipped(seed: int, count: int) -> Make:
    def make(path: Path) -> None:
        data, chance = bytearray(_good()), random.Random(seed)
        for _ in range(count):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)

    return make


def _raw_with(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(path: Path) -> None:
        raw = torch.load(CHECKPOINT, weights_only=True)
        change(raw)
        torch.save(raw, path)

    return make


def _all_not_a_number(raw: dict[str, Any]) -> None:
    for tensor in raw["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(1000):
            member.write(bytes(10**6))


def _many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50_000):
            archive.writestr(f"archive/data/{number}", b"")


def _claims(size: int) -> Make:
    """Return what writes an archive whose first member is said to have `size` bytes."""

    def make(path: Path) -> None:
        data = bytearray(_good())
        directory = data.index(b"PK\x01\x02")
        for offset in (20, 24):  # compressed and not
            data[directory + offset : directory + offset + 4] = size.to_bytes(4, "little")
        path.write_bytes(data)

    return make


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(CHECKPOINT, "data.pkl")


KINDS: dict[str, Make] = {
    **MALFORMED,
    **{f"cut at {part:.1%}": _cut(part) for part in (0.001, 0.1, 0.5, 0.9, 0.99, 0.999)},
    **{f"{count} bits flipped, {seed}": _flipped(seed, count) for seed, count in enumerate((1, 1, 1, 10, 100, 1000))},
    "its last byte missing": lambda path: path.write_bytes(_good()[:-1]),
    "its first byte missing": lambda path: path.write_bytes(_good()[1:]),
    "bytes in front": lambda path: path.write_bytes(b"#!/bin/sh\n" + _good()),
    "two of them": lambda path: path.write_bytes(_good() * 2),
    "compressed by gzip": lambda path: path.write_bytes(gzip.compress(_good())),
    "in a tar archive": _tar,
    "an ONNX file": lambda path: path.write_bytes(EXPORTED.read_bytes()),
    "a picture": lambda path: path.write_bytes(next(Path(_PHOTO).glob("*.png")).read_bytes()),
    "its configuration": lambda path: path.write_bytes(CHECKPOINT.with_name("config.yaml").read_bytes()),
    "random bytes": lambda path: path.write_bytes(random.Random(0).randbytes(100_000)),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "a bomb of 1 GB": _bomb,
    "50,000 members": _many_members,
    "a member of 2 GB": _claims(2**31 - 1),
    "a member of 4 GB": _claims(2**32 - 2),
    "a pipe": _fifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nowhere.ckpt"),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/random": lambda path: path.symlink_to("/dev/random"),
    "a link to a folder": lambda path: path.symlink_to(os.sep),
    "weights that are no numbers": _raw_with(_all_not_a_number),
    "TorchScript": lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
}

STATES: dict[str, Make] = {f"state: {kind}": _raw_with(change) for kind, change in BROKEN_STATES.items()}
"""Of the training; they matter for `train --resume` alone."""


def _system(marker: Path) -> bytes:
    """Return a pickle of protocol 0 that runs a shell."""
    return b"cposix\nsystem\n(Vmkdir -p '%b'\ntR." % os.fsencode(marker.absolute())


def _stack_global(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker.absolute()), protocol=4)


def _instance(marker: Path) -> bytes:
    return b"(V%b\nios\nmkdir\n." % os.fsencode(marker.absolute())


def _evaluated(marker: Path) -> bytes:
    return b"\x80\x02cbuiltins\neval\n(V__import__('os').mkdir(%b)\ntR." % repr(str(marker.absolute())).encode()


def _in_the_place_of_the_values(pickled: Callable[[Path], bytes]) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(CHECKPOINT) as good, zipfile.ZipFile(path, "w") as archive:
            for name in good.namelist():
                archive.writestr(name, pickled(_CANARY) if name.endswith("data.pkl") else good.read(name))

    return make


def _alone(pickled: Callable[[Path], bytes]) -> Make:
    return lambda path: path.write_bytes(pickled(_CANARY))


def _appended(raw: dict[str, Any]) -> None:
    raw["extra"] = Payload(_CANARY.absolute())


def _as_a_weight(raw: dict[str, Any]) -> None:
    raw["state_dict"][next(iter(raw["state_dict"]))] = Payload(_CANARY.absolute())


def _as_a_class_name(raw: dict[str, Any]) -> None:
    raw["cifar10"]["class_names"][0] = Payload(_CANARY.absolute())


def _as_a_setting(raw: dict[str, Any]) -> None:
    raw["cifar10"]["config"]["model"]["width"] = Payload(_CANARY.absolute())


PAYLOADS: dict[str, Make] = {
    "code as an entry": _raw_with(_appended),
    "code as a weight": _raw_with(_as_a_weight),
    "code as a class name": _raw_with(_as_a_class_name),
    "code as a setting": _raw_with(_as_a_setting),
    **{f"code by {how.__name__.strip('_')}": _alone(how) for how in (_system, _stack_global, _instance, _evaluated)},
    **{
        f"code by {how.__name__.strip('_')}, in an archive": _in_the_place_of_the_values(how)
        for how in (_system, _stack_global, _instance, _evaluated)
    },
}
"""Unpickling one of these makes a folder, the canary."""


def load_them(number: int, folder: Path) -> Iterator[Trial]:
    """Give `number` malformed files to the commands in turn."""
    make_trained_folder(folder)
    run(folder, "export", "tiny")
    makers = {**KINDS, **PAYLOADS, **STATES}
    for position, kind in enumerate(sample(_repeated(makers, number), number, seed=1)):
        name = kind.partition("#")[0]
        command = "train --resume" if name in STATES else list(COMMANDS)[position % len(COMMANDS)]
        is_own = position % _IN_A_PROCESS_OF_ITS_OWN == 0
        yield Trial(f"{command}: {name}", _problem(makers[name], command, folder, is_own))


def _repeated(makers: dict[str, Make], number: int) -> list[str]:
    """Return each kind as often as there are commands, if as many are wanted; #2 and so on mark repetitions."""
    times = max(1, number // len(makers))
    return [f"{kind}#{turn}" for turn in range(times) for kind in makers]


def _problem(make: Make, command: str, folder: Path, is_own: bool) -> str:
    bad = folder / _BAD
    bad.parent.mkdir()
    try:
        make(bad)
        if not bad.is_file() and command == _NEWEST:  # such a run has no checkpoint, and the one before is the newest
            command = "infer"
        before = contents(folder)
        done = _in_a_process(COMMANDS[command], folder) if is_own else forked_commands().run(COMMANDS[command], folder)
        if (folder / _CANARY).exists():
            return "the code in it ran"
        return _of_the_refusal(done, command) or ("" if contents(folder) == before else "files have changed")
    finally:
        _remove(bad.parent)
        _remove(folder / _CANARY)


def _of_the_refusal(done: Done, command: str) -> str:
    if done.exit_code == 3 and command.startswith("infer") and "not a number" in done.stdout:
        return done.words_problem()  # it is a checkpoint, and each of its rows has its reason
    if "training stopped" in done.stderr:  # its numbers are wrong, as the first step has shown
        return done.refusal_problem()
    if done.processor_seconds > _PROCESSOR_SECONDS:
        return f"{done.processor_seconds:.1f} s of the processor"
    if done.gained_bytes > _GAINED_BYTES:
        return f"{done.gained_bytes / 1e6:.0f} MB of memory"
    return done.refusal_problem()


def _in_a_process(words: list[str], folder: Path) -> Done:
    """Run the program itself; its imports are not measured."""
    done = subprocess.run(
        [sys.executable, str(_ROOT / "commands.py"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, 0.0, 0.0, 0)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        for entry in path.iterdir():
            _remove(entry)
        path.rmdir()
    elif path.exists():
        path.unlink()


def load_them_trustfully(number: int, folder: Path) -> Iterator[Trial]:
    """Load the hostile files as older programs do: the canary shows."""
    make_trained_folder(folder)
    os.chdir(folder)
    for kind in sample(PAYLOADS, number):
        PAYLOADS[kind](Path("bad.ckpt"))
        with suppress(Exception):  # after the code has run
            torch.load("bad.ckpt", weights_only=False)
        with suppress(Exception):
            pickle.load(io.BytesIO(Path("bad.ckpt").read_bytes()))
        yield Trial(kind, "the code in it ran" if _CANARY.exists() else "")
        _remove(_CANARY)


MALFORMED_CHECKPOINTS = Experiment(
    row="C4",
    name="malformed_checkpoints",
    claim="Refused in three lines or fewer, within 3 s and 400 MB; no code in it runs, and no file changes.",
    run=load_them,
    short=10,
    full=2 * len({**KINDS, **PAYLOADS, **STATES}),
    control=load_them_trustfully,
)
