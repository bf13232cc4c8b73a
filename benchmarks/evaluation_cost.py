"""What does `evaluate` with its report cost, over plain inference on the same images?

    python benchmarks/evaluation_cost.py --checkpoint models/first/best.ckpt [--root data] [--rounds 5]

Plain inference loads the checkpoint and its data, and computes one view of each test image, as the test of the
training does. `evaluate` also computes further views, training images to compare with, scores, figures and the page.
Both are whole processes, from the command line. The last ratio leaves out what both need before the first image: the
plain process measures its inference, and the rest of its time is the start of both.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import REPOSITORY, in_turn, ratio, spread, table, timed, write_results

_MARK = "inference seconds"


def main() -> None:
    arguments = parse_arguments()
    if arguments.plain:
        infer_plainly(arguments.checkpoint, arguments.root)
        return
    inference: list[float] = []
    cpu: dict[str, list[float]] = {"plain": [], "evaluate": []}

    def plain() -> float:
        with tempfile.TemporaryFile("w+") as output:
            words = ["--plain", "--checkpoint", arguments.checkpoint, "--root", arguments.root]
            seconds = timed([sys.executable, "benchmarks/evaluation_cost.py", *words], output.fileno())
            output.seek(0)
            inference.append(json.loads(output.read())[_MARK])
        cpu["plain"].append(seconds["cpu_seconds"])
        return seconds["wall_seconds"]

    def evaluate() -> float:
        with tempfile.TemporaryDirectory() as folder:
            words = [
                f"--checkpoint_name={arguments.checkpoint}",
                f"--output={folder}",
                f"data_loading.root={arguments.root}",
            ]
            seconds = timed([sys.executable, "commands.py", "evaluate", *words], subprocess.DEVNULL)
        cpu["evaluate"].append(seconds["cpu_seconds"])
        return seconds["wall_seconds"]

    wall = in_turn({"plain": plain, "evaluate": evaluate}, arguments.rounds)
    starts = [whole - part for whole, part in zip(wall["plain"], inference, strict=True)]
    rest = [whole - start for whole, start in zip(wall["evaluate"], starts, strict=True)]
    rows: list[Sequence[object]] = [
        ["plain inference", spread(wall["plain"], 1), spread(cpu["plain"], 1), spread(inference, 1)],
        ["evaluate with its report", spread(wall["evaluate"], 1), spread(cpu["evaluate"], 1), spread(rest, 1)],
        [
            "ratio",
            ratio(wall["evaluate"], wall["plain"]),
            ratio(cpu["evaluate"], cpu["plain"]),
            ratio(rest, inference),
        ],
    ]
    body = [
        f"{arguments.rounds} rounds in turn; median and range.",
        "",
        *table(["", "wall seconds", "cpu seconds", "wall seconds behind the start"], rows),
    ]
    raw = {"wall": wall, "cpu": cpu, "inference": inference}
    write_results("evaluation_cost", "Cost of an evaluation with its report", body, raw)


def infer_plainly(checkpoint_name: str, root: str) -> None:
    """Compute one view of each test image; print the seconds as JSON."""
    sys.path.insert(0, str(REPOSITORY))
    from cifar10.inference.engines import load_model
    from cifar10.runs.checkpoints import load_checkpoint
    from cifar10.runs.trained_data import load_trained_data, relocated

    checkpoint = load_checkpoint(Path(checkpoint_name))
    data = load_trained_data(checkpoint, relocated(checkpoint.config, [f"data_loading.root={root}"]))
    engine = load_model("torch", checkpoint.path).engine
    pixels, labels = data.test.arrays()
    started, size = time.perf_counter(), checkpoint.config.evaluation.images_at_once(checkpoint.image_size)
    parts = [engine.probabilities(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    seconds = time.perf_counter() - started
    correct = sum(
        int((part.argmax(axis=1) == labels[number * size : number * size + len(part)]).sum())
        for number, part in enumerate(parts)
    )
    print(json.dumps({_MARK: seconds, "accuracy": correct / len(labels)}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--root", default="data", help="holds the data of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
