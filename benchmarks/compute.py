"""How much arithmetic is each recipe, what can this machine do at most, and how near do the results come?

    python benchmarks/compute.py [--rounds 7] [--passes 5]

Counts the FLOPs of every recipe in conf/experiment exactly, without a clock (see counting.py: matrix products and
convolutions, optimizer, validation, test and its views included). Then measures what this machine reaches in matrix
products, in the default network's convolutions and in moving memory, each in several passes some seconds apart, since
clocks and neighbours change; and sets the results of recipe.py on the same kind of processor beside it: achieved
GFLOP/s are those of the whole process, imports and data included.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from counting import RecipeCost, count_flops, count_recipe
from measuring import newest_runs, table, write_results

from cifar10.config.compose import load_config
from cifar10.config.conf_folder import options
from cifar10.devices import computes_bf16
from cifar10.system.memory import keep_memory_warm

_LAYERS = [(24, 64, 31), (64, 64, 15), (64, 256, 15), (256, 256, 7), (256, 256, 7), (256, 256, 3)]
"""The default network's 3 x 3 convolutions: channels in, channels out, pixels a side."""
_CONVOLUTION_BATCH = 500
_MATRIX = 2048
_COPY_BYTES = 2**28
_GIGA, _TERA = 1e9, 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement in a pass; the best counts")
    parser.add_argument("--passes", type=int, default=5, help="through all measurements; the best counts")
    arguments = parser.parse_args()
    keep_memory_warm()
    recipes = dict(count_recipes())
    passes = [measure_limits(arguments.rounds) for _ in range(arguments.passes)]
    limits = {name: max(found[name] for found in passes) for name in passes[0]}
    achieved = [entry for name, cost in recipes.items() for entry in find_results(name, cost)]
    body = [*recipe_lines(recipes, limits), "", *limit_lines(limits), "", *achieved_lines(achieved, limits)]
    raw = {
        "recipes": {name: {**vars(cost), "whole_run": cost.whole_run} for name, cost in recipes.items()},
        "limits": limits,
        "passes": passes,
        "achieved": achieved,
    }
    write_results("compute", "Arithmetic of the recipes, and the limits of the machine", body, raw)


def count_recipes() -> Iterator[tuple[str, RecipeCost]]:
    """Count every file of conf/experiment whose data set has a known size."""
    for name in options("experiment"):
        try:
            yield name, count_recipe(load_config([f"experiment={name}"]))
        except ValueError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def measure_limits(rounds: int) -> dict[str, float]:
    """Return the highest rates seen: FLOP/s of products and convolutions, bytes/s of a copy (read and written)."""
    limits = {}
    dtypes = {"fp32": torch.float32}
    if computes_bf16(torch.device("cpu")):
        dtypes["bf16"] = torch.bfloat16
    for name, dtype in dtypes.items():
        left, right = torch.randn(2, _MATRIX, _MATRIX).to(dtype)
        limits[f"{name} matrix product"] = 2 * _MATRIX**3 / best_seconds(lambda a=left, b=right: a @ b, rounds)  # type: ignore[misc]
        limits[f"{name} convolution"] = convolution_rate(dtype, rounds)
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    limits["memory"] = 2 * _COPY_BYTES / best_seconds(lambda: target.copy_(source), rounds)
    return limits


def convolution_rate(dtype: torch.dtype, rounds: int) -> float:
    """Return the FLOP/s of all of `_LAYERS` together, forward and backward."""
    flops, seconds = 0, 0.0
    for channels_in, channels_out, side in _LAYERS:
        layer = torch.nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        layer = layer.to(dtype).to(memory_format=torch.channels_last)
        images = torch.randn(_CONVOLUTION_BATCH, channels_in, side, side).to(dtype)
        images = images.to(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.ones_like(layer(images))

        def both_ways(layer: Any = layer, images: Any = images, gradient: Any = gradient) -> None:
            layer(images).backward(gradient)

        flops += count_flops(both_ways)
        seconds += best_seconds(both_ways, rounds)
    return flops / seconds


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the least wall seconds of `work`, after one round that does not count."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def find_results(name: str, cost: RecipeCost) -> list[dict[str, Any]]:
    """Return the newest runs of a recipe on this kind of processor; they are taken to be as conf/experiment has it."""
    file, runs = newest_runs(name)
    keys = ("seed", "precision", "wall_seconds", "cpu_seconds", "git_commit")
    return [
        {"recipe": name, "file": file, **{key: run[key] for key in keys}}
        | {"flops_a_second": cost.whole_run / run["wall_seconds"]}
        for run in runs
    ]


def recipe_lines(recipes: dict[str, RecipeCost], limits: dict[str, float]) -> list[str]:
    rows = []
    for name, cost in recipes.items():
        image = (cost.forward_image, cost.backward_image, cost.test_image, cost.optimizer_step)
        parts = (cost.training, cost.validation, cost.test, cost.whole_run)
        least = (f"{cost.whole_run / rate:.0f}" for key, rate in limits.items() if key.endswith("matrix product"))
        rows.append([name, *(f"{x / 1e6:,.1f}" for x in image), *(f"{x / _TERA:,.1f}" for x in parts), *least])
    head = ["recipe", "forward, MFLOP an image", "backward", "test, all views", "optimizer, MFLOP a step"]
    head += ["training, TFLOP a run", "validation", "test", "whole run"]
    head += [f"least seconds, {key} rate" for key in limits if key.endswith("matrix product")]
    return table(head, rows)


def limit_lines(limits: dict[str, float]) -> list[str]:
    threads = torch.get_num_threads()
    words = {
        "matrix product": f"{_MATRIX} x {_MATRIX} matrices",
        "convolution": "the default network's six 3 x 3 layers, forward and backward, "
        f"{_CONVOLUTION_BATCH} images, channels last",
        "memory": f"a copy of {_COPY_BYTES // 2**20} MiB, bytes read and written",
    }
    rows = [
        [name, f"{rate / _GIGA:,.1f} G{'B' if name == 'memory' else 'FLOP'}/s", words[name.partition(" ")[2] or name]]
        for name, rate in limits.items()
    ]
    return [f"The machine's limits, with {threads} threads:", "", *table(["what", "at most", "measured with"], rows)]


def achieved_lines(achieved: list[dict[str, Any]], limits: dict[str, float]) -> list[str]:
    if not achieved:
        return ["No recipe has been measured on this processor yet."]
    rows = []
    for run in achieved:
        precision = "bf16" if run["precision"] == "bf16" else "fp32"
        parts = (run["flops_a_second"] / limits[f"{precision} {kind}"] for kind in ("matrix product", "convolution"))
        shares = (f"{part:.0%}" for part in parts)
        link = f"[{Path(run['file']).stem}]({run['file']})"
        rows.append([run["recipe"], run["seed"], f"{run['flops_a_second'] / _GIGA:,.1f}", *shares, link])
    head = ["recipe", "seed", "GFLOP/s, whole process", "of the matrix limit", "of the convolution limit", "result"]
    return ["What runs on this kind of processor achieved:", "", *table(head, rows)]


if __name__ == "__main__":
    main()
