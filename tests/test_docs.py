"""What the documentation says is so: its examples run, its commands are understood, what it names is there."""

import ast
import functools
import pkgutil
import pydoc
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sphinx.ext.autosummary.generate import main as autogen

import cifar10
import cifar10.analysis
import cifar10.data
import cifar10.inference.engines
import cifar10.networks
import cifar10.optimizers
from cifar10.cli.checks import require_grouping
from cifar10.cli.command_line import main, parse
from cifar10.cli.flags import takes_overrides
from cifar10.config import compose, conf_folder, explain
from cifar10.config.changeable import with_experiment
from cifar10.config.compose import load_config
from cifar10.config.conf_folder import CONF, groups, options
from cifar10.config.promotion import is_of_promotion, read_promotion
from cifar10.config.serving_settings import read_serving_settings
from cifar10.config.sweep_plan import plan_sweep
from cifar10.train import train
from commands import COMMANDS
from tests.documented import DOCS, ROOT, file_blocks, named_paths, program_lines, transcripts

PAGES = sorted(DOCS.glob("*.md"))
ADD_A_PART = (DOCS / "add_a_part.md").read_text()
ENTRY_POINTS = {
    *("train", "probe", "infer", "batch", "verify", "similar"),
    *("evaluate", "explore", "export", "sync", "prepare_data", "config.explain", "demo", "compare_pooling"),
    *("compare", "reproduce", "sweep", "promote"),
}
SMALL = ["training.epochs=1", "training.batch_size=20", "tracking=none"]
SMALL_SHAPES = [
    "data_loading.image_size=16",
    "data_loading.train_size=60",
    "data_loading.validation_size=20",
    "data_loading.test_size=20",
]


def small(words: list[str]) -> list[str]:
    """Return the words of a command with what makes its run tiny."""
    if words[0] != "train":
        return words
    return [*words, *SMALL, *([] if "data_loading=arrays" in words else SMALL_SHAPES), "run_name=example"]


def write_parts(folder: Path) -> None:
    """Put the files of `add_a_part.md` under `folder`, with the data that its data set reads."""
    for name, content in file_blocks(ADD_A_PART).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    random = np.random.default_rng(0)
    (folder / "data").mkdir(exist_ok=True)
    splits = {
        "train_images": random.integers(0, 256, (80, 16, 16, 3), np.uint8),
        "train_labels": np.arange(80) % 2,
        "test_images": random.integers(0, 256, (20, 16, 16, 3), np.uint8),
        "test_labels": np.arange(20) % 2,
    }
    np.savez(folder / "data" / "arrays.npz", allow_pickle=False, **splits)
    (folder / "photos").mkdir(exist_ok=True)
    Image.fromarray(splits["test_images"][0]).save(folder / "photos" / "photo.png")


@pytest.fixture
def with_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files of `add_a_part.md` had been written into the repository."""
    shutil.copytree(CONF, tmp_path / "conf")
    write_parts(tmp_path)
    for module in (conf_folder, compose, explain):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    for package in (cifar10.networks, cifar10.data, cifar10.optimizers, cifar10.analysis, cifar10.inference.engines):
        folder = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setattr("cifar10.train.save_figures", lambda *arguments: None)  # they take most of a tiny run's time
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.usefixtures("with_parts")
@pytest.mark.parametrize("words", program_lines(ADD_A_PART), ids=" ".join)
def test_each_example_of_a_new_part_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "infer":
        assert main(COMMANDS, "", ["train", "experiment=demo", *SMALL, *SMALL_SHAPES]) == 0
    assert main(COMMANDS, "", small(words)) == 0
    assert words[0] != "train" or Path("models/example/scores.json").exists()
    assert words[0] != "infer" or "photo.png" in capsys.readouterr().out


def test_each_new_part_of_the_examples_is_used() -> None:
    commands = " ".join(word for words in program_lines(ADD_A_PART) for word in words)
    choices = [name for name in file_blocks(ADD_A_PART) if name.startswith("conf/")]
    assert len(choices) >= 7
    for _, group, file in (Path(name).parts for name in choices):
        assert f" {'--' * (group == 'engine')}{group}={Path(file).stem}" in commands


@pytest.mark.slow
def test_new_parts_need_nothing_but_their_files(tmp_path: Path) -> None:
    for folder in ("cifar10", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "commands.py", tmp_path)
    write_parts(tmp_path)
    words = small(["train", "experiment=patches", "augmentation=mixed"])
    subprocess.run([sys.executable, "commands.py", *words], cwd=tmp_path, check=True)
    assert (tmp_path / "models/example/best.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "add_a_part"], ids=lambda page: page.stem)
def test_each_command_of_a_page_is_understood(page: Path) -> None:
    for words in program_lines(page.read_text()):
        task = parse(COMMANDS, words)
        if words[0] == "sweep":
            own = {key: value for key, value in task.flags.items() if key in ("study", "trials")}
            plan_sweep([str(word) for word in task.arguments], **own)
        elif words[0] == "serve":
            read_serving_settings([str(word) for word in task.arguments])
        elif takes_overrides(task.command):
            require_grouping([str(override) for override in task.arguments])
            promotion = [str(override) for override in task.arguments if is_of_promotion(str(override))]
            read_promotion(promotion)
            overrides = [str(override) for override in task.arguments if not str(override).startswith("grouping")]
            overrides = [override for override in overrides if override not in promotion]
            load_config(with_experiment("pooling", overrides) if words[0] == "compare_pooling" else overrides)


@pytest.mark.parametrize(("words", "shown"), transcripts((DOCS / "configuration.md").read_text()))
def test_mistakes_are_answered_as_shown(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", words) == 2
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_file_that_a_page_names_is_there(page: Path) -> None:
    no_file = ("models/", "mlruns/", "data/", "tensorboard/", "val/", "application/", "image/", "multipart/")
    examples = tuple(file_blocks(page.read_text()))
    for name in named_paths(page.read_text()):
        if name.startswith((*no_file, *examples)):
            continue
        places = [folder / name for folder in (ROOT, ROOT / "cifar10", CONF, CONF / "augmentation")]
        assert any(place.exists() for place in places), name


def test_the_table_of_groups_lists_what_conf_holds() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (`.*`) \|$", (DOCS / "configuration.md").read_text(), re.MULTILINE)
    table = {group: sorted(re.findall(r"`(\w+)`", files)) for group, files in rows}
    assert table == {group: options(group) for group in groups()}


# -- reference and picture ----------------------------------------------------------------------------------------


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of the program with its file, packages without content aside."""
    names = [found.name for found in pkgutil.walk_packages(cifar10.__path__, "cifar10.") if not found.ispkg]
    return {name: ROOT / f"{name.replace('.', '/')}.py" for name in names}


@pytest.mark.slow
def test_each_module_has_one_place_in_the_reference(tmp_path: Path) -> None:
    autogen(["-o", str(tmp_path), "-t", str(DOCS / "_templates"), str(DOCS / "modules.rst")])
    pages = [*tmp_path.glob("*.rst"), *DOCS.glob("*.rst"), *PAGES]
    documented = [name for page in pages for name in re.findall(r"automodule:: (\S+)", page.read_text())]
    files = sorted((ROOT / "cifar10").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert sorted(documented) == sorted(names)


@pytest.mark.parametrize("page", [*PAGES, *sorted(DOCS.glob("*.rst"))], ids=lambda page: page.stem)
def test_each_object_that_a_page_refers_to_exists(page: Path) -> None:
    for role, text in re.findall(r"[{:](mod|class|func|meth|data)[}:]`([^`]+)`", page.read_text()):
        name = text.partition("<")[2].rstrip(">") if "<" in text else text.removeprefix("~")
        found = pydoc.locate(name)
        assert name.startswith("cifar10.") and found is not None, name
        if role in ("class", "func"):  # Sphinx links only to the module that defines it
            assert f"{found.__module__}.{found.__qualname__}" == name  # type: ignore[attr-defined]


def test_the_picture_shows_functions_that_exist_and_is_up_to_date() -> None:
    steps = runpy.run_path(str(DOCS / "draw_how_train_works.py"))["STEPS"]
    svg = (DOCS / "how_train_works.svg").read_text()
    for step in steps:
        assert callable(pydoc.locate(step.target)), step.target
        assert f"<!-- {step.call} -->" in svg
        assert f"<!-- {step.returns} -->" in svg
        assert not step.writes or f"<!-- writes  {step.writes} -->" in svg


# -- structure ---------------------------------------------------------------------------------------------------


def imported_by(name: str, file: Path, everywhere: bool = True) -> Iterator[str]:
    """Yield the modules that a module imports; only those at its top if not `everywhere`."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (module if module in modules() else str(node.module) for module in whole)


def import_graph(everywhere: bool = True) -> dict[str, set[str]]:
    files = {**modules(), "commands": ROOT / "commands.py"}
    return {name: set(imported_by(name, file, everywhere)) - {name} for name, file in files.items()}


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def test_imports_never_go_in_a_circle() -> None:
    graph = import_graph()
    assert [name for name in graph if name in reachable(name, graph)] == []


def test_an_entry_point_is_imported_by_the_commands_and_the_demo_only() -> None:
    allowed = {("cifar10.demo", "cifar10.train"), ("cifar10.demo", "cifar10.infer")}
    allowed |= {("cifar10.laboratory.workers", "cifar10.train"), ("cifar10.laboratory.tracking", "cifar10.sync")}
    allowed |= {("cifar10.laboratory.winner", "cifar10.export")}
    allowed |= {("cifar10.reproduce", "cifar10.train"), ("cifar10.reproduce", "cifar10.probe")}
    allowed |= {("cifar10.promote", "cifar10.export"), ("cifar10.promote", "cifar10.evaluate")}
    allowed |= {("cifar10.studies.running", "cifar10.train")}
    entry_points = {f"cifar10.{name}" for name in ENTRY_POINTS}
    pairs = {(name, entry) for name, imported in import_graph().items() for entry in imported & entry_points}
    assert {pair for pair in pairs if not pair[0].startswith("cifar10.commands.")} == allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "images.",
        "data.class_names",
        "analysis.classification_report",
        "inference.request",
        "inference.results",
        "inference.predictor",
        "inference.tta",
        "inference.mlflow_model",
        "inference.ray_worker",
        "runs.registry",
        "infer",
        "batch",
        "verify",
    ],
)
def test_a_part_without_torch_stays_so(part: str) -> None:
    graph = import_graph(everywhere=False)
    names = [name for name in graph if f"{name}.".startswith(f"cifar10.{part.rstrip('.')}.")]
    assert names
    for name in names:
        assert not {"torch", "pytorch_lightning"} & reachable(name, graph)


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "pytorch_lightning", "hydra", "omegaconf", "mlflow"}
    imported = {name.partition(".")[0] for name in reachable("commands", import_graph(everywhere=False))}
    assert not heavy & imported


def test_training_names_no_architecture_and_no_data_set() -> None:
    graph = import_graph()
    for name in ("model", "trainer", "runs.run", "training.checkpointing", "train"):
        named = {module for module in graph[f"cifar10.{name}"] if "networks" in module or "optimizers" in module}
        assert not named | (
            graph[f"cifar10.{name}"] & {"cifar10.data.cifar", "cifar10.data.folder", "cifar10.data.shapes"}
        )


def test_the_tree_shows_each_folder_of_the_package() -> None:
    lines = (DOCS / "design.md").read_text().partition("```text\n")[2].partition("```")[0].splitlines()
    shown: list[Path] = []
    for line in lines:
        indent, name = re.fullmatch(r"( *)([\w.]+/?) +\S.*", line).groups()  # type: ignore[union-attr]
        parents = [path for path in shown if len(path.parts) == len(indent) // 4]
        shown.append(parents[-1] / name if indent else Path(name))
    packages = {file.parent.relative_to(ROOT) for file in (ROOT / "cifar10").rglob("*.py")}
    assert {path for path in shown if path.parts[0] == "cifar10"} == packages
    assert all((ROOT / path).exists() for path in shown)


# -- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run `example` was trained, with one photograph."""
    folder = tmp_path_factory.mktemp("documented")
    torch.set_num_threads(1)
    overrides = ["experiment=demo", *SMALL, *SMALL_SHAPES, "run_name=example", f"models_dir={folder}/models"]
    train(load_config(overrides))
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "photos" / "zebra.png")
    return folder


def test_a_checkpoint_holds_what_the_table_lists(run_folder: Path) -> None:
    page = (DOCS / "checkpoints_and_resume.md").read_text().partition("## best and last")[0]
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    listed = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    assert listed == set(torch.load(run_folder / "models/example/best.ckpt", weights_only=True)["cifar10"])


def test_each_test_that_is_said_to_hold_a_behaviour_exists() -> None:
    named = re.findall(r"`(\w+)::(\w+)` \|$", (DOCS / "what_can_go_wrong.md").read_text(), re.MULTILINE)
    assert len(named) > 50
    for file, name in named:
        [path] = (ROOT / "tests").rglob(f"test_{file}.py")
        assert f"def test_{name}(" in path.read_text(), f"{file}::{name}"


def test_a_run_leaves_the_files_that_are_listed(run_folder: Path) -> None:
    for document in (ROOT / "models" / "README.md", DOCS / "quick_start.md"):
        listing = re.search(r"^```\w*\n\S+/\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
        assert listing is not None
        listed = set(re.findall(r"\w+\.(?:ckpt|json|csv|yaml|png)", listing[1]))
        assert listed == {path.name for path in (run_folder / "models/example").glob("[!.]*")}


def test_the_examples_in_python_run(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "inference.md").read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(run_folder)
    exec(compile("\n".join(blocks), "inference.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "weights_digest" in shown and "\nzebra.png [(" in shown
