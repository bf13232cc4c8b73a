"""Does `reproduce` say yes for an honest run, and no for copies of it that were tampered with?

    python benchmarks/reproducing.py --folder runs [--root data]

Trains one epoch of `experiment=speedrun`, copies the run, changes the copies, and reproduces all of them.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import REPOSITORY, table, timed, write_results

RECIPE = ("experiment=speedrun", "training.epochs=1", "seed=21", "tracking=none")
RATE = 1.05
"""Of the learning rate that was used: what a tampered run claims."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the runs")
    parser.add_argument("--root", default="data", help="holds cifar-10-batches-py")
    arguments = parser.parse_args()
    folder = arguments.folder
    place = [f"models_dir={folder}", f"data_loading.root={arguments.root}"]
    trained = timed([sys.executable, "commands.py", "train", *RECIPE, *place, "run_name=honest"])
    ways: dict[str, Callable[[Path], None]] = {
        "honest": lambda run: None,
        "config.yaml: another learning rate": in_config,
        "config.yaml and checkpoints: another learning rate": everywhere,
        "scores.json: another accuracy": in_scores,
    }
    found = {}
    for number, (name, change) in enumerate(ways.items()):
        run = folder / ("honest" if number == 0 else f"copy{number}")
        if number:
            shutil.copytree(folder / "honest", run)
        change(run)
        command = [sys.executable, "commands.py", "reproduce", str(run), *place]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
        verdict = done.stdout.splitlines()[-1].replace(f"{folder}/", "")
        found[name] = {"exit_code": done.returncode, "verdict": verdict}
    rows = [[name, each["exit_code"], each["verdict"]] for name, each in found.items()]
    scores = json.loads((folder / "honest" / "scores.json").read_text())
    body = [
        f"The run: `{' '.join(RECIPE)}`, {100 * scores['test/accuracy']:.2f} % with one view, "
        f"{trained['wall_seconds']:.0f} s, {scores['precision']}, {scores['threads']} threads.",
        "",
        *table(["what was changed after the training", "exit code", "verdict"], rows),
    ]
    write_results("reproducing", "Reproductions on CIFAR-10", body, {"reproductions": found, "trained": trained})


def in_config(run: Path) -> None:
    """Change the learning rate in the YAML file."""
    text = (run / "config.yaml").read_text()
    rate = torch.load(run / "best.ckpt", weights_only=True)["cifar10"]["config"]["optimizer"]["lr"]
    assert f"  lr: {rate}\n" in text
    (run / "config.yaml").write_text(text.replace(f"  lr: {rate}\n", f"  lr: {rate * RATE}\n"))


def everywhere(run: Path) -> None:
    """Change the learning rate in the YAML file and in the checkpoints."""
    in_config(run)
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(run / name, weights_only=True)
        content["cifar10"]["config"]["optimizer"]["lr"] *= RATE
        (run / name).unlink()  # the two are one file
        torch.save(content, run / name)


def in_scores(run: Path) -> None:
    """Add two points of accuracy."""
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**scores, "test/accuracy": scores["test/accuracy"] + 0.02}))


if __name__ == "__main__":
    main()
