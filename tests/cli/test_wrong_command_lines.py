"""Command lines that cannot be meant: each is refused with a word on what to do, and starts nothing."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import commands
from cifar10.cli.command_line import main

PROGRAM = Path(commands.__file__)
WALKS = ("train", "infer", "batch", "verify", "evaluate", "sync", "prepare_data", "demo")
MOST_LINES = 3


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the entry points, and the list of those that were started."""
    names: list[str] = []
    for walk in WALKS:
        module = ModuleType(f"cifar10.{walk}")
        setattr(module, walk, lambda *_, _walk=walk, **__: names.append(_walk))
        monkeypatch.setitem(sys.modules, f"cifar10.{walk}", module)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some images, a run and a file, from which the commands are given."""
    for name in ("photos/cat/1.png", "photos/cat/2.png", "my photos/3.png", "one.png", "models/first/best.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = "--test_dir=photos"
WRONG = {
    # the command itself
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
    # flags that are not there
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
    # values that are missing, doubled or not possible
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
    # words that are left over
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
    # files that are not there
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
    # settings: these are held against the whole configuration
    "train model=resnt18": "did you mean resnet18?",
    "train training.epochs=abc": "training.epochs: must be a whole number, not abc",
    "train training.epoch=5": "did you mean training.epochs?",
    "train training.epochs=1,2": "a list is written 'training.epochs=[1,2]'",
    "data data_loadin=cifar10": "did you mean data_loading?",
    "config run_name=\u043a\u043e\u0442": "Hydra reads \u043a\u043e\u0442 only in quotes",
    "train hydra.run.dir=x": "Hydra only composes here",
    "train model._target_=os.system": "os.system may not be used",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_starts_nothing_and_says_what_to_do(
    line: str, folder: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    exit_code = main(commands.COMMANDS, "", line.split(" "))
    said = capsys.readouterr()
    assert WRONG[line] in said.err
    assert exit_code == 2
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) <= MOST_LINES
    assert max(map(len, said.err.splitlines())) <= 220  # two rows of a terminal
    assert "Traceback" not in said.err
    assert said.out == ""
    assert started == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        "train --epochs 5",
        "infer --test_dir=phtos",
        "infer --test_dir",
        "trian",
        f"infer {IMAGES} --checkpoint_name=frist",
        pytest.param("train model=resnt18 training.epochs=0", marks=pytest.mark.slow),  # imports torch
    ],
)
def test_the_real_program_refuses_as_well(line: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *line.split(" ")], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= MOST_LINES
    assert sorted(folder.rglob("*")) == before


def test_many_wrong_settings_have_a_line_each(folder: Path, started: list[str], capsys: Any) -> None:
    settings = ["seed=-1", "training.epochs=0", "optimizer.lr=x", "modle=speed", "run_name=../x", "evaluation.tta=no"]
    assert main(commands.COMMANDS, "", ["train", *settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(settings)
    assert all(line.startswith("error: ") for line in lines)
    assert started == []


def test_words_that_are_not_utf8_are_refused_without_a_traceback(folder: Path) -> None:
    words = [b"train", b"models_dir=\xff", b"--\xff"]
    done = subprocess.run(
        [os.fsencode(sys.executable), os.fsencode(PROGRAM), *words], capture_output=True, timeout=110, check=False
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
