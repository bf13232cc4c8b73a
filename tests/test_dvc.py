"""DVC's files against the facts, the command line, and DVC itself."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import commands
from cifar10.command_line import parse
from cifar10.constants import CIFAR10_ARCHIVE, CIFAR100_ARCHIVE, Archive
from tests.archive_server import CONTENT, FILES, TINY, serve

PROJECT = Path(__file__).parents[1]
PIPELINE = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
REMOTES = {CIFAR10_ARCHIVE: "cifar-10", CIFAR100_ARCHIVE: "cifar-100"}
EVERY_ARCHIVE = pytest.mark.parametrize("archive", REMOTES, ids=lambda archive: archive.name)


def tracked(name: str) -> dict[str, Any]:
    """Return what data/NAME.dvc says."""
    (entry,) = yaml.safe_load((PROJECT / "data" / f"{name}.dvc").read_text())["outs"]
    assert entry["path"] == name and entry["hash"] == "md5"
    return dict(entry)


def hash_of_folder(members: tuple[tuple[str, str], ...]) -> str:
    """Return DVC's hash of a folder: the MD5 of a JSON list of its files and theirs."""
    listed = [{"md5": md5, "relpath": name} for name, md5 in sorted(members)]
    return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"


@EVERY_ARCHIVE
def test_archives_and_folders_are_tracked_by_their_published_hashes(archive: Archive) -> None:
    entry, folder = tracked(archive.name), tracked(archive.folder)
    assert (entry["md5"], entry["size"]) == (archive.md5, archive.size)
    assert (folder["md5"], folder["nfiles"]) == (hash_of_folder(archive.members), len(archive.members))


@EVERY_ARCHIVE
def test_archives_are_pulled_from_a_public_address_and_never_pushed_there(archive: Archive) -> None:
    entry = tracked(archive.name)
    assert (entry["remote"], entry["push"]) == (REMOTES[archive], False)
    settings = (PROJECT / ".dvc" / "config").read_text().split(f'remote "{entry["remote"]}"')[1].split("[")[0]
    url = settings.split('url = "')[1].split('"')[0]
    assert url.removesuffix("#") in archive.urls and url.endswith("#")
    assert "verify = true" in settings


@pytest.mark.parametrize("stage", PIPELINE["stages"])
def test_stages_are_commands_that_exist_on_files_that_exist(stage: str) -> None:
    entry = PIPELINE["stages"][stage]
    made = {path for other in PIPELINE["stages"].values() for path in other["outs"]}
    assert [path for path in entry["deps"] if path not in made and not (PROJECT / path).exists()] == []
    words = shlex.split(entry["cmd"].replace("${overrides}", "data_loading=shapes seed=1").partition(" > ")[0])
    assert words[:2] == ["python", "commands.py"] and words[2] == stage
    known = {name: getattr(commands, name) for name in ("train", "data", "evaluate")}
    assert parse(known, words[2:]).command is known[stage]


def test_metrics_and_plots_lie_in_what_the_stages_make() -> None:
    made = tuple(f"{path}/" for stage in PIPELINE["stages"].values() for path in stage["outs"])
    plots = [next(iter(plot.items())) if isinstance(plot, dict) else (plot, {}) for plot in PIPELINE["plots"]]
    paths = [path for name, plot in plots for path in (plot["y"] if isinstance(plot.get("y"), dict) else [name])]
    assert len(paths) == 5
    assert all(path.startswith(made) for path in [*PIPELINE["metrics"], *paths])


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in `folder`, with this Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def make_project(project: Path, url: str, md5: str) -> None:
    """Make a DVC project that is set up as this one is, for a tiny archive at `url`."""
    (project / ".dvc").mkdir(parents=True)
    settings = (PROJECT / ".dvc" / "config").read_text().replace(CIFAR10_ARCHIVE.urls[0], url)
    (project / ".dvc" / "config").write_text(settings.replace("[core]\n", "[core]\n    no_scm = true\n"))
    for name, new_name, new_md5 in (
        (CIFAR10_ARCHIVE.name, TINY.name, md5),
        (CIFAR10_ARCHIVE.folder, TINY.folder, hash_of_folder(TINY.members)),
    ):
        entry = tracked(name) | {"path": new_name, "md5": new_md5}
        del entry["size"]
        (project / f"{new_name}.dvc").write_text(yaml.safe_dump({"outs": [entry]}))


@pytest.mark.slow
def test_pull_works_with_no_storage_of_ours(tmp_path: Path) -> None:
    with serve() as web:
        make_project(tmp_path, web.url, TINY.md5)
        pulled = dvc(tmp_path, "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / TINY.name).read_bytes() == CONTENT


@pytest.mark.slow
def test_pull_refuses_other_bytes(tmp_path: Path) -> None:
    with serve(content=CONTENT[:-1] + b"?") as web:
        make_project(tmp_path, web.url, TINY.md5)
        pulled = dvc(tmp_path, "pull")
    assert pulled.returncode == 1
    assert not (tmp_path / TINY.name).exists()


@pytest.mark.slow
def test_status_compares_the_unpacked_files(tmp_path: Path) -> None:
    make_project(tmp_path, "https://nowhere.invalid/tiny.tar.gz", TINY.md5)
    (tmp_path / TINY.folder).mkdir()
    for name, content in FILES.items():
        (tmp_path / TINY.folder / name).write_bytes(content)
    assert "up to date" in dvc(tmp_path, "status", f"{TINY.folder}.dvc").stdout
    (tmp_path / TINY.folder / "batch_1").write_bytes(b"other")
    assert "modified" in dvc(tmp_path, "status", f"{TINY.folder}.dvc").stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_repro_does_the_whole_job_in_a_clone(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no Git repository")
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    small = "data_loading=shapes data_loading.train_size=200 data_loading.validation_size=50 data_loading.test_size=50"
    job = f"{small} model=simple_cnn training.epochs=1 training.batch_size=100 tracking=none"
    (tmp_path / "params.yaml").write_text(f"overrides: {job}\n")
    first = dvc(tmp_path, "repro")
    assert first.returncode == 0, first.stderr
    trained, evaluated = (
        json.loads((tmp_path / "models" / name).read_text())
        for name in ("dvc/scores.json", "dvc-evaluation/evaluation.json")
    )
    assert evaluated["test/accuracy"] == trained["test/accuracy"]
    assert evaluated["data_digest"] == yaml.safe_load((tmp_path / "data" / "report.yaml").read_text())["sha256"]
    assert dvc(tmp_path, "repro").stdout.count("didn't change, skipping") == len(PIPELINE["stages"])
