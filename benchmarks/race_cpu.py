"""How much faster than the plain port of the best public recipe is ours, on this CPU, start-up and test included?

    python benchmarks/race_cpu.py [--experiment fast] [--seeds 0 1 2] [--steps 3] [--root data] [--overrides K=V ...]
    python benchmarks/race_cpu.py --whole --keep FOLDER [--seeds 0 1 2 3 4] ...

Each round, in turn: a few steps of benchmarks/plain_port.py in a process of its own, in each precision that this CPU
may be good at, from which its whole time is projected (start-up + eight epochs + six views of the test images); and a
whole `python commands.py train experiment=NAME` of one seed, of which the whole process counts. The port's faster
precision is the one to beat. Its accuracy comes from the newest result of plain_port.py, one whole run of it.

With --whole, the steps are measured once, to find the faster precision, and the port is trained whole with the seed of
each round, too. With --keep, a race that was cut off may be called again: what has ended is not trained anew.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from measuring import REPOSITORY, RESULTS, in_turn, ratio, table, write_results
from plain_port import project
from recipe import run_training

from cifar10.devices import computes_bf16
from cifar10.files import write_text


def main() -> None:
    arguments = parse_arguments()
    rates: dict[str, list[dict[str, Any]]] = {precision: [] for precision in arguments.precisions}
    runs: list[dict[str, Any]] = []
    whole_ports: list[dict[str, Any]] = []
    ways: dict[str, Callable[[], float]] = {
        f"port {precision}": partial(run_port, arguments, precision, found) for precision, found in rates.items()
    }
    with tempfile.TemporaryDirectory(prefix="race_") as scratch:
        folder = (arguments.keep or Path(scratch)).absolute()
        if arguments.whole:
            best = faster({name: [way()] for name, way in ways.items()})
            ways = {"port": lambda: run_whole_port(arguments, best, folder, whole_ports)}
        ways["ours"] = lambda: run_ours(arguments, folder, runs)
        figures = in_turn(ways, rounds=len(arguments.seeds))
    if not arguments.whole:
        best = faster({name: values for name, values in figures.items() if name != "ours"})
    accuracy = port_accuracy(best)
    words = [f"experiment={arguments.experiment}", *arguments.overrides]
    body = report(runs, rates[best], best, whole_ports or accuracy, words)
    raw = {"experiment": arguments.experiment, "overrides": arguments.overrides, "runs": runs}
    raw |= {"wall_seconds": figures, "port_rates": rates, "port_whole_run": accuracy, "port_runs": whole_ports}
    write_results("race_cpu", "Ours against the plain port, whole runs on a CPU", body, raw)


def faster(figures: dict[str, list[float]]) -> str:
    """Return the precision in which the port is faster; its names are "port fp32" and the like."""
    return min(figures, key=lambda name: statistics.median(figures[name])).removeprefix("port ")


def parse_arguments() -> argparse.Namespace:
    native = ["fp32", "bf16"] if computes_bf16(torch.device("cpu")) else ["fp32"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="fast", help="a file of conf/experiment, for CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of ours, one a round")
    parser.add_argument("--steps", type=int, default=3, help="of the port, measured in each round")
    parser.add_argument("--root", type=Path, default=REPOSITORY / "data", help="holds cifar-10-batches-py")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=native, help="of the port")
    parser.add_argument("--port", nargs="*", default=[], help="further words for plain_port.py, e.g. train-images=4000")
    parser.add_argument("--overrides", nargs="*", default=[], help="given to our train as they are")
    parser.add_argument("--whole", action="store_true", help="train the port whole, too")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the runs, and to find them again")
    return parser.parse_args()


def run_port(arguments: argparse.Namespace, precision: str, found: list[dict[str, Any]]) -> float:
    """Measure the port's rates in a process of its own, keep them in `found`, and return its projected wall seconds."""
    command = [sys.executable, str(Path(__file__).with_name("plain_port.py")), f"--steps={arguments.steps}"]
    command += [f"--root={arguments.root.absolute()}", f"--precision={precision}"]
    command += [f"--{word}" for word in arguments.port]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rates = json.loads(done.stdout)
    found.append({**rates, "projected": project(rates)})
    return float(found[-1]["projected"]["wall"])


def run_whole_port(arguments: argparse.Namespace, precision: str, folder: Path, found: list[dict[str, Any]]) -> float:
    """Train the port with the seed of the next round, or find what was kept, and return its process's wall seconds."""
    seed = arguments.seeds[len(found)]
    command = [sys.executable, str(Path(__file__).with_name("plain_port.py")), "--json", f"--seed={seed}"]
    command += [f"--root={arguments.root.absolute()}", f"--precision={precision}"]
    command += [f"--{word}" for word in arguments.port]
    record = folder / f"port_seed{seed}.json"
    made_by = {"command": command[2:], "code": sha256(Path(command[1]).read_bytes()).hexdigest()}
    kept = json.loads(record.read_text()) if record.exists() else None
    if kept is not None and kept["made_by"] != made_by:
        sys.exit(f"{record} is of other code or another command; choose another folder with --keep")
    if kept is None:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kept = {"made_by": made_by, "run": json.loads(done.stdout)}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(kept))
    found.append(kept["run"])
    return float(kept["run"]["wall"])


def run_ours(arguments: argparse.Namespace, folder: Path, runs: list[dict[str, Any]]) -> float:
    """Train the next seed, keep what the run says of itself in `runs`, and return its process's wall seconds."""
    words = [f"experiment={arguments.experiment}", *arguments.overrides]
    runs.append(run_training(arguments.seeds[len(runs)], words, arguments.root, folder / "models"))
    return float(runs[-1]["wall_seconds"])


def port_accuracy(precision: str) -> dict[str, Any] | None:
    """Return the newest whole run of the port with all images, in `precision` if there is one."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob("plain_port_*.json")]
    whole = [run for run in found if (run["train_images"], run["test_images"]) == (50_000, 10_000)]
    whole.sort(key=lambda run: (run["precision"] == precision, run.get("made", "")))
    return whole[-1] if whole else None


def report(
    runs: list[dict[str, Any]],
    rates: list[dict[str, Any]],
    precision: str,
    port: list[dict[str, Any]] | dict[str, Any] | None,
    words: list[str],
) -> list[str]:
    """Return the lines of the result; `port` is its whole runs, one a round, or one run, or nothing."""
    is_whole = isinstance(port, list)
    times = port if isinstance(port, list) else [each["projected"] for each in rates]
    others = {clock: [each[clock] for each in times] for clock in ("wall", "cpu")}
    ours = {clock: [run[f"{clock}_seconds"] for run in runs] for clock in ("wall", "cpu")}
    kind = "" if is_whole else ", projected"
    head = ["seed", "ours, wall s", "cpu s", "accuracy, TTA", "plain", f"port{kind}, wall s", "cpu s", "wall ratio"]
    rows = [
        [
            run["seed"],
            *(f"{ours[clock][number]:.0f}" for clock in ("wall", "cpu")),
            *(f"{run[key]:.2%}" for key in ("test/accuracy_tta", "test/accuracy")),
            *(f"{others[clock][number]:.0f}" for clock in ("wall", "cpu")),
            f"{ours['wall'][number] / others['wall'][number]:.3f}",
        ]
        for number, run in enumerate(runs)
    ]
    command = " ".join(["python commands.py train", *words, "seed=S"])
    return [
        f"Ours: `{command}`, {runs[0]['precision']}.",
        f"The port in {precision}, the faster of what was tried on this CPU: {describe(rates)}.",
        "",
        *table(head, rows),
        "",
        f"- wall, ours over the port: median {ratio(ours['wall'], others['wall'])}, n = {len(runs)}",
        f"- cpu, ours over the port: median {ratio(ours['cpu'], others['cpu'])}",
        f"- ours: mean {mean_accuracy(runs, 'test/accuracy_tta')} with test-time augmentation, "
        f"{mean_accuracy(runs, 'test/accuracy')} plain",
        f"- the port's accuracy: {describe_accuracy(port)}",
    ]


def mean_accuracy(runs: list[dict[str, Any]], name: str) -> str:
    return f"{statistics.mean(run[name] for run in runs):.2%}"


def describe(rates: list[dict[str, Any]]) -> str:
    """Return the port's medians in words."""
    each = {name: statistics.median(r[name]["wall"] for r in rates) for name in ("start_up", "early_step", "late_step")}
    tta = 1000 * statistics.median(r["tta_image"]["wall"] for r in rates)
    return (
        f"{each['start_up']:.1f} s to start, {each['early_step']:.2f} s a step of 2000 images while the first layer "
        f"learns, {each['late_step']:.2f} s after that, {tta:.2f} ms a test image with six views"
    )


def describe_accuracy(run: list[dict[str, Any]] | dict[str, Any] | None) -> str:
    if isinstance(run, list):
        plain = mean_accuracy(run, "accuracy")
        return f"mean {mean_accuracy(run, 'accuracy_tta')} with six views, {plain} plain, in the same rounds"
    if run is None:
        return "not yet measured; python benchmarks/plain_port.py"
    return (
        f"{run['accuracy_tta']:.2%} with six views, {run['accuracy']:.2%} plain, in {run['wall']:.0f} s "
        f"(one whole run, {run['precision']}, seed {run['seed']}, on {run['machine']['cpu']})"
    )


if __name__ == "__main__":
    main()
