"""What does a recipe of conf/experiment reach, and at what price?

    python benchmarks/recipe.py [--experiment fast] [--root data] [--seeds 0 1 2] [--overrides KEY=VALUE ...]

Runs `python commands.py train experiment=NAME` once a seed, each in a process of its own, with nothing beside it; each
compiles its kernels anew, as a user's first run does. Writes accuracy, wall and processor time with machine and
versions to results/recipe_NAME_<hardware>_<date>.{json,md}.
Then it exports the test images as PNG and lets `infer` classify them with the first seed's checkpoint: the accuracies
must be equal.

With --keep, a call that has died may be made again: runs that have ended are not trained anew, and one that has not is
resumed, which leads to the same weights.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, forget_kernels, now, origin, result_path, table, timed

from cifar10.config.compose import load_config
from cifar10.files import write_text
from cifar10.runs.provenance import code_digest

_ACCURACIES = ("test/accuracy_tta", "test/accuracy")


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="recipe_") as scratch:
        models = (arguments.keep or Path(scratch) / "models").absolute()
        words = [f"experiment={arguments.experiment}", *arguments.overrides]
        runs = [run_training(seed, words, arguments.root, models) for seed in arguments.seeds]
        checkpoint = models / f"seed{arguments.seeds[0]}" / "best.ckpt"
        inference = run_inference(arguments.experiment, checkpoint, arguments.root.absolute(), Path(scratch))
    kept = {"made": now(), "experiment": arguments.experiment, "overrides": arguments.overrides}
    kept |= {"runs": runs, "inference": inference}
    path = result_path(f"recipe_{arguments.experiment}", runs[0]["machine"], kept["made"])
    path.with_suffix(".json").write_text(json.dumps(kept, indent=2) + "\n")
    path.write_text("\n".join(report(arguments.experiment, runs, inference, arguments.overrides)) + "\n")
    print(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="fast", help="a file of conf/experiment")
    parser.add_argument("--root", type=Path, default=REPOSITORY / "data", help="holds the CIFAR files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--overrides", nargs="*", default=[], help="given to train as they are")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the runs, and to find them again")
    return parser.parse_args()


def run_training(seed: int, words: list[str], root: Path, models: Path) -> dict[str, Any]:
    """Train in `models` once, or go on where a call that died has stopped.

    A call that died counts until its last checkpoint, for what came after is done again; nobody knows its processor
    time, which is None then.

    Returns:
        The run's scores, how many calls it took, and their wall_seconds and cpu_seconds together.
    """
    name = f"seed{seed}"
    record, checkpoint = models / f"{name}.json", models / name / "last.ckpt"
    made_by = {"config": load_config(words).plain(), "code": code_digest()}
    kept: dict[str, Any] = {"made_by": made_by, "calls": []}
    if record.exists():
        kept = json.loads(record.read_text())
    if kept["made_by"] != made_by:
        sys.exit(f"{record} is of other code or another recipe; choose another folder with --keep")
    if "run" not in kept:
        calls = [call if "wall_seconds" in call else _cut_off(call, checkpoint) for call in kept["calls"]]
        is_begun = bool(calls) and checkpoint.exists()
        kept["calls"] = [*calls, {"started": time.time()}]
        models.mkdir(parents=True, exist_ok=True)
        _write(record, kept)
        places = [f"data_loading.root={root.absolute()}", f"models_dir={models}"]
        places += [f"tracking.uri=sqlite:///{models}/mlflow.db", f"tracking.artifacts={models}/artifacts"]
        command = ["--resume", str(checkpoint)] if is_begun else [*words, *places, f"seed={seed}", f"run_name={name}"]
        forget_kernels()
        kept["calls"] = [*calls, timed([sys.executable, "commands.py", "train", *command])]
        facts = json.loads((models / name / "scores.json").read_text())
        kept["run"] = {**facts, **{key: _sum(kept["calls"], key) for key in ("wall_seconds", "cpu_seconds")}}
        _write(record, kept)
    return {**kept["run"], "calls": len(kept["calls"])}


def _write(record: Path, kept: dict[str, Any]) -> None:
    write_text(record, json.dumps(kept))


def _cut_off(call: dict[str, float], checkpoint: Path) -> dict[str, float | None]:
    saved = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
    return {"wall_seconds": max(0.0, saved - call["started"]), "cpu_seconds": None}


def _sum(calls: list[dict[str, Any]], key: str) -> float | None:
    values = [call[key] for call in calls]
    return None if None in values else sum(values)


def run_inference(experiment: str, checkpoint: Path, root: Path, scratch: Path) -> dict[str, Any]:
    """Classify the exported test images of the experiment's data; return accuracy and the process's seconds."""
    link = scratch / "root"
    link.mkdir()
    for folder in root.glob("cifar-*"):
        (link / folder.name).symlink_to(folder)
    data = [f"experiment={experiment}", f"data_loading.root={link}"]
    timed([sys.executable, "commands.py", "data", "--export_images", *data])
    images = link / "test"
    table = scratch / "predictions.jsonl"
    command = [sys.executable, "commands.py", "infer", f"--test_dir={images}", f"--checkpoint_name={checkpoint}"]
    seconds = timed([*command, f"--output={table}"])
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    right = sum(Path(row["path"]).parts[0] == row["class_name"] for row in rows)
    return {"images": len(rows), "right": right, **seconds}


def report(experiment: str, runs: list[dict[str, Any]], inference: dict[str, Any], overrides: list[str]) -> list[str]:
    first = runs[0]
    command = " ".join([f"python commands.py train experiment={experiment}", *overrides, "seed=S"])
    rows = []
    for run in runs:
        tta, plain = (f"{100 * run[key]:.2f} %" for key in _ACCURACIES)
        seconds = ("unknown" if run[key] is None else f"{run[key]:.0f}" for key in ("wall_seconds", "cpu_seconds"))
        rows.append([run["seed"], tta, plain, *seconds, run["calls"], run["weights_digest"][:12]])
    lines = [
        f"# The recipe `{experiment}`",
        "",
        *origin({**first, "command": command}),
        f"Computed in {first['precision']}. n = {len(runs)} seeds.",
        "",
        *table(["seed", "test accuracy, TTA", "plain", "wall s", "cpu s", "calls", "weights SHA-256"], rows),
    ]
    figures = (*_ACCURACIES, "wall_seconds", "cpu_seconds")
    lines += ["", *(spread(runs, key) for key in figures if all(run[key] is not None for run in runs))]
    same = inference["right"] == round(first["test/accuracy_tta"] * inference["images"])
    lines += [
        "",
        f"`infer` on the {inference['images']:,} exported PNG files, seed {first['seed']}: "
        f"{inference['right']:,} right, {'exactly' if same else 'NOT'} what training reported; "
        f"{inference['wall_seconds']:.0f} s wall, {inference['cpu_seconds']:.0f} s cpu.",
    ]
    return lines


def spread(runs: list[dict[str, Any]], key: str) -> str:
    """Return mean, median and standard deviation of one figure; accuracies in percent, times in seconds."""
    scale, digits, unit = (100, 2, "%") if key in _ACCURACIES else (1, 0, "s")
    values = [scale * float(run[key]) for run in runs]
    figures = {"mean": statistics.mean(values), "median": statistics.median(values)}
    if len(values) > 1:
        figures["standard deviation"] = statistics.stdev(values)
    return f"- {key}: " + ", ".join(f"{name} {value:.{digits}f} {unit}" for name, value in figures.items())


if __name__ == "__main__":
    main()
