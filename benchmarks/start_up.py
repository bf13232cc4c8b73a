"""How long does a command take to answer, before any work is done?

    python benchmarks/start_up.py [--rounds 15]

Runs commands of the program in turn, each in a process of its own, beside a bare `python -c pass`, and states processor
and wall seconds of the whole process. `infer` classifies one drawn image with the small network of experiment=demo,
which is trained for this first: what it takes is nearly all imports. Files are in the page cache, for everything has
been run once before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import REPOSITORY, in_turn, ratio, spread, table, timed, write_results
from PIL import Image

_GOAL = 0.4  # cpu seconds for `--help`
_TRAINING = [
    "experiment=demo",
    "tracking=none",
    "training.epochs=1",
    "data_loading.train_size=200",
    "data_loading.validation_size=20",
    "data_loading.test_size=20",
    "run_name=small",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="start_up_") as scratch:
        commands = make_commands(Path(scratch))
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        wall = in_turn({name: lambda name=name: run(commands[name], cpu[name]) for name in commands}, arguments.rounds)  # type: ignore[misc]
    rows = [
        [f"`{name}`", spread(cpu[name], 3), spread(wall[name], 3), ratio(cpu[name], cpu[_BARE])] for name in commands
    ]
    verdict = "does" if statistics.median(cpu[_HELP]) <= _GOAL else "does NOT"
    body = [
        f"Medians of {arguments.rounds} rounds, in brackets the range.",
        "",
        *table(["command", "cpu s", "wall s", f"cpu, over `{_BARE}`"], rows),
        "",
        f"`{_HELP}` is to take at most {_GOAL} s of processor time: it {verdict}.",
    ]
    write_results("start_up", "How long commands take to answer", body, {"cpu_seconds": cpu, "wall_seconds": wall})


_BARE, _HELP = "python -c pass", "commands.py --help"


def make_commands(scratch: Path) -> dict[str, list[str]]:
    """Return the commands by how they are shown, and prepare in `scratch` what they need."""
    subprocess.run(
        [sys.executable, "commands.py", "train", *_TRAINING, f"models_dir={scratch}"],
        cwd=REPOSITORY,
        check=True,
        stdout=sys.stderr,
    )
    image = scratch / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    infer = ["infer", f"--test_dir={image}", f"--checkpoint_name={scratch / 'small'}"]
    program = [sys.executable, "commands.py"]
    return {
        _BARE: [sys.executable, "-c", "pass"],
        _HELP: [*program, "--help"],
        "commands.py train --help": [*program, "train", "--help"],
        "commands.py config": [*program, "config"],
        "commands.py infer, one image": [*program, *infer],
    }


def run(command: list[str], cpu: list[float]) -> float:
    """Run `command` silently; keep its processor seconds in `cpu` and return its wall seconds."""
    seconds = timed(command, stdout=subprocess.DEVNULL)
    cpu.append(seconds["cpu_seconds"])
    return seconds["wall_seconds"]


if __name__ == "__main__":
    main()
