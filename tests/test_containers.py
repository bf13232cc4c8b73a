"""Containers and hosts: docker-compose.yml, the stages of the Dockerfile, the training job, and scripts/slug."""

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from PIL import Image

from tests.documented import ROOT, shell_lines
from tests.serving.http.serving_process import free_port
from tests.tiny_onnx import coloured, write_colour_model
from tests.tiny_run import TINY

COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_compose_accepts_its_file_with_and_without_settings(tmp_path: Path) -> None:
    for name in ("docker-compose.yml", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["docker-compose", "--profile", "gpu", "--profile", "tests", "--profile", "tools", "config", "--quiet"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        shutil.copy(tmp_path / ".env.example", tmp_path / ".env")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True and service["init"] is True
    assert "privileged" not in service and "user" not in service
    written = [volume.partition(":")[0] for volume in service.get("volumes", [])]
    assert all(re.fullmatch(r"\w+", volume) for volume in written), "only named volumes"


def test_each_service_waits_for_the_one_before() -> None:
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    healthy, completed = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert waits["mlflow"] == {"postgres": healthy}
    assert waits["train"] == {"mlflow": healthy}
    assert waits["serve"] == {"mlflow": healthy, "train": completed}
    assert waits["app"] == {"serve": healthy}
    assert waits["addresses"] == {"app": healthy}
    checked = {"mlflow", "app"}  # the others' checks are in their images
    assert {name for name, service in SERVICES.items() if "healthcheck" in service} == checked
    for stage in ("serve", "postgres"):
        assert "HEALTHCHECK --interval" in stages()[stage]


def test_only_what_nobody_must_start_is_in_a_profile() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"train-gpu": ["gpu"], "tests": ["tests"], "program": ["tools"]}
    [device] = SERVICES["train-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_the_database_has_no_way_out_and_no_port() -> None:
    assert SERVICES["postgres"]["networks"] == ["database"] and "ports" not in SERVICES["postgres"]
    assert yaml.safe_load(COMPOSE.read_text())["networks"]["database"] == {"internal": True}


def test_the_example_of_settings_names_each_variable_with_its_default() -> None:
    used = set(VARIABLE.findall(COMPOSE.read_text(encoding="utf-8"))) - {("TRAIN", "always")}  # on a GPU
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = [tuple(line.split("=", 1)) for line in lines if line and not line.startswith("#")]
    assert sorted(listed) == sorted(used)
    assert subprocess.run(["git", "check-ignore", ".env"], cwd=ROOT, capture_output=True, check=False).returncode == 0


def stages() -> dict[str, str]:
    """Return the lines of each stage of the Dockerfile, in its order."""
    parts = re.split(r"^FROM \S+ AS (\w[\w-]*)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_last_stage_has_everything_and_the_small_ones_stand_before_the_large_one() -> None:
    names = list(stages())
    assert names[-1] == "full"
    assert max(map(names.index, ("serve", "postgres"))) < names.index("packages")
    assert "requirements.txt" not in stages()["serve-packages"]
    built = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert built == {"full", "serve", "postgres"}


@pytest.mark.parametrize("name", ["serve", "postgres", "full"])
def test_no_image_runs_as_root(name: str) -> None:
    [user] = re.findall(r"^USER (.+)$", stages()[name], re.MULTILINE)
    assert user in ("1000", "postgres")


CALL = re.compile(r"docker compose (?:up|stop|exec|logs|run) (?:-\S+ )*([a-z]\w*(?:-\w+)?)(?: |$)")


def test_the_documents_call_services_that_there_are() -> None:
    for page in ("deployment.md", "operations.md", "visit.md"):
        for line in shell_lines((ROOT / "docs" / page).read_text(encoding="utf-8")):
            for name in re.findall(
                r"docker compose (?:up|stop|exec|logs|run) (?:-\S+ )*([a-z]\w*(?:-\w+)?)(?: |$)", line
            ):
                assert name in SERVICES or name in ("mlflow", "tar"), line


# -- the training job --------------------------------------------------------------------------------------------------


@pytest.fixture
def run_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], str]:
    monkeypatch.chdir(tmp_path)
    found: Callable[[str, bool], str] = runpy.run_path(str(ROOT / "scripts" / "train_and_promote"))["run_name"]
    return found


def test_a_run_that_was_interrupted_is_resumed_and_a_finished_one_is_followed_by_another(
    run_name: Callable[[str, bool], str],
) -> None:
    assert run_name("cats", True) == run_name("cats", False) == "cats-1"
    for number in (9, 10):
        Path("models", f"cats-{number}").mkdir(parents=True)
    Path("models/cats-9/scores.json").touch()
    Path("models/cats-best").mkdir()
    assert run_name("cats", True) == run_name("cats", False) == "cats-10"
    Path("models/cats-10/scores.json").touch()
    assert (run_name("cats", True), run_name("cats", False)) == ("cats-11", "cats-10")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_job_trains_once_and_another_network_if_it_is_asked(tmp_path: Path) -> None:
    settings = [word for word in TINY if word != "tracking=none"] + [
        "model.width=8",
        "training.precision=fp32",
        "promotion.floor=0",
    ]
    command = [sys.executable, str(ROOT / "scripts" / "train_and_promote"), *settings]

    def job(**environment: str) -> "subprocess.CompletedProcess[str]":
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "sqlite:///mlruns/mlflow.db"}
        return subprocess.run(
            command, cwd=tmp_path, env={**variables, **environment}, capture_output=True, text=True, check=False
        )

    first = job()
    assert first.returncode == 0, first.stderr[-2000:]
    assert "is version 1 of classifier" in first.stdout
    again = job()
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("champion is version 1 of classifier; nothing to train")
    another = job(TRAIN="always")
    assert another.returncode == 0, another.stderr[-2000:]
    assert sorted(folder.name for folder in (tmp_path / "models").iterdir()) == ["classifier-1", "classifier-2"]
    assert job(TRAIN="sometimes").returncode == 2
    away = job(MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 1 and away.stderr.startswith("error: models:/classifier@champion is to come from MLflow")


# -- Heroku and Hugging Face Spaces ------------------------------------------------------------------------------------


def assembled(dest: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["sh", str(ROOT / "scripts" / "slug"), str(dest), *words]
    return subprocess.run(command, cwd=dest.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("front", "packages"), [("page", "page"), ("api", "serve")])
def test_a_slug_has_all_that_the_hosts_look_for_and_can_be_made_again(
    tmp_path: Path, front: str, packages: str
) -> None:
    write_colour_model(tmp_path / "models" / "colours" / "export" / "model.onnx")
    for _ in range(2):
        done = assembled(tmp_path / "slug", "--checkpoint_name", "colours", f"--front={front}")
        assert done.returncode == 0 and f"holds the {front} with colours" in done.stderr
    slug = tmp_path / "slug"
    assert (slug / "requirements.txt").read_bytes() == (ROOT / f"requirements-{packages}.txt").read_bytes()
    assert (slug / ".python-version").read_text() == "3.11\n"
    assert "torch" not in {line.partition("==")[0] for line in (slug / "requirements.txt").read_text().splitlines()}
    front_matter = yaml.safe_load((slug / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (front_matter["sdk"], front_matter["app_port"]) == ("docker", 7860)
    assert "${PORT:-7860}" in (slug / "Dockerfile").read_text()
    assert yaml.safe_load((slug / "heroku.yml").read_text())["build"]["docker"]["web"] == "Dockerfile"
    assert not list(slug.rglob("__pycache__"))


def test_a_slug_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_colour_model(tmp_path / "colours.onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for words, reason in (
        (("slug",), "sh scripts/slug DEST"),
        (("slug", "--checkpoint_name=nothing"), "export --checkpoint_name=nothing"),
        (("slug", "--checkpoint_name=colours.onnx", "--front=both"), "page or api"),
        (("mine", "--checkpoint_name=colours.onnx"), "holds other files"),
    ):
        done = assembled(tmp_path / words[0], *words[1:])
        assert done.returncode == 1 and reason in done.stderr, done.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_the_line_of_the_procfile_starts_the_service_at_the_port_that_the_host_names(tmp_path: Path) -> None:
    write_colour_model(tmp_path / "colours.onnx")
    assert assembled(tmp_path / "slug", "--checkpoint_name=colours.onnx", "--front=api").returncode == 0
    kind, _, line = (tmp_path / "slug" / "Procfile").read_text().strip().partition(": ")
    assert kind == "web" and shlex.split(line)[0] == "python"
    port = free_port()
    variables = {**os.environ, "PORT": str(port), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(["sh", "-c", f"exec {line}"], cwd=tmp_path / "slug", env=variables) as process:
        try:
            body = requests.post(
                f"{wait(f'http://127.0.0.1:{port}')}/predict",
                data=encoded(),
                headers={"Content-Type": "image/png"},
                timeout=20,
            )
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, 143)
    assert body.json()["images"][0]["class_name"] == "blue"


def encoded() -> bytes:
    """Return a picture that is mostly blue."""
    file = BytesIO()
    Image.fromarray(coloured(2)).save(file, "PNG")
    return file.getvalue()


def wait(address: str, seconds: float = 60) -> str:
    """Return the address as soon as a service is ready there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if requests.get(f"{address}/readyz", timeout=2).ok:
                return address
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    raise AssertionError("the service is not ready")
