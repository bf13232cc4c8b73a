"""Can a folder of photos that is larger than the memory be trained on and tested?

    python benchmarks/photos_beyond_memory.py --originals PHOTOS [--images 4000] [--limit 1.5]

Runs `python commands.py train data_loading=folder`, on images of 448 x 448 pixels and a small network, in a process
whose private memory is limited (`ulimit -d`), and measures the largest anonymous memory that it has: what is not a copy
of a file. Then the same without the file of decoded images, which must be refused.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import REPOSITORY, table, write_results
from photos import make_photos

_SIZE = 448
_SETTINGS = (
    *("model=simple_cnn", "optimizer=adamw", "optimizer.lr=0.01", "schedule=one_cycle", "tracking=none"),
    *("training.epochs=2", "training.batch_size=50", "training.resizing=[{until: 0.999, scale: 0.125}]"),
    *("evaluation.tta=none", "evaluation.batch_size=5", "training.threads=2"),
)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photos"
        make_photos(arguments.originals, root, arguments.images, 640, 480)
        common = [f"data_loading.root={root}", f"data_loading.image_size={_SIZE}", f"models_dir={scratch}/models"]
        stored = run([*common, f"data_loading.cache={scratch}/cache", "run_name=stored"], arguments.limit)
        refused = run([*common, "data_loading.cache=null", "run_name=refused"], arguments.limit)
    pixels = arguments.images * 3 * _SIZE**2 / 2**30
    rows = [
        [name, *(facts[key] for key in ("exit_code", "anonymous_gb", "seconds", "last_line"))]
        for name, facts in (("file of decoded images", stored), ("cache=null", refused))
    ]
    head = ["way", "exit code", "largest anonymous memory, GB", "seconds", "last line"]
    body = [
        f"{arguments.images:,} photos of 640 x 480 pixels, decoded to {_SIZE} x {_SIZE}: {pixels:.2f} GB of pixels; "
        f"private memory limited to {arguments.limit} GB; two epochs and the test.",
        "",
        *table(head, rows),
    ]
    raw = {"pixels_gb": pixels, "limit_gb": arguments.limit, "stored": stored, "refused": refused}
    write_results("photos_beyond_memory", "Training on photos that memory does not hold", body, raw)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, help="photographs, *.jpg, that photos are cut from")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--limit", type=float, default=1.5, help="of private memory, GB")
    return parser.parse_args()


def run(words: list[str], limit_gb: float) -> dict[str, object]:
    """Return exit code, largest anonymous memory in GB, seconds and last line of a run with limited memory."""
    command = [sys.executable, "commands.py", "train", "data_loading=folder", *_SETTINGS, *words]
    limit = int(limit_gb * 2**30)
    started, largest = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # noqa: PLW1509
        )
        while process.poll() is None:
            largest = max(largest, anonymous_bytes(process.pid))
            time.sleep(0.05)
        output.seek(0)
        lines = output.read().strip().splitlines()
    print("\n".join(lines), file=sys.stderr)
    said = next((line for line in lines if line.startswith(("test accuracy", "error"))), lines[-1] if lines else "")
    return {
        "exit_code": process.returncode,
        "anonymous_gb": round(largest / 2**30, 2),
        "seconds": round(time.perf_counter() - started),
        "last_line": said.replace("|", "/"),
    }


def anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
