"""How long does a command take to answer, before any work is done?

    python benchmarks/start_up.py [--rounds 15]

Runs commands of the program in turn, each in a process of its own, beside a bare `python -c pass`, and states processor
and wall seconds of the whole process. `infer` classifies one drawn image with the small network of experiment=demo,
which is trained and exported for this first: what it takes is nearly all imports. `train` is stopped at the line of its
first epoch, which has one step. Files are in the page cache, for everything has been run once before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from measuring import REPOSITORY, forget_kernels, in_turn, ratio, spread, table, write_results
from PIL import Image

_FIRST_EPOCH = "epoch 1/1: "
_TRAINING = [
    "experiment=demo",
    "tracking=none",
    "training.epochs=1",
    "data_loading.train_size=200",
    "data_loading.validation_size=20",
    "data_loading.test_size=20",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="start_up_") as scratch:
        commands = make_commands(Path(scratch))
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        ways = {name: partial(run, name, command, cpu[name]) for name, command in commands.items()}
        wall = in_turn(ways, arguments.rounds)
    rows = [
        [f"`{name}`", spread(cpu[name], 3), spread(wall[name], 3), ratio(cpu[name], cpu[_BARE])] for name in commands
    ]
    verdicts = [f"{name}: {statistics.median(cpu[name]):.2f} of {goal} s" for name, goal in _GOALS.items()]
    body = [
        f"Medians of {arguments.rounds} rounds, in brackets the range.",
        "",
        *table(["command", "cpu s", "wall s", f"cpu, over `{_BARE}`"], rows),
        "",
        f"Processor time and its goal: {'; '.join(verdicts)}.",
    ]
    write_results("start_up", "How long commands take to answer", body, {"cpu_seconds": cpu, "wall_seconds": wall})


_BARE, _HELP = "python -c pass", "commands.py --help"
_MISTAKE, _ONNX = "commands.py train training.epochs=x", "commands.py infer, one image, exported network"
_TRAIN = "commands.py train, until its first step is made"
_FIRST_TRAIN = f"{_TRAIN}, kernels compiled anew"
_GOALS = {_HELP: 0.1, _MISTAKE: 1.0, _ONNX: 1.5, _TRAIN: 8.0, _FIRST_TRAIN: 8.0}  # seconds of processor time


def make_commands(scratch: Path) -> dict[str, list[str]]:
    """Return the commands by how they are shown, and prepare in `scratch` what they need."""
    subprocess.run(
        [sys.executable, "commands.py", "train", *_TRAINING, f"models_dir={scratch}", "run_name=small"],
        cwd=REPOSITORY,
        check=True,
        stdout=sys.stderr,
    )
    network = scratch / "small"
    export = [sys.executable, "commands.py", "export", f"--checkpoint_name={network}"]
    subprocess.run(export, cwd=REPOSITORY, check=True, stdout=sys.stderr)
    image = scratch / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    infer = ["infer", f"--test_dir={image}"]
    one_step = [*_TRAINING, "training.batch_size=200", f"models_dir={scratch}"]
    program = [sys.executable, "commands.py"]
    subprocess.run([*program, "train", *one_step], cwd=REPOSITORY, check=True, stdout=sys.stderr)  # compiles kernels
    return {
        _BARE: [sys.executable, "-c", "pass"],
        _HELP: [*program, "--help"],
        "commands.py train --help": [*program, "train", "--help"],
        "commands.py config": [*program, "config"],
        _MISTAKE: [*program, "train", "training.epochs=x"],
        "commands.py infer, one image": [*program, *infer, f"--checkpoint_name={network}"],
        _ONNX: [*program, *infer, f"--checkpoint_name={network / 'export' / 'model.onnx'}"],
        _TRAIN: [*program, "train", *one_step],
        _FIRST_TRAIN: [*program, "train", *one_step],
    }


def run(name: str, command: list[str], cpu: list[float]) -> float:
    """Run `command`, shown as `name`, silently; keep its processor seconds in `cpu` and return its wall seconds.

    Training is stopped after its first epoch.
    """
    if name == _FIRST_TRAIN:
        forget_kernels()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(_FIRST_EPOCH):
            process.kill()
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # nobody is to wait for it again
    cpu.append(used.ru_utime + used.ru_stime)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
