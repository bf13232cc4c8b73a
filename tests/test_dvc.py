"""DVC's files against the facts, the command line, and DVC itself."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import commands
from cifar10.cli.command_line import parse
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
    made = {path for other in PIPELINE["stages"].values() for path in [*other["outs"], *other.get("metrics", [])]}
    assert [path for path in entry.get("deps", []) if path not in made and not (PROJECT / path).exists()] == []
    known = {name: getattr(commands, name) for name in ("train", "data", "evaluate")}
    lines = entry["cmd"] if isinstance(entry["cmd"], list) else [entry["cmd"]]
    words = shlex.split(lines[0].replace("${overrides}", "data_loading=shapes seed=1").partition(" > ")[0])
    assert words[:2] == ["python", "commands.py"] and words[2] == stage
    assert parse(known, words[2:]).command is known[stage]
    for line in lines[1:]:
        assert line.startswith("python scripts/") and (PROJECT / line.split()[1]).exists()


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_stages_depend_on_all_code_and_on_what_the_data_are(stage: str) -> None:
    dependencies = set(PIPELINE["stages"][stage]["deps"])
    assert dependencies >= {"cifar10", "commands.py", "data/report.yaml"}
    assert dependencies & {"conf", "models/dvc"}  # a checkpoint carries its configuration


def test_metrics_and_plots_lie_in_what_the_stages_make() -> None:
    made = tuple(f"{path}/" for stage in PIPELINE["stages"].values() for path in stage["outs"])
    assert len(PIPELINE["plots"]) == 2 and PIPELINE["params"]
    assert all(path.startswith(made) for path in [*PIPELINE["plots"], *PIPELINE["params"]])


def test_metrics_are_accuracy_and_loss_of_the_newest_measurement(tmp_path: Path) -> None:
    scores = {"test/accuracy": 0.1, "val/loss": None, "val/accuracy": 0.987654321, "train/loss": 3.0, "seed": 1}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "evaluation.json").write_text(json.dumps({"test/accuracy": 0.9, "test/loss_tta": 2.0, "tta": "none"}))
    command = [sys.executable, str(PROJECT / "scripts" / "dvc_metrics"), str(tmp_path), str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == {"test": {"accuracy": 0.9}, "val": {"accuracy": 0.98765, "loss": None}}


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


def write_images(root: Path, colours: dict[str, str], number: int = 12) -> None:
    """Write noise tinted with a colour, as ROOT/train/CLASS/N.png and ROOT/test/CLASS/N.png."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, colour in colours.items():
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                noise = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
                Image.blend(noise, Image.new("RGB", noise.size, colour), 0.7).save(folder / f"{index}.png")


def stages_run(reproduced: subprocess.CompletedProcess[str]) -> list[str]:
    assert reproduced.returncode == 0, reproduced.stderr
    return re.findall(r"^Running stage '(\w+)'", reproduced.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_repro_does_the_whole_job_and_again_only_what_other_images_change(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no Git repository")
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    write_images(tmp_path / "data" / "mine", {"warm": "red", "cold": "blue"})
    job = "model=simple_cnn model.width=4 training.epochs=1 training.batch_size=8 training.resizing=[] tracking=none"
    words = f"data_loading=folder data_loading.root=data/mine data_loading.image_size=16 {job}"
    (tmp_path / "params.yaml").write_text(f"overrides: {words}\n")

    assert stages_run(dvc(tmp_path, "repro")) == ["data", "train", "evaluate"]
    trained, evaluated = (
        json.loads((tmp_path / "models" / name).read_text())
        for name in ("dvc/scores.json", "dvc-evaluation/evaluation.json")
    )
    assert evaluated["test/accuracy"] == trained["test/accuracy"]
    assert evaluated["data_digest"] == yaml.safe_load((tmp_path / "data" / "report.yaml").read_text())["sha256"]
    assert stages_run(dvc(tmp_path, "repro")) == ["data"]
    assert dvc(tmp_path, "status", "train", "evaluate").stdout.strip() == "Data and pipelines are up to date."

    header, row = dvc(tmp_path, "metrics", "show").stdout.rstrip().splitlines()
    assert len(header) <= 110 and len(row) <= 110 and "test.accuracy" in header
    assert dvc(tmp_path, "plots", "show").returncode == 0
    page = (tmp_path / "dvc_plots" / "index.html").read_text()
    assert page.count("<img") == 2 and "http" not in page
    made = subprocess.run(["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "dvc_plots" not in made and "models/dvc" not in made and "data/mine" not in made

    write_images(tmp_path / "data" / "mine", {"warm": "yellow"})
    assert stages_run(dvc(tmp_path, "repro")) == ["data", "train", "evaluate"]
    digest = json.loads((tmp_path / "models" / "dvc" / "scores.json").read_text())["data_digest"]
    assert digest != trained["data_digest"]


@pytest.mark.slow
def test_without_git_one_documented_line_lets_dvc_work(tmp_path: Path) -> None:
    make_project(tmp_path, "https://nowhere.invalid/tiny.tar.gz", TINY.md5)
    shutil.copy(PROJECT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    assert "is not a git repository" in dvc(tmp_path, "status", "train").stderr
    page = (PROJECT / "docs" / "data.md").read_text()
    [line] = re.findall(r"^dvc (config --local core.no_scm true)", page, re.MULTILINE)
    assert dvc(tmp_path, *line.split()).returncode == 0
    assert dvc(tmp_path, "status", "train").returncode == 0
