"""The README is true: its commands are understood, what it names is there, and its numbers are measured."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import cifar10.app
import cifar10.compare
import cifar10.compare_pooling
import cifar10.config.explain
import cifar10.demo
import cifar10.evaluate
import cifar10.explore
import cifar10.feedback
import cifar10.infer
import cifar10.prepare_data
import cifar10.promote
import cifar10.reproduce
import cifar10.serve
import cifar10.sweep
import cifar10.sync
import cifar10.train  # noqa: F401 - as the others, so that it can be replaced
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.infer import Summary
from cifar10.runs.folder import FIGURES
from commands import COMMANDS
from tests.documented import ROOT, named_paths, program_lines, shell_lines, transcripts

README = (ROOT / "README.md").read_text()
MOST_LINES = 149


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_two_commands_come_first() -> None:
    assert [line.split("#")[0].strip() for line in shell_lines(README)[:2]] == ["make demo", "make test"]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace each entry point by one that only records that it was started; create the files that the README names."""
    names: list[str] = []

    def stand_in(name: str, result: object, package: str = "cifar10") -> None:
        def start(*arguments: object, **flags: object) -> object:
            names.append(name)
            return result

        monkeypatch.setattr(f"{package}.{name}.{name}", start)

    for name in ("train", "probe", "similar", "evaluate", "export", "benchmark", "sync", "prepare_data", "demo"):
        stand_in(name, None)
    for name in ("compare", "explore"):
        stand_in(name, None)
    stand_in("reproduce", True)
    stand_in("compare_pooling", SimpleNamespace(failures={}))
    stand_in("sweep", SimpleNamespace(of_state=lambda *states: []))
    monkeypatch.setattr("cifar10.laboratory.workers.prepare_workers", lambda: None)
    stand_in("verify", True)
    stand_in("doctor", True)
    stand_in("explain", "", "cifar10.config")
    stand_in("infer", Summary(1, 0, None))
    stand_in("batch", 0)
    for name in ("serve", "feedback"):
        stand_in(name, None)
    stand_in("app", 0)
    stand_in("promote", True)
    for folder in ("photos", "data/test/cat"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/cat.jpg")
    (tmp_path / "answers.csv").write_text("path\n")
    for run in ("first", "second"):
        (tmp_path / "models" / run).mkdir(parents=True)
        for file in ("best.ckpt", "last.ckpt"):
            (tmp_path / "models" / run / file).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("words", program_lines(README), ids=" ".join)
def test_each_command_is_understood(words: list[str], started: list[str]) -> None:
    for run in ("first", "second"):  # the lines that make the runs whose names the others use
        if f"run_name={run}" in words:
            shutil.rmtree(f"models/{run}")
    assert main(COMMANDS, "", words) == 0
    assert len(started) == ("--help" not in words and words[0] != "completion")  # both only print


def test_each_command_of_the_program_is_shown() -> None:
    assert {words[0] for words in program_lines(README)} >= set(COMMANDS) - {"demo"}


def test_each_setting_that_is_named_composes() -> None:
    settings = re.findall(r"`((?:[\w.]+=[\w\[\]./]+ ?)+)`", README)
    assert settings
    for words in settings:
        load_config(words.split())


def test_each_file_that_is_named_is_there() -> None:
    made_by_runs = ("mlruns/", "data/train", "data/test", "docs/_build")
    for name in named_paths(README):
        assert name.startswith(made_by_runs) or (ROOT / name).exists(), name


def test_each_target_and_script_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for script in re.findall(r"sh (scripts/\w+)", README):
        assert (ROOT / script).exists(), script


def test_each_measured_number_stands_in_the_results_it_links() -> None:
    block = README.partition("<!-- results -->")[2].partition("<!-- /results -->")[0]
    links = re.findall(r"\((benchmarks/results/[^)]+)\)", block)
    measured = " ".join((ROOT / link).read_text() for link in links)
    for number in re.findall(r"\d+\.\d+(?= ?%)", block):
        assert number in measured, number


def skeleton(line: str) -> str:
    """Return a line of output without what differs between runs and machines: numbers, digests, precision, classes."""
    for pattern, mark in (
        (r"\b[0-9a-f]{12}\b", "DIGEST"),
        (r"\b(?:bf16|fp32)\b", "PRECISION"),
        (r"\d[\d,.:]*(?:\+cu\d+)?", "N"),
    ):
        line = re.sub(pattern, mark, line)
    return " ".join(re.sub(r"\b(?:ring|rows)\b", "CLASS", line).split())


def test_the_output_that_is_shown_is_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = ["data_loading.train_size=400", "data_loading.validation_size=20", "data_loading.test_size=40"]

    def save_empty_figures(*arguments: object) -> None:  # real ones take most of a small run's time
        for name in FIGURES:
            Path(str(arguments[-1]), name).touch()

    monkeypatch.setattr("cifar10.train.save_figures", save_empty_figures)
    monkeypatch.chdir(tmp_path)
    [train, infer] = transcripts(README)
    for words, shown in (train, (["data", "data_loading=shapes", *smaller, "--export_images"], ""), infer):
        more = [*smaller, "training.epochs=1", "tracking=none"] if words[0] == "train" else []
        assert main(COMMANDS, "", [*words, *more]) == 0
        printed = capsys.readouterr()
        lines = {skeleton(line) for line in (printed.out + printed.err).splitlines()}
        assert {skeleton(line) for line in shown.splitlines() if line != "..."} <= lines


def test_the_tree_shows_each_top_level_entry() -> None:
    tree = README.partition("## Layout")[2].partition("```text\n")[2].partition("```")[0]
    shown = re.findall(r"[\w./-]*\w/(?= )|[\w-]+\.(?:py|yaml|yml|toml|lock|txt)\b|^\w+(?= )", tree, re.MULTILINE)
    assert all((ROOT / name).exists() for name in shown)
    folders = {f"{folder.name}/" for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    ignored = set(re.findall(r"^/(\w+/)$", (ROOT / ".gitignore").read_text(), re.MULTILINE))
    assert folders - ignored - {"__pycache__/"} == {
        name for name in shown if name.count("/") == 1 and name.endswith("/")
    }


RUSSIAN = (ROOT / "README.ru.md").read_text()


@pytest.mark.parametrize("words", program_lines(RUSSIAN), ids=" ".join)
def test_each_command_of_the_russian_page_is_understood(words: list[str], started: list[str]) -> None:
    if "run_name=first" in words:
        shutil.rmtree("models/first")
    assert main(COMMANDS, "", words) == 0
    assert len(started) == ("--help" not in words)


def test_the_russian_page_names_files_that_are_there() -> None:
    for name in named_paths(RUSSIAN):
        assert (ROOT / name).exists(), name
