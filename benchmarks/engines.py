"""How much faster than ONNX Runtime and than plain PyTorch does `--engine=auto` compute, and what does it lose?

    python benchmarks/engines.py CHECKPOINT CHECKPOINT CHECKPOINT [--root DIR]

Exports each checkpoint to ONNX, in float32 and in 8-bit integers, and for our own kernels in integers, and runs
`python commands.py benchmark` on it, where engines take turns in one process, with one thread and with all. States, as
means over the checkpoints: the throughput of the engine that `auto` chooses, over ONNX Runtime's in float32, at batch
256; the latency of plain PyTorch over that of the engine that it chooses for single images; the accuracy lost; and how
many answers of each engine differ.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, table, write_results

from cifar10.inference.engines.auto import candidates, fastest

_ONE, _MANY = "1", "256"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--root", default="data", help="folder of the data")
    arguments = parser.parse_args()
    reports = [compare(checkpoint.resolve(), Path(arguments.root).resolve()) for checkpoint in arguments.checkpoints]
    body = [
        f"{len(reports)} networks, trained with different seeds; {reports[0]['num_images']:,} test images, one view.",
        "Speeds are medians of batches, in turn; in brackets the range over the networks.",
        "",
        *table(*gains(reports)),
        "",
        *table(*engines(reports)),
    ]
    write_results("engines", "Inference engines", body, {"reports": [_without_place(report) for report in reports]})


def compare(checkpoint: Path, root: Path) -> dict[str, Any]:
    """Return the report of `benchmark` for a checkpoint."""
    place = [f"--checkpoint_name={checkpoint}", f"data_loading.root={root}"]
    program = [sys.executable, "commands.py"]
    subprocess.run([*program, "export", *place, "--formats=onnx"], cwd=REPOSITORY, check=True)
    for integers in ("onnx_int8", "native_int8"):  # refused where they lose too much, or the CPU cannot have them
        subprocess.run([*program, "export", *place, f"--formats={integers}"], cwd=REPOSITORY, check=False)
    with tempfile.TemporaryDirectory(prefix="engines_") as scratch:
        subprocess.run([*program, "benchmark", *place, f"--output={scratch}"], cwd=REPOSITORY, check=True)
        report: dict[str, Any] = json.loads((Path(scratch) / "engines.json").read_text())
    return report


def gains(reports: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return a table of what `auto` gains, one row for each number of threads."""
    rows = []
    for threads in reports[0]["measured"]:
        throughput, latency, lost, names = [], [], [], set()
        for report in reports:
            measured = report["measured"][threads]
            known = {name: measured.get(name, {"refused": "not measured"}) for name in candidates()}
            many, one = fastest(known, int(_MANY)), fastest(known, int(_ONE))
            names |= {many, one}
            throughput.append(measured["onnx"]["seconds"][_MANY] / measured[many]["seconds"][_MANY])
            latency.append(measured["eager"]["seconds"][_ONE] / measured[one]["seconds"][_ONE])
            lost.append(100 * (report["engines"]["eager"]["accuracy"] - report["engines"][many]["accuracy"]))
        gained = (throughput, latency)
        figures = [f"{statistics.mean(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in gained]
        rows.append([threads, ", ".join(sorted(names)), *figures, f"{statistics.mean(lost):.3f}"])
    head = ["threads", "chosen", "batch 256, over onnx", "single image, over eager", "points of accuracy lost"]
    return head, rows


def engines(reports: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return a table of all engines, means over the networks; a refused export has a dash among the other answers."""
    rows = []
    for name in sorted({name for report in reports for name in report["engines"]}):
        answers = [report["engines"].get(name) for report in reports]
        having = [report for report in reports if name in report["engines"]]
        known = [report["engines"][name] for report in having]
        row = [name, having[0]["measured"][_ONE][name]["precision"]]
        row += [f"{statistics.mean(each['size_mb'] for each in known):.1f}"]
        row += [f"{100 * statistics.mean(each['accuracy'] for each in known):.2f}"]
        row += [", ".join(str(each["num_different"]) if each else "–" for each in answers)]
        row += [f"{max(each['largest_difference'] for each in known):.1e}"]
        for size in (_ONE, _MANY):
            for measured in zip(*(report["measured"].values() for report in having), strict=True):
                seconds = statistics.mean(each[name]["seconds"][size] for each in measured)
                row.append(f"{1000 * seconds:.3f}" if size == _ONE else f"{int(size) / seconds:,.0f}")
        rows.append(row)
    threads = list(reports[0]["measured"])
    head = ["engine", "precision", "MB", "accuracy, %", "other answers", "largest difference"]
    head += [f"ms, single image, {number} thr." for number in threads]
    head += [f"images/s, batch 256, {number} thr." for number in threads]
    return head, rows


def _without_place(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("checkpoint", "machine", "versions")}


if __name__ == "__main__":
    main()
