"""What does it save to keep memory between steps (cifar10/system/memory.py)?

    python benchmarks/memory.py [--pairs 3]

Runs steps of the default network (batch 2000, forward and backward) in fresh processes, in turn with and without
`keep_memory_warm`, and prints milliseconds and page faults an image.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

_BATCH_SIZE = 2000
_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", choices=["warm", "default"], default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one == "warm")))
        return
    rows: dict[str, list[dict[str, float]]] = {"default": [], "warm": []}
    for _ in range(arguments.pairs):
        for kind, results in rows.items():
            command = [sys.executable, __file__, "--one", kind]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
            print(kind, results[-1], flush=True)
    ratios = [warm["ms"] / cold["ms"] for cold, warm in zip(rows["default"], rows["warm"], strict=True)]
    print(f"time warm / default: median {statistics.median(ratios):.3f}, {min(ratios):.3f} .. {max(ratios):.3f}")


def measure(warm: bool) -> dict[str, float]:
    """Return milliseconds of wall and processor time and page faults, each an image."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from cifar10.system.memory import keep_memory_warm

    if warm:
        assert keep_memory_warm(), "this C library has no mallopt"
    import torch

    from cifar10.networks.speed import SpeedNet

    torch.manual_seed(0)
    images = torch.randint(0, 256, (_BATCH_SIZE, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (_BATCH_SIZE,))
    network = SpeedNet(10, 32).to(memory_format=torch.channels_last)

    def step() -> None:
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()

    step()
    wall, cpu, faults = time.monotonic(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(_STEPS):
        step()
    num_images = _STEPS * _BATCH_SIZE
    return {
        "ms": 1000 * (time.monotonic() - wall) / num_images,
        "cpu_ms": 1000 * (time.process_time() - cpu) / num_images,
        "faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / num_images,
    }


if __name__ == "__main__":
    main()
