"""What does a busy neighbour cost a training step, by our kernels and in the plain loop?

    python benchmarks/neighbours.py [--rounds 7] [--images 500]

Steps of the default recipe at the sizes of its two stages, by our kernels in the precision that training chooses here
and in float32, and by PyTorch's operators; and a step of benchmarks/plain_port.py in each precision, in turn, alone and
beside one process that computes, streams or thrashes (see benchmarks/busy_process.py).

One thread runs on the first processor and its neighbour on another one, so that they share the last level and memory.
Threads for all processors share these with their neighbour, and its processor time as well. Images are drawn at random.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from busy_process import KINDS, BusyProcess, last_level_bytes
from measuring import in_turn, ratio, table, write_results
from plain_port import Network, Precision, make_optimizers
from torch.nn import functional

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import MODEL, OPTIMIZER
from cifar10.devices import fastest_precision
from cifar10.kernels import convert, is_available
from cifar10.system.memory import keep_memory_warm
from cifar10.system.waiting_threads import let_waiting_threads_sleep

Step = Callable[[], object]
_LABEL_SMOOTHING = 0.2
_SPAWN = multiprocessing.get_context("spawn")
_ALONE = "alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=500, help="a batch of them")
    parser.add_argument("--only", nargs="+", default=list(_STEPS), choices=list(_STEPS), metavar="STEP")
    arguments = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    if not is_available() or len(processors) == 1:
        raise SystemExit("this needs two processors, llvmlite, and PyTorch with GNU's OpenMP")
    apart = measure(arguments, set(processors[:1]), set(processors[1:]))
    together = measure(arguments, set(processors), set(processors))
    found = {f"{name}, 1 thread": figures for name, figures in apart.items()}
    found |= {f"{name}, {len(processors)} threads": figures for name, figures in together.items()}
    head = ["step", "alone, us an image", *(f"beside one that {kind}" for kind in KINDS)]
    rows = [
        [name, f"{statistics.median(of[_ALONE]):.0f}", *(ratio(of[kind], of[_ALONE]) for kind in KINDS)]
        for name, of in found.items()
    ]
    text = [
        f"Batches of {arguments.images} images. Beside a neighbour: the time over that alone, in the same round. "
        f"Medians of {arguments.rounds} rounds, in brackets the range. The last-level cache has "
        f"{last_level_bytes() // 2**20} MB.",
        "",
        *table(head, rows),
    ]
    write_results("neighbours", "What a busy neighbour costs a training step", text, {"us_per_image": found})


def measure(arguments: Any, own: set[int], neighbours: set[int]) -> dict[str, dict[str, list[float]]]:
    """Return the microseconds an image of each step, alone and beside each neighbour, of each round."""
    with contextlib.ExitStack() as stack:
        racers = {
            name: stack.enter_context(ProcessPoolExecutor(1, _SPAWN, initializer=prepare, initargs=(name, own)))
            for name in arguments.only
        }
        for name, racer in racers.items():
            start(racer, sleeps=name.startswith("ours"))
        beside = {kind: BusyProcess(kind, neighbours) for kind in KINDS}
        for neighbour in beside.values():
            stack.callback(neighbour.end)

        def timed(name: str, kind: str) -> float:
            with contextlib.nullcontext() if kind == _ALONE else beside[kind].working():
                return 1e6 * racers[name].submit(time_step, name, arguments.images).result() / int(arguments.images)

        kinds = [_ALONE, *KINDS]
        for name in racers:
            timed(name, _ALONE)
        ways = {f"{name} | {kind}": functools.partial(timed, name, kind) for kind in kinds for name in racers}
        figures = in_turn(ways, arguments.rounds)
    return {name: {kind: figures[f"{name} | {kind}"] for kind in kinds} for name in racers}


def start(racer: ProcessPoolExecutor, sleeps: bool) -> None:
    """Start the process of `racer`, whose threads wait as those of the program, or as PyTorch's do by default."""
    before = dict(os.environ)
    try:
        if sleeps:
            let_waiting_threads_sleep()
        racer.submit(os.getpid).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


# -- steps -----------------------------------------------------------------------------------------------------------


def recipe_step(images: int, pixels: int, by_kernels: bool, precision: Precision | None = None) -> Step:
    """Return a step of the default recipe, by default in the precision that training chooses."""
    config = load_config([])
    precision = precision or fastest_precision(torch.device("cpu"), by_kernels, config.model.target)
    network = build(MODEL, config.model, num_classes=10, image_size=pixels).to(memory_format=torch.channels_last)
    optimizer = build(OPTIMIZER, config.optimizer, network=network, params=network.parameters())
    batch = torch.randint(0, 256, (images, 3, pixels, pixels), dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(images) % 10
    network.calibrate(batch)
    if by_kernels:
        convert(network)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(batch)
        functional.cross_entropy(logits.float(), labels, label_smoothing=_LABEL_SMOOTHING).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def port_step(images: int, precision: Precision) -> Step:
    """Return a late step of the plain loop, whose first layer learns no longer."""
    network = Network().to(memory_format=torch.channels_last)
    batch = torch.randn(images, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(images) % 10
    network.fit_whitening(batch)
    optimizers = make_optimizers(network, precision)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(batch, learns_shift=False)
        functional.cross_entropy(logits.float(), labels, label_smoothing=_LABEL_SMOOTHING, reduction="sum").backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


_STEPS: dict[str, Callable[[int], Step]] = {
    "ours, 24 pixels": lambda images: recipe_step(images, 24, by_kernels=True),
    "ours, 32 pixels": lambda images: recipe_step(images, 32, by_kernels=True),
    "ours in float32, 32 pixels": lambda images: recipe_step(images, 32, by_kernels=True, precision="fp32"),
    "PyTorch in float32, 32 pixels": lambda images: recipe_step(images, 32, by_kernels=False, precision="fp32"),
    "plain port, float32": lambda images: port_step(images, "fp32"),
    "plain port, bf16": lambda images: port_step(images, "bf16"),
}


def prepare(name: str, processors: set[int]) -> None:
    """Prepare the process in which a step will be timed."""
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(len(processors))
    torch.manual_seed(0)
    if name.startswith("ours"):
        keep_memory_warm()


@functools.cache
def made_step(name: str, images: int) -> Step:
    """Return a step of this process, made and run once: compiled, and memory at hand."""
    step = _STEPS[name](images)
    step()
    return step


def time_step(name: str, images: int) -> float:
    """Return the seconds of a step."""
    step = made_step(name, images)
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
