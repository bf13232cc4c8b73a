"""How long does `explore` take, and how many known near-duplicates and wrong labels does it show first?

    python benchmarks/exploring.py --root data --known EXTRA [--checkpoint FILE] [--labels] [--peers PYTHON]

Each way is a process of its own, `python commands.py explore`, on all 60,000 images of CIFAR-10. `EXTRA` is a folder of
lists by others: duplicates_cifar10.csv (ciFAIR: test images with a near-duplicate in training), cifar10_mturk.json
(suspected labels with the votes of five people each) and cifar10h-probs.npy (how some fifty people label each image).
Nothing is tuned on single entries of them. `PYTHON` is an interpreter that has the packages imagededup and cleanvision.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import table, timed, write_results

_SHOWN = (100, 200, 286, 300, 400, 500, 1000)
_PEERS = Path(__file__).with_name("explore_peers.py")


def main() -> None:
    arguments = parse_arguments()
    ways: dict[str, list[str]] = {"edges and colours": []}
    if arguments.checkpoint is not None:
        ways["and embeddings"] = [f"--checkpoint_name={arguments.checkpoint}"]
    known = {int(row["TestID"]) for row in rows_of(arguments.known / "duplicates_cifar10.csv")}
    raw: dict[str, object] = {}
    body: list[str] = []
    counts, times = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, words in ways.items():
            output = Path(scratch) / name.replace(" ", "-")
            seconds = explore(arguments.root, output, *words)
            shown = images_shown(output / "near_duplicates.csv")
            found = np.cumsum([image in known for image in shown])
            counts.append([name, *(int(found[min(most, len(found)) - 1]) for most in _SHOWN), int(found[-1])])
            times.append([f"explore, {name}", f"{seconds['wall_seconds']:.0f}", f"{seconds['cpu_seconds']:.0f}"])
            raw[name] = {**seconds, "shown": [int(image) for image in shown[:1000]]}
        body += [f"Of {len(known)} known near-duplicates, how many are among the first images shown:", ""]
        body += [*table(["way", *map(str, _SHOWN), "all ranked"], counts), ""]
        if arguments.labels:
            output = Path(scratch) / "labels"
            seconds = explore(arguments.root, output, "--labels")
            times.append(["explore --labels", f"{seconds['wall_seconds']:.0f}", f"{seconds['cpu_seconds']:.0f}"])
            lines, raw["labels"] = label_counts(output / "suspected_labels.csv", arguments.known)
            raw["labels_seconds"] = seconds
            body += [*lines, ""]
        if arguments.peers is not None:
            folder = export(arguments.root, Path(scratch))
            for peer in ("imagededup-phash", "cleanvision"):
                answer = measured_peer(arguments.peers, peer, folder, known)
                times.append([peer, f"{answer['wall_seconds']:.0f}", f"{answer['cpu_seconds']:.0f}"])
                raw[peer] = answer
                body += [f"{peer}: {answer['found']} of the known ones among {answer['reported']} test images that it "
                         "reports to have a near-duplicate in training.", ""]  # fmt: skip
    body += ["Whole processes, start and report included; the peers read the same images as PNG files:", ""]
    body += table(["program", "wall s", "cpu s"], times)
    write_results("exploring", "Exploring CIFAR-10: time, near-duplicates, wrong labels", body, raw)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="holds cifar-10-batches-py")
    parser.add_argument("--known", type=Path, required=True, help="folder of the lists")
    parser.add_argument("--checkpoint", type=Path, help="whose embeddings are compared as well")
    parser.add_argument("--labels", action="store_true", help="also judge the labels")
    parser.add_argument("--peers", type=Path, help="an interpreter with imagededup and cleanvision")
    return parser.parse_args()


def explore(root: Path, output: Path, *words: str) -> dict[str, float]:
    """Explore CIFAR-10; return the seconds."""
    command = [sys.executable, "commands.py", "explore", f"data_loading.root={root}", f"--output={output}", *words]
    return timed(command)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def images_shown(path: Path) -> list[int]:
    """Return the test images with a pair in training, in the order of the gallery: each once."""
    pairs = [row for row in rows_of(path) if (row["first_split"], row["second_split"]) == ("train", "test")]
    return list(dict.fromkeys(int(row["second_position"]) for row in pairs))


def label_counts(path: Path, known: Path) -> tuple[list[str], dict[str, object]]:
    """Return how many labels that people reject are ranked first among those of the test split."""
    ranked = [int(row["position"]) for row in rows_of(path) if row["split"] == "test"]
    votes = json.loads((known / "cifar10_mturk.json").read_text())
    rejected = {entry["id"] for entry in votes if entry["mturk"]["given"] < 3}
    people = np.load(known / "cifar10h-probs.npy")
    labels = {int(row["position"]): row["class"] for row in rows_of(path) if row["split"] == "test"}
    names = sorted(set(labels.values()))
    otherwise = {image for image in ranked if names[int(people[image].argmax())] != labels[image]}
    rows = []
    for what, wanted in (("rejected by people", rejected), ("most people see another class", otherwise)):
        found = np.cumsum([image in wanted for image in ranked])
        rows.append([what, len(wanted), *(int(found[most - 1]) for most in _SHOWN)])
    lines = [
        "Labels of the test split, how many are among the first of the ranking. Only 275 images, which confident "
        "learning had suspected, were shown to the people whose rejections are counted in the first row:",
        "",
        *table(["labels", "of", *map(str, _SHOWN)], rows),
    ]
    return lines, {"ranked": ranked[:1000], "rows": rows}


def export(root: Path, scratch: Path) -> Path:
    """Write all images as PNG files, and return their folder."""
    data = scratch / "data"
    data.mkdir()
    (data / "cifar-10-batches-py").symlink_to((root / "cifar-10-batches-py").resolve())
    timed([sys.executable, "commands.py", "data", f"data_loading.root={data}", "--export_images"])
    return data


def measured_peer(python: Path, peer: str, folder: Path, known: set[int]) -> dict[str, float]:
    started = time.perf_counter()
    result = subprocess.run([python, _PEERS, peer, folder], check=True, stdout=subprocess.PIPE, text=True)
    answer = json.loads(result.stdout.splitlines()[-1])
    found = len(known & set(answer["images"]))
    return {
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": answer["cpu_seconds"],
        "found": found,
        "reported": len(answer["images"]),
    }


if __name__ == "__main__":
    main()
