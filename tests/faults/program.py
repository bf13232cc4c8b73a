"""The real program in a process of its own, and what it may not say."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.documented import ROOT

PROGRAM = [sys.executable, str(ROOT / "commands.py")]


def run_program(folder: Path, *words: str, before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Run `commands.py` with these words in `folder`; `before` are the words of a program that starts it."""
    return subprocess.run(
        [*before, *PROGRAM, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=600,
        check=False,
    )


def wrong_ending(exit_code: int, stderr: str, expected: int) -> str:
    """Return why a program has not ended as expected, or ""."""
    if exit_code != expected:
        return f"exit code {exit_code}, not {expected}: {stderr[-300:]}"
    return f"a traceback: {stderr[-300:]}" if "Traceback" in stderr else ""
