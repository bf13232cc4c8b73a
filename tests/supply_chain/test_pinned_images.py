"""Container images: each has a full version, or a digest as well, and one command writes the digests."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import ROOT

FULL = re.compile(r"(python:\d+\.\d+\.\d+-slim-[a-z]+|postgres:\d+\.\d+-[a-z]+)(@sha256:[0-9a-f]{64})?")
FILES = ("Dockerfile", "docker-compose.yml", ".env.example")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def images(text: str) -> list[str]:
    """Return each image with a tag or a digest that a text names."""
    return re.findall(r"(?<![\w/:.@])(?:python|postgres|debian|ubuntu|nvidia/cuda):[\w.:@-]*\w", text)


def test_each_image_has_a_full_version() -> None:
    each = [images((ROOT / file).read_text(encoding="utf-8")) for file in FILES]
    assert all(each)
    named = {image for found in each for image in found}
    assert {image.partition(":")[0] for image in named} == {"python", "postgres"}
    assert len(named) == 2, "the same everywhere"
    for image in named:
        assert FULL.fullmatch(image), image


def test_each_stage_begins_with_a_pinned_image_or_another_stage() -> None:
    arguments = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE)) > 5
    for source, _ in stages:
        if not source.startswith("${"):
            assert source in {name for _, name in stages}
        else:
            assert FULL.fullmatch(arguments[source[2:-1]])


def test_compose_runs_only_images_that_it_builds() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    built = {service["image"] for service in services.values() if "build" in service}
    assert {service["image"] for service in services.values()} == built


@pytest.mark.parametrize("folder", [".", "docs", "scripts", ".ci"])
def test_no_page_or_script_names_an_image_without_its_version(folder: str) -> None:
    for file in sorted((ROOT / folder).iterdir()):
        if file.is_file() and file.suffix not in (".lock", ".svg", ".db") and not file.name.startswith("requirements"):
            text = file.read_text(encoding="utf-8", errors="replace")
            for image in [] if file.name == "pin_images" else images(text):
                assert FULL.fullmatch(image), f"{file.name}: {image}"
            assert not re.search(r"\b[\w/-]+:latest\b", text), file.name


class Registry(BaseHTTPRequestHandler):
    """Answers as Docker Hub does: refused without the pass that another address gives."""

    tags: tuple[str, ...] = ()

    def do_GET(self) -> None:
        self.respond(200, json.dumps({"token": "pass"}).encode() if "scope=repository:library/" in self.path else b"{}")

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer pass":
            address = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
            self.respond(401, challenge=f'Bearer realm="{address}",service="registry"')
        elif self.path.removeprefix("/v2/library/").replace("/manifests/", ":") in self.tags:
            self.respond(200, digest=f"sha256:{hashlib.sha256(self.path.encode()).hexdigest()}")
        else:
            self.respond(404)

    def respond(self, status: int, body: bytes = b"", challenge: str = "", digest: str = "") -> None:
        self.send_response(status)
        for name, value in (("WWW-Authenticate", challenge), ("Docker-Content-Digest", digest)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Type", "application/vnd.oci.image.index.v1+json" if digest else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a registry that has the images of this project, and a newer one."""
    here = images("\n".join((ROOT / file).read_text(encoding="utf-8") for file in FILES))
    tags = ("python:3.11.99-slim-trixie", *(image.partition("@")[0] for image in here))
    monkeypatch.setattr(Registry, "tags", tags)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the files that name images."""
    (tmp_path / "scripts").mkdir()
    for name in (*FILES, "scripts/pin_images"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def pin(project: Path, registry: str, *words: str) -> Any:
    command = [sys.executable, str(project / "scripts" / "pin_images"), *words]
    variables = {**os.environ, "REGISTRY_URL": registry}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_one_command_writes_the_digests_everywhere_and_the_same_one_newer_ones(project: Path, registry: str) -> None:
    for words in ((), (), ("python:3.11.99-slim-trixie",)):
        done = pin(project, registry, *words)
        assert done.returncode == 0, done.stderr
        named = {image for file in FILES for image in images((project / file).read_text())}
        assert len(named) == 2
        for image in named:
            name, tag, digest = re.split(r"[:@]", image, maxsplit=2)
            address = f"/v2/library/{name}/manifests/{tag}"
            assert digest == f"sha256:{hashlib.sha256(address.encode()).hexdigest()}"
            assert FULL.fullmatch(image)
        assert ("python:3.11.99-slim-trixie" in {image.partition("@")[0] for image in named}) == bool(words)
    text = (project / "docker-compose.yml").read_text()
    assert max(map(len, text.splitlines())) <= 140, "as yamllint demands"
    assert yaml.safe_load(text)["services"]["postgres"]["build"]["args"]["POSTGRES_IMAGE"].count("@sha256:") == 1


@pytest.mark.parametrize("words", [("python:3.11.98-slim-trixie",), ("postgres:nonsense",)])
def test_an_image_that_the_registry_does_not_have_changes_nothing(
    project: Path, registry: str, words: tuple[str, ...]
) -> None:
    done = pin(project, registry, *words)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "404" in done.stderr
    assert all((project / file).read_bytes() == (ROOT / file).read_bytes() for file in FILES)


def test_a_registry_that_is_away_is_told_in_one_line(project: Path) -> None:
    done = pin(project, "http://127.0.0.1:9")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nothing was changed" in done.stderr
