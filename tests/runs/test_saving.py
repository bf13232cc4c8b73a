"""Saving: the old file or the new one, never half of one, and said before training if it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar10.errors import UserError
from cifar10.files import atomic_write
from cifar10.runs.folder import claim_existing, claim_new

_ENDLESS_WRITER = """
import sys
from pathlib import Path
from cifar10.files import write_text

target, number = Path(sys.argv[1]), 0
while True:
    number += 1
    text = f"{number:08d}" * 40000
    write_text(target, text)
"""


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as file:
            file.write(b"ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*make room.*what was there before is unchanged"):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.slow
def test_killed_while_writing_the_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    for delay in (0.0, 0.01, 0.02, 0.03):
        writer = subprocess.Popen([sys.executable, "-c", _ENDLESS_WRITER, str(target)])
        while not target.exists():
            assert writer.poll() is None
        try:
            writer.wait(0.05 + delay)
        except subprocess.TimeoutExpired:
            writer.kill()
        writer.wait()
        text = target.read_text()
        assert len(text) == 320_000
        assert text == text[:8] * 40_000
    claim_existing(tmp_path).release()
    assert sorted(os.listdir(tmp_path)) == [".lock", "last.ckpt"]  # what the killed ones left is cleared


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*models_dir"):
        claim_new(tmp_path / "file", "run", may_be_renamed=True)
