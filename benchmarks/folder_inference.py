"""How fast is `infer` on a folder, from a file to a written row, and how much memory does it take?

    python benchmarks/folder_inference.py --checkpoint models/NAME/best.ckpt [--root data] [--photos FOLDER]
    python benchmarks/folder_inference.py --checkpoint models/NAME/best.ckpt --scale 1000 100000

The first form compares `infer --tta=none` with a loop of Pillow and PyTorch: the same network, one image at a time, one
row at a time, on all test images of CIFAR-10 as PNG files, and on photos of 12 megapixels that are drawn from those in
FOLDER. The second measures peak memory and the time to the first row for folders of so many files. For the engine
onnx, and others that compute exported files, `export` must have been run before.

Images per second count from the first file to the last row, without imports and loading. Memory is that of the whole
process.
"""

import argparse
import csv
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import REPOSITORY, in_turn, ratio, spread, table, write_results
from PIL import Image

_LOOP = "loop of Pillow and PyTorch"
_RATE = re.compile(rb"([\d,.]+) images/s")


class Run(NamedTuple):
    """One process."""

    images_per_second: float
    megabytes: float
    """Largest resident size."""
    wall_seconds: float
    cpu_seconds: float
    first_row_seconds: float
    """From the start of the process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--root", type=Path, help="folder of cifar-10-batches-py")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos")
    parser.add_argument("--engines", nargs="+", default=["torch", "onnx"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-photos", type=int, default=40)
    parser.add_argument("--loop-images", type=int, default=10_000, help="the loop stops after so many")
    parser.add_argument("--scale", nargs="+", type=int, help="numbers of files")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        loop(arguments.loop, Path(arguments.checkpoint), arguments.loop_images)
        return
    with tempfile.TemporaryDirectory(prefix="folder_inference_") as scratch:
        (measure_scale if arguments.scale else race)(arguments, Path(scratch))


def race(arguments: argparse.Namespace, scratch: Path) -> None:
    """Compare `infer` with the loop on each folder."""
    folders: dict[str, Path] = {}
    if arguments.root:
        folders["10,000 PNG files of 32 x 32"] = write_test_images(arguments.root, scratch / "png")
    if arguments.photos:
        folder = write_photos(arguments.photos, scratch / "jpeg", arguments.num_photos)
        folders[f"{arguments.num_photos} JPEG photos of 12 megapixels"] = folder
    rows, raw = [], {}
    for title, folder in folders.items():
        commands = {_LOOP: [sys.executable, __file__, f"--loop={folder}", f"--checkpoint={arguments.checkpoint}"]}
        commands[_LOOP].append(f"--loop-images={arguments.loop_images}")
        for name in arguments.engines:
            command = infer_command(arguments.checkpoint, folder, name, scratch / "rows.csv")
            commands[f"`infer --engine={name}`"] = command
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        in_turn({name: partial(measured, command, runs[name]) for name, command in commands.items()}, arguments.rounds)
        base = [one.images_per_second for one in runs[_LOOP]]
        for name, found in runs.items():
            rates = [one.images_per_second for one in found]
            memory, wall, cpu = (
                spread([getattr(one, key) for one in found], digits)
                for key, digits in (("megabytes", 0), ("wall_seconds", 1), ("cpu_seconds", 1))
            )
            rows.append([title, name, spread(rates, 0), ratio(rates, base), memory, wall, cpu])
        raw[title] = {name: [one._asdict() for one in found] for name, found in runs.items()}
    head = ["files", "way", "images/s", "over the loop", "peak MB", "wall s, whole process", "cpu s, whole process"]
    body = [
        f"Medians of {arguments.rounds} rounds, in brackets the range. One view. The loop takes at most "
        f"{arguments.loop_images:,} of the files, evenly spread, the others all.",
        "",
        *table(head, rows),
    ]
    write_results("folder_inference", "Inference on a folder, against a loop", body, {"runs": raw})


def measure_scale(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure memory and the time to the first row for folders of several sizes."""
    engine = arguments.engines[-1]
    runs: dict[str, list[Run]] = {f"{number:,}": [] for number in arguments.scale}
    folders = {name: draw_files(scratch / name, int(name.replace(",", ""))) for name in runs}
    for _ in range(arguments.rounds):
        for name, folder in folders.items():
            runs[name].append(run(infer_command(arguments.checkpoint, folder, engine, None)))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
    rows = [
        [
            name,
            spread([one.megabytes for one in found], 0),
            spread([one.first_row_seconds for one in found], 2),
            spread([one.images_per_second for one in found], 0),
        ]
        for name, found in runs.items()
    ]
    body = [
        f"`infer --engine={engine} --tta=none --format=csv`, {arguments.rounds} runs, medians and ranges. The files "
        "are PNG images of 32 x 32 in folders of 1,000; the time to the first row includes all imports.",
        "",
        *table(["files", "peak MB", "s to the first row", "images/s"], rows),
    ]
    raw = {name: [one._asdict() for one in found] for name, found in runs.items()}
    write_results("folder_scale", "Memory of inference, by the number of files", body, {"engine": engine, "runs": raw})


def infer_command(checkpoint: str, folder: Path, engine: str, output: Path | None) -> list[str]:
    where = [f"--output={output}"] if output else ["--format=csv"]
    settings = [f"--test_dir={folder}", f"--checkpoint_name={checkpoint}", f"--engine={engine}", "--tta=none"]
    return [sys.executable, "commands.py", "infer", *settings, *where]


def run(command: Sequence[str]) -> Run:
    """Run `command`, which says its images per second in the last line of stderr."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout is not None
        process.stdout.readline()
        first_row = len(process.stdout.readline()) and time.perf_counter() - started  # the first line is the header
        while process.stdout.read(1 << 16):
            pass
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = status  # it has been waited for
        messages.seek(0)
        said = messages.read()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{said.decode()}")
    rate = float(_RATE.findall(said)[-1].replace(b",", b""))
    return Run(rate, usage.ru_maxrss / 1024, wall, usage.ru_utime + usage.ru_stime, first_row)


def measured(command: Sequence[str], runs: list[Run]) -> float:
    """Run `command`, add the run to `runs`, and return its images per second."""
    runs.append(run(command))
    return runs[-1].images_per_second


def loop(folder: Path, checkpoint: Path, num_images: int) -> None:
    """Classify files of `folder` one by one, evenly spread: the loop that is in every tutorial."""
    import torch
    from PIL import ImageOps

    from cifar10.runs.checkpoints import load_checkpoint

    found = load_checkpoint(checkpoint)
    network, size = found.network().eval(), found.image_size
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = paths[:: max(len(paths) // num_images, 1)]
    started, seconds = time.perf_counter(), []
    with open(os.devnull, "w", newline="") as file, torch.inference_mode():
        rows = csv.writer(file)
        for path in paths:
            picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous()
            probability, class_id = network(image).softmax(dim=1)[0].max(dim=0)
            rows.writerow([path, found.class_names[int(class_id)], int(class_id), float(probability)])
            seconds.append(time.perf_counter())
    print(f"{len(paths) / (seconds[-1] - started):,.2f} images/s", file=sys.stderr)


def write_test_images(root: Path, folder: Path) -> Path:
    """Write the test images of CIFAR-10 as PNG files, one folder a class."""
    with (root / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    pixels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for number, (image, label) in enumerate(zip(pixels, batch[b"labels"], strict=True)):
        path = folder / str(label) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_photos(originals: Path, folder: Path, count: int) -> Path:
    """Write `count` JPEG files of 4032 x 3024 pixels or the like, enlarged and with a camera's noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sources = sorted(originals.glob("*.jpg"))
    for number, source in enumerate(sources[:count]):
        picture = Image.open(source).convert("RGB")
        size = (4032, 3024) if picture.width >= picture.height else (3024, 4032)
        large = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        large += rng.integers(-6, 7, (*large.shape[:2], 1), dtype=np.int16)
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=90)
    for number in range(len(sources), count):
        os.link(folder / f"{number % len(sources):04}.jpg", folder / f"{number:04}.jpg")
    return folder


def draw_files(folder: Path, count: int) -> Path:
    """Write `count` PNG files: 1,000 different ones, and links to them."""
    rng = np.random.default_rng(0)
    drawn: list[Path] = []
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 1000:
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
            drawn.append(path)
        else:
            os.link(drawn[number % 1000], path)
    return folder


if __name__ == "__main__":
    main()
