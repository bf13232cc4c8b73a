"""How long does `explore` take, and how many known near-duplicates and wrong labels does it show first?

    python benchmarks/exploring.py --root data --known EXTRA [--parts pairs labels peers] [--checkpoint FILE]
        [--peers PYTHON]

Each way is a process of its own, `python commands.py explore`, on all 60,000 images of CIFAR-10. `EXTRA` is a folder of
lists by others: duplicates_cifar10.csv (ciFAIR: test images with a near-duplicate in training), cifar10_mturk.json
(suspected labels with the votes of five people each) and cifar10h-probs.npy (how some fifty people label each image).
Nothing is tuned on single entries of them. `PYTHON` is an interpreter that has the packages imagededup and cleanvision.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import table, timed, write_results

_SHOWN = (100, 200, 286, 300, 400, 500, 1000)
SHOWN_AS = {"all pairs": (True, False), "without mirrored pairs": (False,)}
_PEERS = Path(__file__).with_name("explore_peers.py")


def main() -> None:
    arguments = parse_arguments()
    known = {int(row["TestID"]) for row in rows_of(arguments.known / "duplicates_cifar10.csv")}
    raw: dict[str, object] = {}
    body: list[str] = []
    times: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "pairs" in arguments.parts:
            measure_pairs(arguments, known, scratch, raw, body, times)
        if "labels" in arguments.parts:
            seconds = explore(arguments.root, scratch / "labels", "--labels")
            times.append(timing("explore --labels", seconds))
            lines, raw["labels"] = label_counts(scratch / "labels" / "suspected_labels.csv", arguments.known)
            raw["labels_seconds"] = seconds
            body += [*lines, ""]
        if "peers" in arguments.parts:
            folder = export(arguments.root, scratch)
            for peer in ("imagededup-phash", "cleanvision"):
                answer = measured_peer(arguments.peers, peer, folder, known)
                times.append(timing(peer, answer))
                raw[peer] = answer
                body += [f"{peer}: {answer['found']} of the known ones among {answer['reported']} test images that it "
                         "reports to have a near-duplicate in training.", ""]  # fmt: skip
    body += ["Whole processes, start and report included; the peers read the same images as PNG files:", ""]
    body += table(["program", "wall s", "cpu s", "memory MB"], times)
    write_results("exploring", "Exploring CIFAR-10: time, near-duplicates, wrong labels", body, raw)


def measure_pairs(
    arguments: argparse.Namespace,
    known: set[int],
    scratch: Path,
    raw: dict[str, object],
    body: list[str],
    times: list[list[str]],
) -> None:
    """Explore without labels, and add what was found to `raw`, `body` and `times`."""
    ways: dict[str, list[str]] = {"edges and colours": []}
    if arguments.checkpoint is not None:
        ways["and embeddings"] = [f"--checkpoint_name={arguments.checkpoint}"]
    counts = []
    for name, words in ways.items():
        output = scratch / name.replace(" ", "-")
        seconds = explore(arguments.root, output, *words)
        times.append(timing(f"explore, {name}", seconds))
        first: dict[str, list[int]] = {}
        for shown_as, mirrored in SHOWN_AS.items():
            shown = images_shown(output / "near_duplicates.csv", mirrored)
            found = np.cumsum([image in known for image in shown])
            counts.append([f"{name}: {shown_as}", *(int(found[min(most, len(found)) - 1]) for most in _SHOWN)])
            counts[-1].append(int(found[-1]))
            first[shown_as] = shown[:1000]
        raw[name] = {**seconds, **first}
    body += [f"Of {len(known)} known near-duplicates, how many are among the first images shown:", ""]
    body += [*table(["way", *map(str, _SHOWN), "all ranked"], counts), ""]


def timing(name: str, seconds: dict[str, float]) -> list[str]:
    memory = seconds.get("memory_megabytes")
    shown = "-" if memory is None else f"{memory:,.0f}"
    return [name, f"{seconds['wall_seconds']:.0f}", f"{seconds['cpu_seconds']:.0f}", shown]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="holds cifar-10-batches-py")
    parser.add_argument("--known", type=Path, required=True, help="folder of the lists")
    parser.add_argument("--checkpoint", type=Path, help="whose embeddings are compared as well")
    parser.add_argument("--parts", nargs="+", choices=["pairs", "labels", "peers"], default=["pairs"])
    parser.add_argument("--peers", type=Path, help="an interpreter with imagededup and cleanvision")
    arguments = parser.parse_args()
    if "peers" in arguments.parts and arguments.peers is None:
        parser.error("the part peers needs --peers PYTHON")
    return arguments


def explore(root: Path, output: Path, *words: str) -> dict[str, float]:
    """Explore CIFAR-10; return the seconds and the largest resident memory."""
    command = [sys.executable, "commands.py", "explore", f"data_loading.root={root}", f"--output={output}", *words]
    if (gnu_time := shutil.which("time")) is None:
        return timed(command)
    note = output.with_suffix(".time")
    seconds = timed([gnu_time, "--format=%M", f"--output={note}", *command])
    return {**seconds, "memory_megabytes": int(note.read_text().split()[-1]) / 1024}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def images_shown(path: Path, mirrored: tuple[bool, ...]) -> list[int]:
    """Return the test images with a pair in training, in the order of the gallery: each once.

    Args:
        path: The table of pairs.
        mirrored: Which pairs count: mirrored ones (True), others (False).
    """
    pairs = [
        row
        for row in rows_of(path)
        if (row["first_split"], row["second_split"]) == ("train", "test") and (row["mirrored"] == "True") in mirrored
    ]
    return list(dict.fromkeys(int(row["second_position"]) for row in pairs))


def label_counts(path: Path, known: Path) -> tuple[list[str], dict[str, object]]:
    """Return how many labels that people reject are ranked first among those of the test split."""
    table_rows = [row for row in rows_of(path) if row["split"] == "test"]
    votes = json.loads((known / "cifar10_mturk.json").read_text())
    rejected = {entry["id"] for entry in votes if entry["mturk"]["given"] < 3}
    people = np.load(known / "cifar10h-probs.npy")
    names = sorted({row["class"] for row in table_rows})
    otherwise = {
        number for row in table_rows if names[int(people[number := int(row["position"])].argmax())] != row["class"]
    }
    rows = []
    for way, ranked in rankings(table_rows).items():
        for what, wanted in (("rejected by people", rejected), ("most people see another class", otherwise)):
            found = np.cumsum([image in wanted for image in ranked])
            rows.append([way, what, len(wanted), *(int(found[most - 1]) for most in _SHOWN)])
    num_suspected = sum(row["suspected"] == "True" for row in table_rows)
    lines = [
        "Labels of the test split, how many are among the first of the ranking. Only 275 images, which confident "
        "learning had suspected, were shown to the people whose rejections are counted:",
        "",
        *table(["ranking", "labels", "of", *map(str, _SHOWN)], rows),
        "",
        f"Confident learning suspects {num_suspected:,} labels of the test split.",
    ]
    first = {way: images[:1000] for way, images in rankings(table_rows).items()}
    return lines, {"ranked": first, "rows": rows}


def rankings(rows: list[dict[str, str]]) -> dict[str, list[int]]:
    """Return the positions of labels, ranked by our table and by two rankings of cleanlab, with the same probabilities.

    `find_label_issues(return_indices_ranked_by="self_confidence")` has the suspected labels only; the others follow
    here.
    """
    by_confidence = sorted(rows, key=lambda row: float(row["probability"]))
    suspected_first = sorted(by_confidence, key=lambda row: row["suspected"] != "True")
    ways = {"explore": rows, "cleanlab, self-confidence": by_confidence, "confident learning": suspected_first}
    return {way: [int(row["position"]) for row in ranked] for way, ranked in ways.items()}


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
