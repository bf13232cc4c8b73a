"""What documents contain, for the tests that hold them to it: command lines, files, transcripts."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

_SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TRANSCRIPT = re.compile(r"^```text\n\$ (.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_BLOCK = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"`((?:\.?[a-z][\w-]*/)+(?:[\w.-]+)?|[\w-]+\.(?:md|py|yaml|yml|toml|lock|txt)|[A-Z]{6,}|Makefile)`")
_PROGRAM = "python commands.py "


def shell_lines(text: str) -> list[str]:
    """Return the lines of all shell blocks, comments included."""
    return [line for block in _SHELL_BLOCK.findall(text) for line in block.splitlines() if line.strip()]


def program_lines(text: str) -> list[list[str]]:
    """Return the words behind `python commands.py` of each such line in a shell block."""
    lines = [line.partition(_PROGRAM)[2] for line in shell_lines(text) if line.startswith(_PROGRAM)]
    return [shlex.split(line, comments=True) for line in lines]


def transcripts(text: str) -> list[tuple[list[str], str]]:
    """Return (words behind `python commands.py`, what is shown to follow) of each transcript."""
    return [
        (shlex.split(line.removeprefix(_PROGRAM)), shown)
        for line, shown in _TRANSCRIPT.findall(text)
        if line.startswith(_PROGRAM)
    ]


def file_blocks(text: str) -> dict[str, str]:
    """Return path -> content of each block that is captioned with the name of a file."""
    return dict(_FILE_BLOCK.findall(text))


def named_paths(text: str) -> list[str]:
    """Return the files and folders of the repository that stand between backticks."""
    return _PATH.findall(text)
