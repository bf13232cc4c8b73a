"""Where a result comes from is known inside a checkout, outside one, and inside somebody else's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from cifar10.runs import provenance

SCRIPT = "import json; from cifar10.runs.provenance import code_state; print(json.dumps(code_state()))"


def copy_package(folder: Path) -> Path:
    package = Path(provenance.__file__).parents[1]
    shutil.copytree(package, folder / "cifar10", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def state_of(folder: Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_outside_a_checkout_the_digest_still_names_the_code(tmp_path: Path) -> None:
    state = state_of(copy_package(tmp_path))
    assert state == {"git_commit": None, "git_dirty": None, "code_digest": provenance.code_digest()}


def test_a_changed_file_changes_digest_and_flag(tmp_path: Path) -> None:
    git(copy_package(tmp_path), "init", "-q")
    git(tmp_path, "add", "cifar10")
    git(tmp_path, "commit", "-qm", "first")
    before = state_of(tmp_path)
    (tmp_path / "cifar10" / "errors.py").write_text("# other code\n")
    after = state_of(tmp_path)
    assert before["git_commit"] == after["git_commit"] is not None
    assert (before["git_dirty"], after["git_dirty"]) == (False, True)
    assert before["code_digest"] != after["code_digest"]


def test_a_checkout_that_does_not_track_the_code_is_not_its_origin(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("theirs")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-qm", "theirs")
    assert state_of(copy_package(tmp_path))["git_commit"] is None
