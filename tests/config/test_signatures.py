"""Parameters read from source files are those of the imported component, and a mistake imports nothing heavy."""

import inspect
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from cifar10.config import signatures
from cifar10.config.conf_folder import PROJECT, values_of
from cifar10.config.signatures import read_declaration
from cifar10.config.targets import ROLES

NAMED = [
    (group, target)
    for group in ROLES
    for target in dict.fromkeys(values_of(group, "_target_"))
    if target.startswith("cifar10.")
]
"""Every component of this package that a file of `conf/` names."""
HEAVY = ("torch", "torchvision", "pytorch_lightning", "torchmetrics", "mlflow", "numpy", "matplotlib")


def hints_of(target: Any) -> dict[str, Any]:
    return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)


@pytest.mark.parametrize(("group", "target"), NAMED)
def test_a_component_is_read_as_it_is_imported(group: str, target: str) -> None:
    role = ROLES[group]
    imported, declared = role.locate(target), role.declaration(target)
    assert declared is not None
    parameters, read = (inspect.signature(found).parameters for found in (imported, declared))
    assert list(read) == list(parameters)
    for name, parameter in parameters.items():
        assert (read[name].default, read[name].kind) == (parameter.default, parameter.kind)
        assert name in role.provided or hints_of(declared)[name] == hints_of(imported)[name]


SOURCE = """
import nothing_like_it
from nothing_like_it import Number, decorated
from dataclasses import dataclass, field
from typing import Annotated, Literal
Names = list[Literal["a", "b"]]
LEAST = 3
HINTED: int = 3
for COMPUTED in range(3): pass
def plain(names: Names, *, least: int = LEAST, size: "int" = 2) -> Number: return nothing_like_it.call()
def foreign_hint(size: Number): pass
def foreign_default(size: int = nothing_like_it.SIZE): pass
def computed_default(size: int = COMPUTED): pass
def twice(size: int): pass
def twice(size: str): pass
@decorated
def changed(size: int): pass
class Own(Number):
    def __init__(self, size: int = 1) -> None: raise SystemExit
class Inherited(Number): pass
class Bare:
    numbers: Number
    def method(self, size: int): pass
@dataclass(frozen=True)
class Record:
    size: int = LEAST
    names: Names = field(default_factory=list)
    def method(self, size: int): pass
@dataclass
class Inheriting(Number):
    size: int = 3
@decorated
class Changed:
    def __init__(self, size: int) -> None: pass
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "PROJECT", tmp_path)
    (tmp_path / "parts.py").write_text(SOURCE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", "(names: list[Literal['a', 'b']], *, least: int = 3, size: 'int' = 2)"),
        ("Own", "(size: int = 1)"),
        ("Bare", "()"),
        ("Record", "(size: int = 3, names: list[Literal['a', 'b']] = <factory>) -> None"),
    ],
)
def test_what_is_in_plain_sight_is_read_without_importing_anything(name: str, expected: str, source: Any) -> None:
    declared = read_declaration(f"parts.{name}")
    assert declared is not None
    assert str(inspect.signature(declared)).replace("typing.", "") == expected
    assert "parts" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        *(
            "foreign_hint",
            "foreign_default",
            "computed_default",
            "twice",
            "changed",
            "Inherited",
            "Inheriting",
            "Changed",
        ),
        *("missing", "LEAST"),
    ],
)
def test_what_is_not_in_plain_sight_is_left_to_an_import(name: str, source: Any) -> None:
    assert read_declaration(f"parts.{name}") is None


@pytest.mark.parametrize("dotted", ["nowhere.f", "", "f", "..f", "/etc/passwd.f"])
def test_a_file_that_is_not_there_is_left_to_an_import(dotted: str, source: Any) -> None:
    assert read_declaration(dotted) is None


def test_a_hint_of_what_the_program_provides_is_left_out(source: Any) -> None:
    declared = read_declaration("parts.foreign_hint", without=["size"])
    assert declared is not None
    assert str(inspect.signature(declared)) == "(size)"


def test_a_changed_file_is_read_again(source: Any, tmp_path: Path) -> None:
    first = read_declaration("parts.plain")
    assert first is not None and read_declaration("parts.plain") is first
    (tmp_path / "parts.py").write_text(SOURCE.replace("LEAST = 3", "LEAST = 44"))
    again = read_declaration("parts.plain")
    assert again is not None and inspect.signature(again).parameters["least"].default == 44


def test_a_hint_is_looked_for_again_until_its_module_is_loaded(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_declaration("parts.foreign_hint") is None
    module = types.ModuleType("nothing_like_it")
    vars(module).update(Number=int, decorated=None)
    monkeypatch.setitem(sys.modules, "nothing_like_it", module)
    declared = read_declaration("parts.foreign_hint")
    assert declared is not None and hints_of(declared) == {"size": int}


MISTAKES = [
    "trian",
    "train --epochs=5",
    "train --resume=nothing",
    "train --resume=first training.epochs=x",
    "train --resume=first seed=2",
    "train training.epoch=5",
    "train modle=speed",
    "train model=resnet1",
    "train data_loading.rot=x",
    "train training.epochs=x training.batch_size=7",
    "train training.epochs=1,2",
    "train models_dir=a(b)",
    "train run_name=best",
    "train model=simple_cnn model.width=x",
    "train model.widht=[1,2,3]",
    "train model.num_classes=5",
    "train model._target_=os.system",
    "train model=resnet18 model.depth=19",
    "train optimizer.lr=fast",
    "train optimizer=sgd optimizer.lr=-1",
    "train schedule.warmup=2",
    "train selection=hardest selection.part=x",
    "train selection.part=1",
    "train model=torchvision training.epoch=5",
    "data data_loading=folder data_loading.image_size=1",
    "config training.epoch=5",
    "infer nowhere",
    "infer photos --checkpoint_name=nothing",
    "evaluate nothing",
]
ANSWERS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import commands
from cifar10.cli.command_line import main
Path("photos").mkdir(); Path("photos/1.png").touch()
Path("models/first").mkdir(parents=True); Path("models/first/last.ckpt").touch()
for line in sys.argv[3:]:
    code = main(commands.COMMANDS, "", line.split(" "))
    print(code, [name for name in sys.argv[2].split() if name in sys.modules], line)
"""


@pytest.mark.slow
def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ANSWERS, str(PROJECT), " ".join(HEAVY), *MISTAKES]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout.splitlines() == [f"2 [] {line}" for line in MISTAKES]


def test_the_configuration_is_shown_without_anything_heavy(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ANSWERS, str(PROJECT), " ".join(HEAVY), "config", "config experiment=best"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("0 ")] == [
        "0 [] config",
        "0 [] config experiment=best",
    ]
