"""Does `compare` call seeds of one recipe equal and other recipes different, and what does it cost?

    python benchmarks/comparing.py --folder reports --same A1 A2 A3 --other B1 B2 B3 [--root data]

Compares the runs of --same with each other, one run of each side, and both sides. The runs of a side differ by their
seed only.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, table, timed, write_results

sys.path.insert(0, str(REPOSITORY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", nargs="+", type=Path, required=True, help="run folders of one recipe")
    parser.add_argument("--other", nargs="+", type=Path, required=True, help="run folders of another recipe")
    parser.add_argument("--folder", type=Path, required=True, help="of the reports")
    parser.add_argument("--root", default="data", help="holds cifar-10-batches-py")
    arguments = parser.parse_args()
    same, other = arguments.same, arguments.other
    cases = {
        f"{len(same)} seeds of one recipe": same,
        f"{same[0].name} and {other[0].name}": [same[0], other[0]],
        "both recipes": [*same, *other],
    }
    found = {
        name: compared(runs, arguments.folder / str(number), arguments.root)
        for number, (name, runs) in enumerate(cases.items())
    }
    rows = [[name, len(cases[name]), f"{each['cpu_seconds']:.0f}"] for name, each in found.items()]
    body = [*table(["compared", "runs", "CPU seconds, whole command"], rows), ""]
    body += accuracies(found["both recipes"])
    for name, each in found.items():
        body += ["", f"**{name}**", "", *(f"- {sentence}" for sentence in each["verdict"])]
    write_results("comparing", "Comparisons on CIFAR-10", body, {"comparisons": found})


def compared(runs: list[Path], folder: Path, root: str) -> dict[str, Any]:
    """Return the numbers of a comparison, with its verdict and its cost."""
    command = [sys.executable, "commands.py", "compare", *map(str, runs), f"--output={folder}"]
    seconds = timed([*command, f"data_loading.root={root}"], stdout=subprocess.DEVNULL)
    numbers: dict[str, Any] = json.loads((folder / "report.json").read_text())
    for run in numbers["runs"]:
        run["settings"].pop("weights", None)
        run["name"] = Path(run["name"]).name  # others do not have its folder
    names = {str(run): run.name for run in runs}
    text = json.dumps(numbers, ensure_ascii=False)
    for long, short in names.items():
        text = text.replace(long, short)
    parent = f"{runs[0].parent}/"
    return {**json.loads(text.replace(parent, "")), **seconds}


def accuracies(found: dict[str, Any]) -> list[str]:
    """Return a table of all runs."""
    rows = [
        [
            run["name"],
            run["seed"],
            f"{100 * run['accuracy']['tta']['value']:.2f}",
            f"{100 * run['accuracy']['plain']['value']:.2f}",
        ]
        for run in found["runs"]
    ]
    return table(["run", "seed", "accuracy, %", "one view, %"], rows)


if __name__ == "__main__":
    main()
