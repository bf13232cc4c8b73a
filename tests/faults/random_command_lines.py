"""K1: command lines that are changed at random, understood by the real `main`; the entry points are stand-ins."""

import contextlib
import io
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import commands
from cifar10.cli.command_line import main
from tests.cli.wrong_lines import stand_ins, write_folder
from tests.documented import DOCS, program_lines
from tests.faults.experiment import Experiment, Trial
from tests.faults.wrong_command_lines import state_of, wrong_refusal

_MOST_SECONDS = 20  # for a line, on a machine that is shared
_RIGHT = [
    "train",
    "train model=resnet18 training.epochs=5 optimizer=sgd seed=3",
    "train data_loading=shapes training.resizing=[] run_name=second",
    "train experiment=[demo,fast] ~model.depth +seed=1",
    "infer --test_dir=photos --checkpoint_name=first --top_k=3 --format=csv --tta=none",
    "infer photos --checkpoint_name first --output=rows.csv --device=cpu --engine=torch",
    "infer model=resnet18_imagenet grouping=cats_vs_dogs grouping.threshold=0.7 --test_dir=photos",
    "similar one.png --test_dir=photos --checkpoint_name=first",
    "batch photos out --checkpoint_name=first --workers=2",
    "evaluate first --split=val --corruptions=noise,fog --output=new",
    "export first --formats=onnx,safetensors --temperature=2 --output=new",
    "benchmark first --output=new",
    "serve --checkpoint_name=first --port=8001 serving.max_body_mb=20",
    "app --checkpoint_name=first --port=8600",
    "explore --photos=photos --output=new --most=3",
    "compare first models/first/best.ckpt",
    "sweep optimizer.lr=0.1,0.2 model=simple_cnn,speed --trials=2",
    "compare_pooling data_loading=shapes pooling.seeds=[0,1]",
    "config model=resnet18 training.epochs=5",
    "data data_loading=cifar100 --export_images",
    "completion bash",
    "doctor data_loading=cifar100",
    "help train",
    "--version",
]
_ODD = [
    *("", " ", "\n", "\r", "\t", "\0", "\x1b[31m", "\x7f", "\ud800", "\u202e", "\N{CAT}", "\u043a\u043e\u0442"),
    *("e\u0301", "'", '"', "`", "$(id)", "${seed}", "${oc.env:HOME}", "\\", "|", ";", "&&", "*", "?", "[", "]", "{"),
    *("}", "~", "~root", "=", "==", "-", "--", "\u2014", "+", "@", "#", "%", ",", ".", "..", "../../etc/passwd", "/"),
    *("null", "true", "-1", "0", "nan", "1e999", "9" * 400, "x" * 5000, "[" * 300, "-" * 300, "a=b", "--help", "-h"),
]

Words = list[str]


def _drop(words: Words, chance: random.Random) -> None:
    del words[chance.randrange(len(words))]


def _double(words: Words, chance: random.Random) -> None:
    words.insert(chance.randrange(len(words) + 1), chance.choice(words))


def _move(words: Words, chance: random.Random) -> None:
    words.insert(chance.randrange(len(words)), words.pop(chance.randrange(len(words))))


def _misspell(words: Words, chance: random.Random) -> None:
    index = chance.randrange(len(words))
    letters = list(words[index]) or ["x"]
    at = chance.randrange(len(letters))
    letters[at] = chance.choice(["", letters[at] * 2, letters[at].swapcase(), chance.choice("aeixz_-=.0")])
    words[index] = "".join(letters)


def _put_in(words: Words, chance: random.Random) -> None:
    index = chance.randrange(len(words))
    at = chance.randrange(len(words[index]) + 1)
    words[index] = words[index][:at] + chance.choice(_ODD) + words[index][at:]


def _set_value(words: Words, chance: random.Random) -> None:
    index = chance.randrange(len(words))
    key = words[index].partition("=")[0]
    words[index] = f"{key}={chance.choice(_ODD)}"


def _split(words: Words, chance: random.Random) -> None:
    index = chance.randrange(len(words))
    left, _, right = words[index].partition("=")
    words[index : index + 1] = chance.choice([[left, right], [left, "=", right], [f"{left}=", right]])


def _add(words: Words, chance: random.Random) -> None:
    others = chance.choice(_RIGHT).split(" ")
    words.insert(chance.randrange(len(words) + 1), chance.choice([chance.choice(_ODD), chance.choice(others)]))


_CHANGES: list[Callable[[Words, random.Random], None]] = [
    *(_drop, _double, _move, _misspell, _misspell, _put_in, _put_in, _set_value, _split, _add)
]


def changed_line(seed: int, right: list[Words]) -> Words:
    """Return one of the `right` lines with one to three changes."""
    chance = random.Random(seed)
    words = list(right[seed % len(right)])
    for _ in range(chance.choice([1, 1, 2, 3])):
        if words:
            chance.choice(_CHANGES)(words, chance)
    return words


def right_lines() -> list[Words]:
    """Return the lines above, and all lines of the documentation."""
    pages = [page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))]
    return [line.split(" ") for line in _RIGHT] + [words for page in pages for words in program_lines(page)]


def type_changed_lines(number: int, folder: Path) -> Iterator[Trial]:
    write_folder(folder)
    right = right_lines()
    with stand_ins() as started:
        for seed in range(number):
            words = changed_line(seed, right)
            before = state_of(folder)
            started.clear()
            exit_code, stdout, stderr = _typed(words)
            problem = _problem(exit_code, stdout, stderr, started)
            if state_of(folder) != before and not started:
                problem = problem or f"files are {state_of(folder)}"
            yield Trial(f"{seed}: {_shown(words)}", problem)


def _shown(words: Words) -> str:
    return ascii(" ".join(word if len(word) < 60 else f"{word[:50]}[{len(word)}]" for word in words))


def _typed(words: Words) -> tuple[int | BaseException, str, str]:
    """Return the exit code of a line, or what it raised, and what it printed."""
    stdout, stderr = io.StringIO(), io.StringIO()
    empty = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), mock.patch.object(sys, "stdin", empty):
        try:
            with _alarm():
                exit_code: int | BaseException = main(commands.COMMANDS, "", words)
        except BaseException as error:
            exit_code = error
    return exit_code, stdout.getvalue(), stderr.getvalue()


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    """Raise an error in a block that takes too long."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"{_MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    outer = signal.alarm(_MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(outer)
        signal.signal(signal.SIGALRM, before)


def _problem(exit_code: int | BaseException, stdout: str, stderr: str, started: list[str]) -> str:
    """Return why this is neither a started command, nor a text that was wanted, nor a refusal; or ""."""
    if isinstance(exit_code, BaseException):
        return f"raises {exit_code!r}"
    if started:
        return "" if exit_code in (0, 1, 3) and "Traceback" not in stderr else f"exit code {exit_code}: {stderr[-300:]}"
    if exit_code == 0:
        return "" if stdout else "exit code 0, and nothing was done"
    return wrong_refusal(exit_code, stdout, stderr)


def type_lines_without_main(number: int, folder: Path) -> Iterator[Trial]:
    """Give changed lines to Fire alone, as a plain program does."""
    import fire

    write_folder(folder)
    with stand_ins() as started:
        for seed in range(number):
            words = changed_line(seed, [line.split(" ") for line in _RIGHT])
            started.clear()
            stdout, stderr = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                try:
                    fire.Fire(commands.COMMANDS, command=words, name="commands.py")
                    exit_code: int | BaseException = 0
                except SystemExit as end:
                    exit_code = int(end.code or 0)
                except Exception as error:
                    exit_code = error
            yield Trial(f"{seed}: {_shown(words)}", _problem(exit_code, stdout.getvalue(), stderr.getvalue(), started))


RANDOM_COMMAND_LINES = Experiment(
    row="K1",
    name="random_command_lines",
    claim="the line is understood, or refused in at most three lines, one for each error; nothing is written",
    run=type_changed_lines,
    short=100,
    full=5000,
    control=type_lines_without_main,
)
