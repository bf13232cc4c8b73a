"""C4: every kind of file that a command reads, damaged, exchanged or hostile, at the path where the command finds it.

Files that the package reads, and those that it trusts:

    checkpoints (.ckpt)                     an outline first, then `weights_only`; see malformed_checkpoints.py
    weights (.pth, .safetensors), TORCH_HOME   `weights_only` or safetensors; a published name needs its SHA-256
    exported networks (.onnx, external data)   ONNX Runtime; golden images are computed again
    native_int8.json                        a schema, the digest of its checkpoint, golden images
    ~/.cache/cifar10/engines/*.json         its numbers; what does not fit is measured again
    ~/.cache/cifar10/kernels/*.o            SHA-256 of each, and who may write to it; else it is compiled again
    CIFAR batches (pickles)                 MD5 of each before it is unpickled; SHA-256 of their archive
    *.dvc beside them                       a safe YAML loader; only names a remote of DVC's own configuration
    labels of `evaluate --honest`           SHA-256 of each; arrays without pickles; see analysis/test_honest.py
    photo store, embeddings (.npy, .npz)    arrays without pickles; what is damaged is made again
    config.yaml, scores.json, history.csv, run.json, run_id of a run      safe loaders, schemas
    evaluation/report.json, promotion.json  the digest of the weights they are about, and the types of their numbers
    marker of exported images (.digest)     compared with the data set; other text is refused
    groupings, search spaces, settings, comparisons (YAML)    safe loaders without references, schemas
    receipts (CSV, JSON Lines, Parquet), the journal of `infer`      every value by itself
    Parquet files of `batch`                their columns; the images by themselves; see test_batch.py
    lists of paths, zip and tar archives    every entry by itself; bad ones are rows
    corrections, studies, MLflow (SQLite)   SQLite's own checks, an application id; SHA-256 of each corrected image
    counts of incoming images (SQLite)      likewise; only the web page reads them: see serving/test_drift.py
    MLflow's models                         the checkpoint or ONNX file in them, which are loaded as such
"""

import io
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import Done, forked_commands
from tests.faults.poisons import CODE, POISONS
from tests.faults.reader import Reader
from tests.faults.readers import READERS
from tests.faults.trained_folder import make_trained_folder

_CANARY = "canary"
_VARYING = re.compile(r"[0-9.,]+ (images/s|s\b)|\"(seconds|wall_seconds|cpu_seconds)\": [0-9.]+")


def poison_them(number: int, folder: Path) -> Iterator[Trial]:
    """Spoil each kind of file in turn, in the ways that a seed chooses."""
    workplace = Workplace(folder)
    faults = [f"{reader}: {poison}" for poison in POISONS for reader in READERS]
    for seed, fault in enumerate(sorted(sample(faults, number))):  # those of a reader one after another
        name, _, poison = fault.partition(": ")
        if why := READERS[name].obstacle():
            yield Trial(fault, obstacle=why)
            continue
        yield Trial(fault, workplace.problem(READERS[name], name, poison, random.Random(seed)))


class Workplace:
    """A folder with a trained run; for each reader a copy with its file, and what the command says with and without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained = make_trained_folder(folder / "trained")
        self.canary = folder / _CANARY
        self._known: dict[str, tuple[Path, set[str]]] = {}
        self._folders: dict[Callable[[Path], object], Path] = {}

    def problem(self, reader: Reader, name: str, poison: str, chance: random.Random) -> str:
        """Spoil the file of a reader, and return what is wrong with what its command does then."""
        prepared, answers = self._prepared(reader, name)
        work = self.folder / "work"
        shutil.copytree(prepared, work, symlinks=True)
        try:
            POISONS[poison](_file(reader, work), self.canary, chance)
            return self._of(self._run(reader, work), reader, answers)
        finally:
            shutil.rmtree(work)
            if self.canary.exists():
                self.canary.rmdir()

    def _of(self, done: Done, reader: Reader, answers: set[str]) -> str:
        if self.canary.exists():
            return "the code in it ran"
        if done.exit_code in (1, 2) and not reader.is_verdict:
            return done.refusal_problem()
        if done.exit_code not in (0, 1, 2, 3) or (done.exit_code == 0 and not reader.works):
            return f"exit code {done.exit_code}: {done.last_line()}"
        if done.exit_code == 0 and reader.is_checked and _answer(done) not in answers:
            return f"another result without a word: {done.last_line()}"
        return done.words_problem()

    def _prepared(self, reader: Reader, name: str) -> tuple[Path, set[str]]:
        """Return the folder of a reader, and what its command says with the whole file and without one."""
        if name not in self._known:
            for package in reader.packages:
                forked_commands().import_too(package)
            prepared = self._made(reader.make)
            self._known[name] = prepared, {self._answered(reader, prepared, is_there) for is_there in (True, False)}
        return self._known[name]

    def _made(self, make: Callable[[Path], object]) -> Path:
        """Return a copy of the trained folder with what `make` adds, which several readers may share."""
        if make not in self._folders:
            work = self.folder / "work"
            shutil.copytree(self.trained, work)
            make(work)  # in the folder where it is read, since some files hold absolute paths
            self._folders[make] = work.rename(self.folder / f"made {len(self._folders)}")
        return self._folders[make]

    def _answered(self, reader: Reader, prepared: Path, is_there: bool) -> str:
        work = self.folder / "work"
        shutil.copytree(prepared, work)
        if not is_there:
            _file(reader, work).unlink()
        done = self._run(reader, work)
        assert not (is_there and reader.works) or done.exit_code in (0, 3), done.stderr
        shutil.rmtree(work)
        return _answer(done)

    def _run(self, reader: Reader, work: Path) -> Done:
        return forked_commands().run(reader.words, work, reader.environment)


def _file(reader: Reader, work: Path) -> Path:
    return max(work.glob(reader.path), key=lambda path: path.stat().st_size)


def _answer(done: Done) -> str:
    return _VARYING.sub("", done.stdout)


def _read_as_yaml(data: bytes) -> object:
    load: Any = yaml.unsafe_load
    return load(data)


def trust_them(number: int, folder: Path) -> Iterator[Trial]:
    """Read the files with code as trusting programs do: the canary shows."""
    canary = folder / _CANARY
    trusting: list[Callable[[bytes], object]] = [
        pickle.loads,
        lambda data: np.load(io.BytesIO(data), allow_pickle=True)[0],
        _read_as_yaml,
    ]
    for kind in sample(CODE, number):
        path = folder / "file"
        path.write_bytes(b"")
        POISONS[kind](path, canary, random.Random(0))
        for read in trusting:
            with suppress(Exception):
                read(path.read_bytes())
        yield Trial(kind, "the code in it ran" if canary.exists() else "")
        if canary.exists():
            canary.rmdir()


POISONED_FILES = Experiment(
    row="C4",
    name="poisoned_files",
    claim="Whatever file a command reads is refused in three lines or fewer, made again, or used if it is valid and "
    "has no checksum; no code in it runs.",
    run=poison_them,
    short=12,
    full=900,
    control=trust_them,
)
