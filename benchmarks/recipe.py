"""What does a recipe of conf/experiment reach, and at what price?

    python benchmarks/recipe.py [--experiment fast] [--root data] [--seeds 0 1 2] [--overrides KEY=VALUE ...]

Runs `python commands.py train experiment=NAME` once a seed, each in a process of its own, with nothing beside it, and
writes accuracy, wall and processor time with machine and versions to results/recipe_NAME_<hardware>_<date>.{json,md}.
Then it exports the test images as PNG and lets `infer` classify them with the first seed's checkpoint: the accuracies
must be equal.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, now, origin, result_path, table, timed

_ACCURACIES = ("test/accuracy_tta", "test/accuracy")


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="recipe_") as scratch:
        models = Path(scratch) / "models"
        common = [
            f"experiment={arguments.experiment}",
            f"data_loading.root={arguments.root.absolute()}",
            f"models_dir={models}",
            "tracking.system_metrics=false",
        ]
        common += [f"tracking.uri=sqlite:///{scratch}/mlflow.db", f"tracking.artifacts={scratch}/artifacts"]
        runs = [run_training(seed, [*common, *arguments.overrides], models) for seed in arguments.seeds]
        checkpoint = models / f"seed{arguments.seeds[0]}" / "best.ckpt"
        inference = run_inference(arguments.experiment, checkpoint, arguments.root.absolute(), Path(scratch))
        if arguments.keep is not None:
            shutil.copytree(models, arguments.keep, dirs_exist_ok=True)
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
    parser.add_argument("--keep", type=Path, default=None, help="copy the runs' folders here")
    return parser.parse_args()


def run_training(seed: int, overrides: list[str], models: Path) -> dict[str, Any]:
    """Train once; return the run's own scores and the whole process's wall and processor seconds."""
    name = f"seed{seed}"
    seconds = timed([sys.executable, "commands.py", "train", *overrides, f"seed={seed}", f"run_name={name}"])
    facts = json.loads((models / name / "scores.json").read_text())
    return {**facts, **seconds}


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
        seconds = (f"{run[key]:.0f}" for key in ("wall_seconds", "cpu_seconds"))
        rows.append([run["seed"], tta, plain, *seconds, run["weights_digest"][:12]])
    lines = [
        f"# The recipe `{experiment}`",
        "",
        *origin({**first, "command": command}),
        f"Computed in {first['precision']}. n = {len(runs)} seeds.",
        "",
        *table(["seed", "test accuracy, TTA", "plain", "wall s", "cpu s", "weights SHA-256"], rows),
    ]
    lines += ["", *(spread(runs, key) for key in (*_ACCURACIES, "wall_seconds", "cpu_seconds"))]
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
