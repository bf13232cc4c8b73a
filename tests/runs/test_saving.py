"""Saving: the old file or the new one, never half of one, and said before training if it cannot be."""

import os
from pathlib import Path

import pytest

from cifar10.errors import UserError
from cifar10.files import atomic_write
from cifar10.runs.folder import claim_new


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


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*models_dir"):
        claim_new(tmp_path / "file", "run", may_be_renamed=True)
