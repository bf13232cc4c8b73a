"""Who is first at the same accuracy on this GPU: a recipe of ours, or the record scripts?

    python benchmarks/gpu_race.py --root data --experiment speedrun --record hiverge=H/cifar10.py --record NAME=PATH
    python benchmarks/gpu_race.py --root data --experiment best --record airbench96=A/airbench96_faster.py
    python benchmarks/gpu_race.py --root data --data cifar100 --experiment cifar100_fast --plain --record NAME=PATH

All take turns on the same GPU, run by run, each in a process of its own that was warmed up before; `racers.py` says
what the clock includes. What counts is the ratio of our seconds to theirs within a turn: its geometric mean, with a
95 % interval by bootstrap. All published training images are learnt from, none is held out. Needs torch, torchvision,
NumPy and PyYAML. `--device cpu --tiny --compile none` goes the same way in a minute, to see that it works, and
writes nothing.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import in_turn, table, write_results
from recipe_files import Values, load_recipe

from cifar10.data.cifar import cifar10, cifar100

_RACERS = Path(__file__).with_name("racers.py")
_TINY = ("model.widths=[4,8,8]", "training.batch_size=100", "training.epochs=1", "evaluation.batch_size=50")


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.experiment, [*(_TINY if arguments.tiny else ()), *arguments.overrides])
    with tempfile.TemporaryDirectory(prefix="race_") as folder:
        common: Values = {"device": arguments.device, "plain": arguments.plain, "data": f"{folder}/data.pt"}
        torch.save(published_data(arguments.data, arguments.root, arguments.tiny), common["data"])
        if arguments.plain:
            recipe["evaluation"]["tta"] = "none"
        wishes = {"ours": {**common, "recipe": recipe, "compile": arguments.compile}}
        wishes |= {name: {**common, "record": path} for name, path in arguments.record}
        results = race(wishes, arguments.runs, arguments.most_seconds)
    report(arguments, recipe, results)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="holds cifar-10-batches-py or cifar-100-python")
    parser.add_argument("--data", choices=["cifar10", "cifar100"], default="cifar10")
    parser.add_argument("--experiment", default=None, help="a file of conf/experiment; else the default recipe")
    parser.add_argument(
        "--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of settings, as in the YAML files"
    )
    parser.add_argument("--record", action="append", type=_named_path, default=[], metavar="NAME=PATH")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--most-seconds", type=float, default=math.inf, help="no round begins later, from the start on")
    parser.add_argument("--plain", action="store_true", help="race for accuracy without test-time augmentation")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--compile", type=_mode, default="graphs", help="for ours: graphs, a mode of torch.compile, or none"
    )
    parser.add_argument("--tiny", action="store_true", help="few images and channels, one epoch: to see that it works")
    arguments = parser.parse_args(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --device cpu --tiny --compile none goes the same way, without figures")
    return arguments


def _named_path(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or name == "ours" or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PATH with a script at PATH")
    return name, str(Path(path).absolute())


def _mode(text: str) -> str | None:
    return None if text == "none" else text


def published_data(name: str, root: str, tiny: bool) -> dict[str, Any]:
    """Return all training and test images and labels, plain tensors; a few hundred of them if `tiny`."""
    if name == "cifar10":
        data = cifar10(root, classes=None, validation_size=0, seed=0, sources=None)
    else:
        data = cifar100(root, "fine", classes=None, validation_size=0, seed=0, sources=None)
    num_train, num_test = (400, 120) if tiny else (len(data.train), len(data.test))
    return {
        "train_images": data.train.images[:num_train].clone(),
        "train_labels": data.train.labels[:num_train].clone(),
        "test_images": data.test.images[:num_test].clone(),
        "test_labels": data.test.labels[:num_test].clone(),
        "class_names": list(data.class_names),
    }


class Racer:
    """A process that makes a run when it is told to."""

    def __init__(self, name: str, wishes: Values) -> None:
        self.name = name
        self.accuracies: list[float] = []
        print(f"{name}: warming up", file=sys.stderr, flush=True)
        self._process = subprocess.Popen(
            [sys.executable, str(_RACERS), json.dumps(wishes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def run(self) -> float:
        """Let it make one run; return seconds, and keep the accuracy."""
        assert self._process.stdin is not None
        print("run", file=self._process.stdin, flush=True)
        answer = self._answer()
        self.accuracies.append(answer["accuracy"])
        print(f"{self.name}: {answer['seconds']:.3f} s, {answer['accuracy']:.2%}", file=sys.stderr, flush=True)
        return float(answer["seconds"])

    def close(self) -> None:
        self._process.kill()  # a record's own end takes many seconds
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}; what it said is above")
        return dict(json.loads(line))


def race(wishes: dict[str, Values], runs: int, most_seconds: float = math.inf) -> dict[str, dict[str, list[float]]]:
    """Return seconds and accuracies of each racer, run by run."""
    racers: list[Racer] = []
    ends_at = time.monotonic() + most_seconds
    try:
        for name, wish in wishes.items():
            racers.append(Racer(name, wish))
        seconds = in_turn({racer.name: racer.run for racer in racers}, runs, ends_at - time.monotonic())
    finally:
        for racer in racers:
            racer.close()
    return {racer.name: {"seconds": seconds[racer.name], "accuracy": racer.accuracies} for racer in racers}


def ratio_with_interval(ours: Sequence[float], theirs: Sequence[float], samples: int = 10_000) -> tuple[float, ...]:
    """Return the geometric mean of the ratios of paired runs, and the ends of its 95 % interval by bootstrap."""
    logs = np.log(np.asarray(ours) / np.asarray(theirs))
    means = np.random.default_rng(0).choice(logs, (samples, len(logs))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def report(arguments: argparse.Namespace, recipe: Values, results: dict[str, dict[str, list[float]]]) -> None:
    ours, rows = results["ours"]["seconds"], []
    for name, figures in results.items():
        ratio, low, high = ratio_with_interval(ours, figures["seconds"])
        compared = "" if name == "ours" else f"{ratio:.3f} ({low:.3f} to {high:.3f})"
        rows.append([name, spread(figures["seconds"], 1, 3), spread(figures["accuracy"], 100, 2), compared])
    experiment = arguments.experiment or "default"
    kind = "plain" if arguments.plain else "TTA"
    head = ["who", "seconds, mean (sd)", f"accuracy in %, {kind}, mean (sd)", "ours / theirs (95 % interval)"]
    note = f"n = {len(ours)} runs each, in turn. Recipe `{experiment}`, {arguments.data}, {arguments.device}."
    body = [note, "", *table(head, rows)]
    if arguments.tiny:  # no result: it shows that the script works, and nothing else
        print("\n".join(body))
        return
    write_results(f"gpu_race_{experiment}", "Ours against the records", body, {"recipe": recipe, "runs": results})


def spread(values: Sequence[float], scale: float, digits: int) -> str:
    deviation = f" ({scale * statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
