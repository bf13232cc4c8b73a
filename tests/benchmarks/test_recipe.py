"""What a recipe's benchmark makes of runs that have ended, and of calls that have died."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import recipe

from cifar10.config.compose import load_config
from cifar10.runs.provenance import code_digest

WORDS = ["experiment=demo"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_training` forget the kernels of an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def keep(models: Path, **record: Any) -> None:
    made_by = {"config": load_config(WORDS).plain(), "code": code_digest()}
    (models / "seed0.json").write_text(json.dumps({"made_by": made_by, **record}))


def test_a_run_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    keep(tmp_path, calls=[{}, {}], run={"seed": 0})
    assert recipe.run_training(0, WORDS, tmp_path, tmp_path) == {"seed": 0, "calls": 2}


def test_a_call_that_died_is_resumed_and_counts_until_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def timed(command: list[str]) -> dict[str, float]:
        commands.append(command)
        return {"wall_seconds": 5.0, "cpu_seconds": 9.0}

    monkeypatch.setattr(recipe, "timed", timed)
    checkpoint = tmp_path / "seed0" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    os.utime(checkpoint, (1010, 1010))
    (tmp_path / "seed0" / "scores.json").write_text('{"seed": 0, "wall_seconds": 4.0}')
    keep(tmp_path, calls=[{"started": 1000.0}])
    run = recipe.run_training(0, WORDS, tmp_path, tmp_path)
    assert run == {"seed": 0, "wall_seconds": 15.0, "cpu_seconds": None, "calls": 2}
    assert commands[0][-2:] == ["--resume", str(checkpoint)]


def test_runs_of_another_recipe_do_not_count(tmp_path: Path) -> None:
    keep(tmp_path, calls=[{}], run={"seed": 0})
    with pytest.raises(SystemExit, match="another recipe"):
        recipe.run_training(0, ["experiment=best"], tmp_path, tmp_path)


def test_a_run_that_nothing_is_known_of_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(command: list[str]) -> dict[str, float]:
        assert "--resume" not in command, "train itself would refuse the folder, and say so"
        return {"wall_seconds": 5.0, "cpu_seconds": 9.0}

    monkeypatch.setattr(recipe, "timed", timed)
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "last.ckpt").touch()
    (tmp_path / "seed0" / "scores.json").write_text('{"seed": 0}')
    assert recipe.run_training(0, WORDS, tmp_path, tmp_path)["calls"] == 1
