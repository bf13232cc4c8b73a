"""Right command lines reach their entry point with exactly what was typed; help and interruptions behave."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

import commands
from cifar10 import __version__
from cifar10.cli.command_line import main, parse
from cifar10.cli.flags import Commands, flags_of
from cifar10.config.schema import Config, TTAMode
from cifar10.errors import UsageError, UserError
from cifar10.inference.destination import Format
from cifar10.inference.request import InferenceRequest

PROGRAM = Path(commands.__file__)
HEAVY = ("torch", "torchvision", "pytorch_lightning", "mlflow", "hydra", "omegaconf", "pydantic", "numpy", "fire")

Call = tuple[tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Call]:
    """Stand-ins for the entry points; what each was last called with, by its name."""
    received: dict[str, Call] = {}

    def stand_in(entry: str) -> Any:
        def record(*arguments: Any, **named: Any) -> SimpleNamespace:
            received[entry] = (arguments, named)
            return SimpleNamespace(num_failed=0)

        return record

    for walk in ("train", "infer", "evaluate", "sync", "prepare_data", "demo"):
        module = ModuleType(f"cifar10.{walk}")
        setattr(module, walk, stand_in(walk))
        monkeypatch.setitem(sys.modules, f"cifar10.{walk}", module)
    monkeypatch.chdir(tmp_path)
    return received


def run(*words: str) -> int:
    return main(commands.COMMANDS, "What it does.", words)


def image(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(b"")


def echo(*overrides: str, name: str = "x", number: int | None = None, switch: bool = False) -> None:
    """A command to try words on."""


def echoed(*words: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    task = parse({"echo": echo}, ["echo", *words])
    return task.arguments, task.flags


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--name=1e5"], {"name": "1e5"}),
        (["--name", "1e5"], {"name": "1e5"}),
        (["--name", "2024"], {"name": "2024"}),
        (["--name=None"], {"name": "None"}),
        (["--name=True"], {"name": "True"}),
        (["--name=[1,2]"], {"name": "[1,2]"}),
        (["--name={}"], {"name": "{}"}),
        (["--name='quoted'"], {"name": "'quoted'"}),
        (["--name=a=b.ckpt"], {"name": "a=b.ckpt"}),
        (["--name", "a=b.ckpt"], {"name": "a=b.ckpt"}),
        (["--name=-x"], {"name": "-x"}),
        (["--name=--number"], {"name": "--number"}),
        (["--name=-"], {"name": "-"}),
        (["--name=--"], {"name": "--"}),
        (["--name", "my photos"], {"name": "my photos"}),
        (["--name", "фото (1)"], {"name": "фото (1)"}),
        (["--name", "a\nb"], {"name": "a\nb"}),
        (["--name=0x10"], {"name": "0x10"}),
        (["--name=1_000"], {"name": "1_000"}),
        (["--name=007"], {"name": "007"}),
        (["--number", "3"], {"number": 3}),
        (["--number=3", "--name", "y"], {"number": 3, "name": "y"}),
        (["--switch"], {"switch": True}),
        (["--no-switch"], {"switch": False}),
        (["--noswitch"], {"switch": False}),
        (["--switch=false"], {"switch": False}),
        (["--switch=True"], {"switch": True}),
        (["--switch", "--number=1"], {"switch": True, "number": 1}),
    ],
)
def test_flags_arrive_as_they_were_typed(words: list[str], flags: dict[str, Any]) -> None:
    assert echoed(*words) == ((), flags)


@pytest.mark.parametrize(
    "words",
    [
        ["model=resnet18", "training.epochs=5"],
        ["--", "model=resnet18", "training.epochs=5"],
        ["model=resnet18", "--", "training.epochs=5"],
    ],
)
def test_overrides_arrive_in_order_with_or_without_two_hyphens(words: list[str]) -> None:
    assert echoed(*words) == (("model=resnet18", "training.epochs=5"), {})


@pytest.mark.parametrize(
    "override", ["a=1e5", "a=[1,2]", "+experiment=x", "++a=1", "~a", "a=", "a=--x", "a='b c'", "a={b: 1}", "a=None"]
)
def test_overrides_arrive_as_they_were_typed(override: str) -> None:
    assert echoed(override, "--number=1") == ((override,), {"number": 1})
    assert echoed("--number=1", override) == ((override,), {"number": 1})


def test_reading_a_command_line_does_not_run_it(calls: dict[str, Call]) -> None:
    parse(commands.COMMANDS, ["demo"])
    parse(commands.COMMANDS, ["train", "training.epochs=5"])
    assert calls == {}


def test_train_gets_a_config(calls: dict[str, Call]) -> None:
    assert run("train", "data_loading=shapes", "training.epochs=5") == 0
    (config,), named = calls["train"]
    assert isinstance(config, Config)
    assert config.training.epochs == 5
    assert (named["resume"], named["changes"]) == (None, ())


@pytest.mark.parametrize("where", ["models/first/last.ckpt", "elsewhere/first/last.ckpt"])
def test_train_goes_on_with_a_run(where: str, calls: dict[str, Call]) -> None:
    image(where)
    places = [] if where.startswith("models") else ["models_dir=elsewhere"]
    assert run("train", "--resume", "first", *places) == 0
    _, named = calls["train"]
    assert (named["resume"], named["changes"]) == ("first", tuple(places))


def request(calls: dict[str, Call]) -> InferenceRequest:
    """Return what `infer` was last called with."""
    (received,), named = calls["infer"]
    assert isinstance(received, InferenceRequest) and not named
    return received


def test_infer_gets_its_flags_and_what_they_mean_here(
    calls: dict[str, Call], capsys: pytest.CaptureFixture[str]
) -> None:
    image("2024/1.png")
    image("models/1e5.ckpt")
    words = "--test_dir 2024 --checkpoint-name 1e5 --output a=b.csv --top_k=3 --batch-size 7 --tta=none --device cpu"
    assert run("infer", *words.split()) == 0
    made = request(calls)
    assert (made.images.given, [image.name for image in made.images]) == ("2024", ["1.png"])
    assert made.checkpoint == Path("models/1e5.ckpt")
    assert (made.destination.path, made.destination.format) == (Path("a=b.csv").absolute(), "csv")
    assert (made.top_k, made.batch_size, made.tta, made.device) == (3, 7, "none", "cpu")
    image("models/run/best.ckpt")
    assert run("infer", "2024") == 0
    made = request(calls)
    assert made.checkpoint == Path("models/run/best.ckpt")
    assert "best is models/run/best.ckpt" in capsys.readouterr().err
    assert (made.destination.path, made.top_k, made.batch_size, made.tta, made.device) == (None, 1, None, None, "auto")
    assert run("infer", "2024", "--checkpoint_name=models:/net@best") == 0
    assert request(calls).checkpoint == "models:/net@best"  # only MLflow can tell


@pytest.mark.parametrize("name", ["a=b", "my photos", "фото", "-x", "x[1]", "test_dir=x", "--top_k"])
@pytest.mark.parametrize("form", ["--test_dir={}", "--test-dir={}"])
def test_any_folder_name_reaches_infer(name: str, form: str, calls: dict[str, Call]) -> None:
    image(f"{name}/1.png")
    image("models/first/best.ckpt")
    assert run("infer", form.format(name)) == 0
    assert request(calls).images.given == name


@pytest.mark.parametrize("name", ["a=b", "my photos", "фото", "test_dir=x", "-x"])
def test_a_folder_may_be_given_without_its_flag(name: str, calls: dict[str, Call]) -> None:
    image(f"{name}/1.png")
    image("models/first/best.ckpt")
    assert run("infer", "--top_k=2", "--", name) == 0
    assert request(calls).images.given == name


@pytest.mark.parametrize("pattern", ["photos/*.png", "**/1.png", "photos/1.png"])
def test_infer_takes_a_glob_or_a_file(pattern: str, calls: dict[str, Call]) -> None:
    image("photos/1.png")
    image("models/first/best.ckpt")
    assert run("infer", "--test_dir", pattern) == 0
    assert request(calls).images.given == pattern


def test_infer_says_by_its_exit_code_that_a_file_failed(
    calls: dict[str, Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    image("photos/1.png")
    image("models/first/best.ckpt")
    monkeypatch.setattr(sys.modules["cifar10.infer"], "infer", lambda request: SimpleNamespace(num_failed=1))
    assert run("infer", "photos") == 3


EVALUATED: dict[str, Any] = {
    **{"output": None, "overrides": (), "split": "test", "engine": None, "corruptions": [], "honest": None},
    "report": True,
}
"""What `evaluate` gets if no flag is given."""


def test_the_other_commands_reach_their_entry_points(calls: dict[str, Call]) -> None:
    image("models/first/best.ckpt")
    assert run("evaluate", "first", "--output=new") == 0
    assert calls["evaluate"] == (("first",), {**EVALUATED, "output": "new"})
    assert run("data", "data_loading=shapes", "--export-images") == 0
    assert calls["prepare_data"][1] == {"export_images": True}
    assert run("demo") == 0
    assert calls["demo"] == ((), {})


def test_evaluate_takes_its_checkpoint_as_a_word_and_where_the_data_lie_today(calls: dict[str, Call]) -> None:
    image("models/first/best.ckpt")
    image("epoch=3.ckpt")
    assert run("evaluate", "data_loading.root=/mnt/data", "first") == 0
    assert calls["evaluate"] == (("first",), {**EVALUATED, "overrides": ("data_loading.root=/mnt/data",)})
    assert run("evaluate", "epoch=3.ckpt") == 0
    assert calls["evaluate"] == (("epoch=3.ckpt",), EVALUATED)
    words = ("--split=val", "--engine=onnx", "--corruptions=fog,noise", "--honest=lists")
    assert run("evaluate", "first", *words) == 0
    kinds = ["gaussian_noise", "shot_noise", "impulse_noise", "fog"]
    chosen = {"split": "val", "engine": "onnx", "corruptions": kinds, "honest": "lists"}
    assert calls["evaluate"][1] == EVALUATED | chosen
    assert run("evaluate", "first", "--report=false") == 0
    assert calls["evaluate"][1] == EVALUATED | {"report": False}


def test_config_prints_what_explain_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "data_loading=shapes", "seed=5") == 0
    assert "seed: 5" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_the_overview_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert all(name in said.out for name in commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
@pytest.mark.parametrize(
    "form",
    ["{} --help", "{} -h", "help {}", "{} help", "--help {}", "{} help=1 --help", "{} --top_k 3 --help", "{} --xyz -h"],
)
def test_help_is_plain_on_stdout_and_runs_nothing(
    name: str, form: str, calls: dict[str, Call], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*form.format(name).split()) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: python commands.py {name}")
    assert "\x1b" not in said.out
    assert calls == {}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_help_of_a_command_explains_each_of_its_flags_within_the_width_of_a_page(name: str) -> None:
    text = inspect.getdoc(commands.COMMANDS[name]) or ""
    assert all(f"--{flag}" in text for flag in flags_of(commands.COMMANDS[name]))
    assert max(map(len, text.splitlines())) <= 120


def test_the_choices_of_infer_are_those_of_its_entry_point() -> None:
    hints = get_type_hints(commands.COMMANDS["infer"])
    assert set(get_args(get_args(hints["tta"])[0])) == set(get_args(TTAMode))
    assert set(get_args(get_args(hints["format"])[0])) == set(get_args(Format))


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"cifar10 {__version__}\n"


def failing(error: BaseException) -> Commands:
    def fail() -> None:
        raise error

    return {"fail": fail}


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (UserError("the disk is full"), 1, "error: the disk is full\n"),
        (UsageError("no such thing"), 2, "error: no such thing\n"),
        (UserError("no class \x1b]0;cat\x07\nof these"), 1, "error: no class \\x1b]0;cat\\x07\nof these\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (
            ModuleNotFoundError("No module named 'hydra'", name="hydra.core"),
            1,
            "error: this needs the package hydra, which is not installed: python -m pip install hydra-core, or all "
            "packages: sh scripts/setup, then . .venv/bin/activate\n",
        ),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            1,
            "error: no folder for temporary files can be written; name one: TMPDIR=DIR\n",
        ),
        (
            OSError(24, "Too many open files"),
            1,
            "error: the system allows no more open files; allow more: ulimit -n 1024\n",
        ),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    error: BaseException, exit_code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(failing(error), "", ["fail"]) == exit_code
    assert capfd.readouterr() == ("", said)


@pytest.mark.parametrize(
    "error",
    [SystemExit(143), ZeroDivisionError("a bug"), ModuleNotFoundError("a bug", name="cifar10.nothing")],
)
def test_exits_and_bugs_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        main(failing(error), "", ["fail"])


def program(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *words], capture_output=True, timeout=110, check=False, **options)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["infer", "-h"], ["trian"]])
def test_help_and_typos_import_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); sys.argv = ['commands.py', *{words!r}]\n"
        f"try: runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        f"finally: print('imported:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert program("-c", code).stdout.decode().endswith("imported: []\n")


def test_missing_files_are_seen_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(PROGRAM.parent)!r})\n"
        "for words in (['infer', 'nowhere'], ['evaluate', 'nothing'], ['train', '--resume=nothing']):\n"
        "    sys.argv = ['commands.py', *words]\n"
        f"    try: runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "    except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    assert program("-c", code, cwd=tmp_path).stdout.decode() == "2 False\n" * 3


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}])
def test_names_beyond_ascii_are_repeated_in_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    done = program(str(PROGRAM), "infer", "--test_dir=фото", cwd=tmp_path, env=os.environ | locale)
    assert "there is no folder or file фото" in done.stderr.decode()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "error: No space left on device: stdout was not written whole\n"
