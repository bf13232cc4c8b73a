"""Passwords and keys: none in the tracked files, and a planted one of each kind is found."""

import json
import random
import runpy
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT

SCRIPT = ROOT / "scripts" / "check_secrets"


def letters(number: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """Return random characters, as made-up keys must not lie in a file that is searched for keys."""
    return "".join(random.Random(number).choices(alphabet, k=number))


PLANTED = {
    "AWS Access Key": ("settings.py", f'key = "AKIA{letters(16, string.ascii_uppercase)}"'),
    "GitHub Token": ("run.sh", f"export TOKEN=ghp_{letters(36)}"),
    "Private Key": ("server.pem", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n"),
    "Slack Token": ("notify.py", f'send("xoxb-{letters(12, string.digits)}-{letters(24)}")'),
    "PyPI Token": (".pypirc", f"password = pypi-AgEIcHlwaS5vcmc{letters(80)}"),
    "Basic Auth Credentials": ("README.md", f"mlflow ui --backend-store-uri=postgresql://me:{letters(12)}@db/runs"),
    "Secret Keyword": (".env.production", f"POSTGRES_PASSWORD={letters(14)}"),
    "JSON Web Token": ("test.http", "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0." + letters(43)),
    "Hex High Entropy String": ("conf.yaml", f'token: "{letters(40, "0123456789abcdef")}"'),
    "OpenAI Token": (
        "requirements.txt",
        f"# sk-{letters(20)}T3BlbkFJ{letters(20)}\nsix==1.17.0 --hash=sha256:{'1' * 64}",
    ),
}
"""What the finding is called -> a file, and a line with a key of that kind."""


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a new repository with this one's settings of the search, and a list without entries."""
    baseline = json.loads((ROOT / ".secrets.baseline").read_text(encoding="utf-8"))
    (tmp_path / ".secrets.baseline").write_text(json.dumps({**baseline, "results": {}}))
    (tmp_path / "clean.py").write_text('greeting = "hello"\n')
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    return tmp_path


def searched(repository: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_a_key_of_each_kind_is_found_in_whatever_file_and_an_untracked_file_is_not_read(repository: Path) -> None:
    assert searched(repository).returncode == 0
    for file, line in PLANTED.values():
        (repository / file).write_text(f"{line}\n")
    assert searched(repository).returncode == 0, "these files are not tracked yet"
    git(repository, "add", "--all")
    done = searched(repository)
    assert done.returncode == 1
    for kind, (file, _) in PLANTED.items():
        assert any(line.startswith(f"secrets: {file}:") and kind in line for line in done.stderr.splitlines()), kind
    assert "clean.py" not in done.stderr


def test_a_key_is_found_in_poetry_lock_and_between_hashes(repository: Path) -> None:
    for name in ("poetry.lock", "requirements-onnx.txt"):
        text = (ROOT / name).read_text(encoding="utf-8").splitlines()[:300]
        (repository / name).write_text("\n".join([*text, f'password = "{letters(20)}"', ""]))
    done = searched(repository, "poetry.lock", "requirements-onnx.txt")
    assert done.returncode == 1
    assert sorted(line.split(":")[1].strip() for line in done.stderr.splitlines()) == [
        "poetry.lock",
        "requirements-onnx.txt",
    ]


@pytest.mark.slow
def test_an_entry_counts_once_somebody_has_said_that_it_is_harmless_and_until_it_is_gone(repository: Path) -> None:
    (repository / "settings.py").write_text(f'password = "{letters(20)}"\n')
    git(repository, "add", "--all")
    assert searched(repository, "--update").returncode == 0
    assert "nobody has said that it is harmless" in searched(repository).stderr
    baseline = json.loads((repository / ".secrets.baseline").read_text())
    for entry in baseline["results"]["settings.py"]:
        entry["is_secret"] = False
    (repository / ".secrets.baseline").write_text(json.dumps(baseline))
    assert searched(repository).returncode == 0
    assert searched(repository, "--update").returncode == searched(repository).returncode == 0
    (repository / "settings.py").write_text(f'\n\npassword = "{letters(20)}"\n')
    assert searched(repository).returncode == 0, "it has only moved"
    (repository / "settings.py").write_text(f'password = "{letters(21)}"\n')
    done = searched(repository)
    assert done.returncode == 1 and "settings.py:1: Secret Keyword" in done.stderr
    assert "is not found any more" in done.stderr


def test_nothing_but_the_list_excuses_a_key(repository: Path) -> None:
    (repository / "settings.py").write_text(f'password = "{letters(20)}"  # pragma: allowlist secret\n')
    git(repository, "add", "--all")
    assert searched(repository).returncode == 1


def test_each_entry_of_the_list_here_was_looked_at() -> None:
    results = json.loads((ROOT / ".secrets.baseline").read_text(encoding="utf-8"))["results"]
    assert results and all(entry["is_secret"] is False for entries in results.values() for entry in entries)
    assert all((ROOT / file).is_file() for file in results)


def test_the_files_that_are_searched_are_those_that_git_tracks(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(repository / "clean.py", repository / "untracked.py")
    monkeypatch.chdir(repository)
    assert runpy.run_path(str(SCRIPT))["tracked_files"]() == ["clean.py"]
