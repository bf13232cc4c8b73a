"""Command lines that cannot be meant, with a part of what the program says. The page of them is made from this table.

To write the page again: python -m tests.cli.wrong_lines
"""

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import commands
from cifar10.cli.command_line import main
from tests.documented import DOCS, ROOT

PAGE = DOCS / "wrong_command_lines.md"
ENTRY_POINTS = (
    *("train", "probe", "sweep", "compare_pooling", "infer", "batch", "verify", "similar", "evaluate", "compare"),
    *("reproduce", "export", "benchmark", "promote", "serve", "app", "feedback", "explore", "sync", "prepare_data"),
    *("doctor", "demo", "laboratory.workers", "studies.opening"),
)

IMAGES = "--test_dir=photos"
WRONG_BY_KIND = {
    "The command": {
        "trian": "did you mean train?",
        "Train": "did you mean train?",
        "fit": "there is no command 'fit'",
        "model=resnet18": "write python commands.py train model=resnet18",
        "--test_dir photos": "--test_dir stands before the command",
        "version": "did you mean --version?",
        "help trian": "did you mean train?",
        "trian --help": "did you mean train?",
        "-": "before the command",
        "verify": "verify needs FILE",
        "verify nothing.csv": "is not there",
        "verify notes.txt": "is empty",
        "batch photos --checkpoint_name=first": "batch needs OUTPUT",
        "infer photos --checkpoint_name=first --receipts": "choose --format=csv, jsonl or parquet",
        "export --checkpoint_name=first --register=a/b": "the name of a model has letters",
    },
    "Flags that do not exist": {
        "train --epochs 5": "did you mean training.epochs=5?",
        "train --epochs=5": "did you mean training.epochs=5?",
        "train --training.epochs=5": "did you mean training.epochs=5?",
        "train --model resnet18": "did you mean model=resnet18?",
        "train --seed 1 --seed 2": "did you mean seed=1?",
        "train --lr": "did you mean optimizer.lr=VALUE?",
        "train --test_dir photos": "--test_dir belongs to infer, batch, verify and similar, not to train",
        "train --checkpoint_name best": "belongs to infer, batch, verify, similar, evaluate, reproduce, export",
        "train weights=nope": "there is no checkpoint nope",
        "config metric=f1,recall": "a list is written 'metric=[f1,recall]'",
        "train --batch_size 32": "did you mean training.batch_size=32?",
        "train --learning-rate=0.1": "did you mean optimizer.lr=0.1?",
        "train -m seed=1,2": "Hydra's own flags are not known here",
        "config --cfg job": "Hydra's own flags are not known here",
        "train --xyzzy": "settings are changed as in training.epochs=5",
        "train --resumee first": "did you mean --resume?",
        "train -r first": "two hyphens",
        "train -resume first": "did you mean --resume?",
        "train \u2014resume first": "did you mean --resume?",
        "infer --dir photos": "did you mean --test_dir?",
        "infer --testdir photos": "did you mean --test_dir?",
        "infer --test_dri photos": "did you mean --test_dir?",
        f"infer {IMAGES} --checkpoint first": "did you mean --checkpoint_name?",
        f"infer {IMAGES} --resume first": "'first' is left over",
        f"infer {IMAGES} --resume": "name it with --output=FILE",
        f"infer {IMAGES} --interactive": "has no flag --interactive; its flags: --test_dir",
        f"infer {IMAGES} -k 3": "two hyphens",
        "evaluate --test_dir=photos": "belongs to infer, batch, verify and similar, not to evaluate",
        "data --export-image": "did you mean --export_images?",
        "config --export_images": "belongs to data, not to config",
        "demo --fast": "demo has no flag --fast",
    },
    "Values that are missing, doubled or not possible": {
        "infer": "infer needs TEST_DIR",
        "infer --test_dir": "--test_dir needs a value",
        "infer --test_dir --top_k 3": "--top_k follows",
        "infer --test_dir=": "--test_dir is empty",
        "infer --test_dir = photos": "without spaces",
        f"infer {IMAGES} --test_dir=one.png": "given twice: photos and one.png",
        f"infer photos {IMAGES}": "given twice",
        f"infer {IMAGES} --top_k": "--top_k needs a value: --top_k=N",
        f"infer {IMAGES} --top_k 0": "must be a whole number, 1 or more",
        f"infer {IMAGES} --top_k -1": "must be a whole number, 1 or more",
        f"infer {IMAGES} --top_k=three": "--top_k=three: must be a whole number",
        f"infer {IMAGES} --batch_size 1e3": "--batch_size=1e3: must be a whole number",
        f"infer {IMAGES} --format=cvs": "did you mean csv?",
        f"infer {IMAGES} --tta flip": "must be one of none, mirror, mirror_translate",
        f"infer {IMAGES} --device gpu": "did you mean cuda?",
        f"infer {IMAGES} --engine trch": "engine=trch: there is no such engine; did you mean torch?",
        "train --resume": "--resume needs a value",
        "train --resume=first --resume=second": "given twice",
        "data --export_images=maybe": "must be true or false",
        "data --export_images true": "write --export_images=true",
        "data --no-export_images=true": "write --export_images=true or --export_images=false",
    },
    "Words that are left over": {
        "infer photos one.png": "'one.png' is left over; to give a glob, put it in quotes",
        "infer --test_dir my photos": "a name with spaces needs quotes: 'my photos'",
        f"infer {IMAGES} top_k=3": "did you mean --top_k=3?",
        f"infer {IMAGES} - one.png": "a lone - means nothing here",
        f"infer {IMAGES} training.epochs=5": "infer takes no settings",
        f"infer {IMAGES} model=resnt152_imagenet": "did you mean resnet152_imagenet?",
        f"infer {IMAGES} model=resnet18": "model=resnet18 has no trained weights; choose model=NAME_imagenet",
        f"infer {IMAGES} model=resnet18_imagenet --checkpoint_name=first": "are two networks",
        f"infer {IMAGES} model=resnet18_imagenet model.weights=nope.pth": "there is no file nope.pth",
        f"infer {IMAGES} model=resnet18_imagenet --engine=onnx": "computed by torch; export it first",
        f"infer {IMAGES} grouping=cats_v_dogs": "did you mean cats_vs_dogs?",
        f"infer {IMAGES} grouping.threshold=0.7": "choose a grouping",
        f"infer {IMAGES} grouping=cats_vs_dogs grouping.groups=x": "only grouping.threshold",
        f"infer {IMAGES} grouping=cats_vs_dogs grouping.threshold=2": "less than or equal to 1",
        "demo now": "'now' is left over",
        "train model resnet18": "write model=NAME, with NAME one of imagenet, pooling_cnn, resnet18",
        "train training.epochs 5": "training.epochs is not KEY=VALUE",
        "train seed = 5": "seed is not KEY=VALUE",
        "train seed= 5": "without spaces",
        "train =5": "without spaces",
        "train -- --resume=first": "flags stand before the --",
        "train -": "a lone - means nothing here",
        "train resume=first": "did you mean --resume=first?",
        "data export_images=true": "did you mean --export_images=true?",
    },
    "Files that do not exist": {
        "infer --test_dir=phtos": "there is no folder or file phtos; did you mean photos?",
        "infer --test_dir=photos/dog": "there is no folder or file photos/dog",
        "infer --test_dir=*.jpg": "nothing matches *.jpg",
        f"infer {IMAGES} --checkpoint_name=frist": "/models/; did you mean first?",
        "infer --test_dir=empty": "no images in 'empty'",
        f"infer {IMAGES} --output=nowhere/a.csv": "there is no folder",
        f"infer {IMAGES} --output=photos --format=csv": "is a folder",
        f"infer {IMAGES} --output=answers.xls": "its suffix names no format",
        f"infer {IMAGES} --format=parquet": "--output=FILE.parquet",
        "evaluate --checkpoint_name=frist": "did you mean first?",
        "evaluate frist": "did you mean first?",
        "evaluate first --output=notes.txt": "notes.txt is a file; name a folder",
        "evaluate first --output=a/b": "there is no folder a",
        "evaluate first --split=tset": "must be one of train, val, test; did you mean test?",
        "evaluate first --corruptions": "--corruptions needs a value",
        "evaluate first --corruptions=nosie": "there is no nosie; did you mean noise?",
        "evaluate first --engine=onxx": "there is no such engine; did you mean onnx?",
        "evaluate first --honest=notes.txt": "notes.txt is a file; name a folder",
        "evaluate first --report=false --corruptions=all": "--report=false prints scores only",
        f"evaluate {32 * 'a'}": "a checkpoint from MLflow has no folder here; add --output=DIR",
        "export first --output=notes.txt": "notes.txt is a file; name a folder",
        "export model=resnet18_imagenet --output=notes.txt": "notes.txt is a file; name a folder",
        "benchmark first --output=notes.txt": "notes.txt is a file; name a folder",
        "export first --temperature=2": "add --output=DIR",
        "export first --temperature=0 --output=new": "must be between 0.01 and 100",
        "export first --temperature=nowhere --output=new": "there is no file nowhere",
        "train --resume=frist": "did you mean first?",
        "train --resume=last": "/models/ has a last.ckpt",
        "train --resume=first seed=2": "leave out seed=2",
        "train --resume=models/first/best.ckpt training.epochs=x": "training.epochs: must be a whole number, not x",
        "train --resume=models/first/best.ckpt training.devices=": "training.devices: must be a whole number",
        "train --resume=models/first/best.ckpt tracking=mlfow": "did you mean mlflow?",
    },
    "Settings": {
        "train model=resnt18": "did you mean resnet18?",
        "train training.epochs=abc": "training.epochs: must be a whole number, not abc",
        "train training.epoch=5": "did you mean training.epochs?",
        "train training.epochs=1,2": "a list is written 'training.epochs=[1,2]'",
        "data data_loadin=cifar10": "did you mean data_loading?",
        "config run_name=\u043a\u043e\u0442": "Hydra reads \u043a\u043e\u0442 only in quotes",
        "train hydra.run.dir=x": "Hydra only composes here",
        "train model._target_=os.system": "os.system may not be used",
    },
}


WRONG = {line: said for lines in WRONG_BY_KIND.values() for line, said in lines.items()}


def write_folder(folder: Path) -> None:
    """Write some images, a run and a file, from whose folder the commands are given."""
    for name in ("photos/cat/1.png", "photos/cat/2.png", "my photos/3.png", "one.png", "models/first/best.ckpt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("")


class _StandIn(ModuleType):
    """Stands for the module of an entry point; notes its name in `started` when anything of it is called."""

    def __init__(self, name: str, started: list[str]) -> None:
        super().__init__(f"cifar10.{name}")
        self._started = started

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*_: Any, **__: Any) -> Any:
            self._started.append(self.__name__)
            return 0 if name == "app" else mock.MagicMock(num_failed=0)  # what is returned there is the exit code

        return note


@contextlib.contextmanager
def stand_ins() -> Iterator[list[str]]:
    """Replace all entry points, and yield the list of those that are started."""
    started: list[str] = []
    stands = {f"cifar10.{name}": _StandIn(name, started) for name in ENTRY_POINTS}
    replaced = {name: sys.modules[name] for name in stands if name in sys.modules}
    sys.modules.update(stands)
    try:
        yield started
    finally:
        for name in stands:
            del sys.modules[name]
        sys.modules.update(replaced)


def shown(stderr: str, folder: Path) -> str:
    """Return the first line that the program prints, as the page shows it: the same on every machine."""
    line = stderr.splitlines()[0].removeprefix("error: ")
    return line.replace(str(folder), "/home/me/project").replace(str(ROOT), "/home/me/project")


_ROW = re.compile(r"^\| `(.+)` \| `(.+)` \|$", re.MULTILINE)


def rows_of_page() -> dict[str, str]:
    """Return line -> what is said, as the page shows them."""
    return dict(_ROW.findall(PAGE.read_text(encoding="utf-8")))


def page() -> str:
    """Return the page: its head as it is, and a table for each kind."""
    head = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    parts = [head.rstrip()]
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), stand_ins():
        write_folder(Path())
        for kind, lines in WRONG_BY_KIND.items():
            rows = [f"| {_code(line)} | {_code(_said(line))} |" for line in lines]
            parts.append("\n".join([f"## {kind}", "", "| typed | answer |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _said(line: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        main(commands.COMMANDS, "", line.split(" "))
    return shown(said.getvalue(), Path.cwd())


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
