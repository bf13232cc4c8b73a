"""What the program advises to type works: every such line is typed, through a POSIX shell, and is not refused again."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import commands
from cifar10.cli.command_line import main, parse
from cifar10.cli.flags import takes_overrides
from cifar10.config.advice import PROGRAM, command_line, setting
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.schema import Config
from cifar10.errors import UsageError
from tests.cli.test_wrong_command_lines import folder, started  # noqa: F401, which are fixtures
from tests.cli.wrong_lines import WRONG

ADVISED = re.compile(r"(?:did you mean|write|only in quotes:|is written|leave it out:|without spaces[:,]) (.+?)\??$")
PLACEHOLDERS = ("NAME", "VALUE", "KEY=VALUE", "DIR", "N", "MODEL", "TEST_DIR", "CHECKPOINT_NAME", "COMMAND")

MISTAKES = {
    # what was typed: what is advised, as the shell hands it over
    "train run_name=кот": 'run_name="кот"',
    "train models_dir=a(1)": 'models_dir="a(1)"',
    "train models_dir=it's": 'models_dir="it\'s"',
    'train models_dir=say"x"': 'models_dir="say\\"x\\""',
    "train models_dir=a;b": 'models_dir="a;b"',
    "train models_dir=$(x)": 'models_dir="$(x)"',
    "train models_dir=`x`": 'models_dir="`x`"',
    "train models_dir=a=b.ckpt": 'models_dir="a=b.ckpt"',
    "train models_dir=${": 'models_dir="\\${"',
    "train models_dir=5": 'models_dir="5"',
    "train run_name=1_000": 'run_name="1_000"',
    "train run_name=1e5": 'run_name="1e5"',
    "train run_name=true": 'run_name="true"',
    "train data_loading.classes=[0,1e3,true]": 'data_loading.classes=["0","1e3","true"]',
    "train data_loading.classes=[cat,7,'1',true]": 'data_loading.classes=["cat","7",\'1\',"true"]',
    "train data_loading.classes=[chien,été]": 'data_loading.classes=["chien","été"]',
    "train data_loading.classes=cat,dog": "data_loading.classes=[cat,dog]",
    "train data_loading.sources=[a(1).gz,b]": 'data_loading.sources=["a(1).gz","b"]',
    "train ~model.depth=7": "~model.depth",
    "train seed==3": "seed=3",
    "train training.epochs:=3": "training.epochs=3",
    "train --epochs 5": "training.epochs=5",
    "train --model resnet18": "model=resnet18",
    "train --models_dir=a(1)": 'models_dir="a(1)"',
    "train --models_dir=a;b": 'models_dir="a;b"',
    "train --model.widths=[8,16,16]": "model.widths=[8,16,16]",
    "train training.epochs 5": "training.epochs=5",
    "train seed = 5": "seed=5",
    "train models_dir = a;b": 'models_dir="a;b"',
    "train resume=a;b": "--resume=a;b",
    "infer photos top_k=3": "--top_k=3",
    "infer photos checkpoint_name=$x": "--checkpoint_name=$x",
    "infer --test_dir -x": "--test_dir=-x",
}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(commands.COMMANDS, "", words) == 2
    return capsys.readouterr().err


def through_a_shell(text: str) -> list[str]:
    """Return the words that a POSIX shell makes of `text`."""
    printed = subprocess.run(["sh", "-c", f"printf '%s\\0' {text}"], capture_output=True, text=True, check=True)
    return printed.stdout.split("\0")[:-1]


def retyped(mistake: str, advised: list[str]) -> list[str]:
    """Return the command of `mistake` with what was advised instead of the rest."""
    command = mistake.split(" ", maxsplit=1)[0]
    needs_images = command == "infer" and not any(word.startswith("--test_dir") for word in advised)
    return [command, *(["photos"] if needs_images else []), *advised]


def accepted(words: list[str]) -> None:
    """Read `words` as the program does, up to the configuration; what they name need not be there."""
    task = parse(commands.COMMANDS, words)
    if takes_overrides(task.command) and not task.flags.get("resume"):
        load_config([str(override) for override in task.arguments])


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "started")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_advised_word_is_taken_when_it_is_typed(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(mistake.split(" "), capsys).splitlines()[0]
    match = ADVISED.search(text)
    assert match, text
    advised = through_a_shell(match[1])
    assert advised == [MISTAKES[mistake]]
    accepted(retyped(mistake, advised))


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "started")
@pytest.mark.parametrize("line", WRONG)
def test_whatever_else_is_advised_can_be_read(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in said(line.split(" "), capsys).splitlines():
        for advised in re.findall(rf"{re.escape(PROGRAM)} ([^;\n]+)", text):
            words = shlex.split(advised)
            if not set(words) & {*PLACEHOLDERS, "..."} and words[1:] != ["--help"]:
                parse(commands.COMMANDS, words)
        match = ADVISED.search(text)
        if match is None or any(word in match[1] for word in PLACEHOLDERS) or PROGRAM in match[1]:
            continue
        for word in through_a_shell(match[1].replace(" or ", " ")):
            if "=" in word:  # else it is a name, to be put in the place of the wrong one
                parse(commands.COMMANDS, retyped(line, [word]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "it's",
        'say "x"',
        "кот",
        "a(1)",
        "[x]",
        "null",
        "5",
        "",
        "~/x",
        "$(x)",
        "a\\",
        "#1",
        "a=b",
        "${x}",
    ],
)
def test_a_setting_is_read_back_as_the_value_it_was_made_of(value: str) -> None:
    [word] = through_a_shell(shlex.quote(setting("tracking.experiment", value or "x")))
    assert load_config(["data_loading=shapes", word]).tracking.experiment == (value or "x")


def test_settings_of_every_kind_are_written_as_hydra_reads_them() -> None:
    assert setting("training.gradient_clip", None) == "training.gradient_clip=null"
    assert setting("training.channels_last", True) == "training.channels_last=true"
    assert setting("model.widths", [8, 16]) == "model.widths=[8,16]"
    assert setting("data_loading.classes", ["0", "cat"]) == 'data_loading.classes=["0",cat]'


def test_a_line_has_its_flags_and_those_settings_that_are_not_as_in_conf() -> None:
    assert command_line("train", resume="x", models_dir="models") == f"{PROGRAM} train --resume=x"
    assert command_line("train", resume="x", models_dir="y") == f"{PROGRAM} train --resume=x models_dir=y"
    assert command_line("train", "seed=1", resume=None, run_name=None) == f"{PROGRAM} train seed=1"
    assert command_line("infer", test_dir="my photos") == f"{PROGRAM} infer '--test_dir=my photos'"


@pytest.mark.parametrize("models_dir", ["my models (1)", "it's", "кот", "/a/b", "$HOME"])
def test_a_line_with_any_folder_can_be_typed(models_dir: str) -> None:
    line = command_line("train", resume="first", models_dir=models_dir)
    task = parse(commands.COMMANDS, through_a_shell(line)[len(PROGRAM.split(" ")) :])
    assert task.flags == {"resume": "first"}
    assert load_config(["data_loading=shapes", *map(str, task.arguments)]).models_dir == models_dir


def told_by(arguments: list[str], **options: Any) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=110, check=False, **options)
    assert done.returncode == 2
    return str(done.stderr)


def test_the_program_is_called_as_it_was_started_or_as_the_environment_says() -> None:
    script = Path(commands.__file__)
    plain = told_by([sys.executable, "commands.py", "infer"], cwd=script.parent)
    assert f"help: {shlex.join([sys.executable, 'commands.py'])} infer --help" in plain
    other = told_by([sys.executable, "-X", "dev", "../commands.py", "infer"], cwd=script.parent / "docs")
    assert f"help: {shlex.join([sys.executable, '-X', 'dev', '../commands.py'])} infer --help" in other
    named = told_by(
        [sys.executable, "commands.py", "infer"],
        cwd=script.parent,
        env={"CIFAR10_PROGRAM": "docker compose run train"},
    )
    assert "help: docker compose run train infer --help" in named


@pytest.mark.slow
def test_a_resumed_run_may_change_where_things_are_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar10.cli.checks import require_resumable

    monkeypatch.chdir(tmp_path)
    Path("my models/first").mkdir(parents=True)
    Path("my models/first/last.ckpt").touch()
    place = "models_dir='my models'"
    for word in [
        "training.epochs=9",
        "data_loading.root=x",
        "data_loading.sources=[a]",
        "tracking=none",
        "tracking.uri=sqlite:///x.db",
        "training.devices=3",  # whether it divides the checkpoint's batch size is found out later
    ]:
        require_resumable("first", [place, word])
        require_resumable("first", [f"++{word}", place])
    for word in [
        "seed=2",
        "training=long",
        "training.batch_size=5",
        "data_loading=shapes",
        "~model.depth",
        "training.epochsx=1",
    ]:
        with pytest.raises(UsageError) as caught:
            require_resumable("first", [place, "training.epochs=9", word])
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"--resume takes its settings from the checkpoint; leave out {shlex.quote(word)}: ")
        again = through_a_shell(lines[0].rpartition(": ")[2])[len(PROGRAM.split(" ")) :]
        task = parse(commands.COMMANDS, again)
        require_resumable(str(task.flags["resume"]), [str(override) for override in task.arguments])
        anew = parse(commands.COMMANDS, through_a_shell(lines[1].rpartition(": ")[2])[len(PROGRAM.split(" ")) :])
        assert anew.arguments == ("weights=first", place, "training.epochs=9", word)


def test_a_resumed_run_is_looked_for_where_the_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar10.cli.checks import require_resumable

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("m/first").mkdir(parents=True)
    Path("m/first/last.ckpt").touch()
    for place in [
        "models_dir=m",
        '+models_dir="m"',
        "models_dir=~/m",
        "models_dir='~/m'",
        "models_dir=${oc.env:HOME}/m",
    ]:
        require_resumable("first", [place])
    with pytest.raises(UsageError, match="there is no checkpoint first"):
        require_resumable("first", [])
    with pytest.raises(ConfigError, match="models_dir: cannot be set"):
        require_resumable("first", ["models_dir=${nothing}"])


def test_resume_auto_needs_the_name_of_the_run_and_takes_every_setting() -> None:
    from cifar10.cli.checks import require_resumable

    require_resumable("auto", ["run_name=x", "seed=2", "model=resnet18"])
    with pytest.raises(UsageError, match=r"add a name: .* train seed=2 run_name=NAME --resume=auto"):
        require_resumable("auto", ["seed=2"])


def test_the_settings_that_may_change_are_settings() -> None:
    from cifar10.config.changeable import RESUMABLE

    assert all(name.partition(".")[0] in Config.model_fields for name in RESUMABLE)
