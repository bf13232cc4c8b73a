"""A working folder in which a small network was trained: models/tiny, its images, and its exported file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tests.faults.forked_commands import Done, forked_commands
from tests.tiny_run import TINY

IMAGES = "data/shapes/test"
CHECKPOINT = Path("models/tiny/best.ckpt")
LAST = Path("models/tiny/last.ckpt")
EXPORTED = Path("models/tiny/export/model.onnx")


def make_trained_folder(folder: Path, *settings: str) -> Path:
    """Train in `folder`, write the images there, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    run(folder, "train", *TINY, "run_name=tiny", *settings)
    run(folder, "data", *TINY, "--export_images")
    return folder


def run(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> Done:
    """Run a command that must succeed."""
    done = forked_commands().run(words, folder, environment)
    assert done.exit_code == 0, f"{words}: {done.stderr}"
    return done


def contents(folder: Path) -> dict[str, str]:
    """Return the path of each file below `folder`, and the SHA-256 of its content; "" for what is no regular file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock" and (path.is_file() or not path.is_dir())
    }
