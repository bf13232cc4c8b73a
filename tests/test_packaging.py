"""The way in for a stranger: pinned requirements, set-up that says what is missing, files that CI and people share."""

import contextlib
import fnmatch
import functools
import os
import pty
import re
import runpy
import shutil
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import shell_lines
from tests.stand_in_packages import NAMES, requirement, write_wheel

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["demo", "test", "train", "lint", "docs", "audit", "sbom"]
SHELL_SCRIPTS = [*TARGETS, "setup", "image_packages"]


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run scripts/check_requirements on the files of a folder."""
    command = [sys.executable, str(ROOT / "scripts" / "check_requirements"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder with copies of the lock and the requirements files."""
    for name in ("poetry.lock", *(file.name for file in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_requirements_agree_with_the_lock() -> None:
    result = run_check(ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("pattern", "replacement", "complaint"),
    [
        (r"numpy==\S+", "numpy==2.0.0", "numpy is 2.0.0"),
        (r"(numpy==[^\n]+\n) +--hash=\S+ \\\n", r"\1", "numpy .* has other hashes"),
        (r"(numpy==[^\n]+\n +--hash=sha256:)\w{8}", r"\g<1>00000000", "numpy .* has other hashes"),
        (r"\nnumpy==(?:[^\n]+\\\n)+[^\n]+", "", "numpy is missing"),
        (r"(numpy==)", r"surprise==1.0\n\1", "surprise is not among the locked packages"),
        (r"(\nnumpy==(?:[^\n]+\\\n)+[^\n]+)", r"\1\1", "numpy occurs 2 times"),
        (r"numpy==\S+", "numpy", "is no pinned requirement"),
        (r"(numpy==)", r"--extra-index-url https://example.org/\n\1", "is no pinned requirement"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        *(pytest.param(f"requirements-{kind}.txt", marks=pytest.mark.slow) for kind in ("onnx", "serve", "dev")),
    ],
)
def test_every_disagreement_with_the_lock_is_found(
    copied: Path, name: str, pattern: str, replacement: str, complaint: str
) -> None:
    path = copied / name
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1)
    assert count == 1
    path.write_text(text, encoding="utf-8")
    result = run_check(copied)
    assert result.returncode == 1
    assert re.search(f"{name}: {complaint}", result.stderr), result.stderr


def test_each_file_of_each_locked_package_has_a_hash() -> None:
    check = runpy.run_path(str(ROOT / "scripts" / "check_requirements"))
    for package in check["read_lock"](ROOT / "poetry.lock"):
        assert package["files"], package["name"]
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]) for file in package["files"]), package["name"]


def test_what_installs_packages_demands_their_hashes() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "pip install" not in re.sub(r"^#.*$", "", docker, flags=re.MULTILINE), "scripts/image_packages does it"
    for name in ("setup", "image_packages", "slug"):
        text = re.sub(r"\\\n", " ", (ROOT / "scripts" / name).read_text(encoding="utf-8"))
        lines = [line for line in text.splitlines() if re.search(r"pip (install|download)\b", line)]
        assert lines and all("--require-hashes" in line for line in lines), name


def test_a_package_without_a_hash_is_found_even_if_the_lock_has_none(copied: Path) -> None:
    lock, required = copied / "poetry.lock", copied / "requirements.txt"
    lock.write_text(re.sub(r'(name = "six"\n[^\[]*files = \[)[^\]]*\]', r"\1]", lock.read_text(encoding="utf-8")))
    for file in copied.glob("requirements*.txt"):
        text = re.sub(r"(\nsix==\S+)(?: \\\n +--hash=\S+)+", r"\1", file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    result = run_check(copied)
    assert "--hash" in required.read_text() and result.returncode == 1
    assert "requirements.txt: six 1.17.0 has no hash" in result.stderr


def test_a_requirements_file_that_is_missing_is_named(copied: Path) -> None:
    (copied / "requirements-page.txt").unlink()
    result = run_check(copied)
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "requirements-page.txt is missing"


def test_a_library_locked_twice_is_required_once_in_the_version_that_the_cuda_toolkit_demands() -> None:
    check = runpy.run_path(str(ROOT / "scripts" / "check_requirements"))
    packages = check["read_lock"](ROOT / "poetry.lock")
    toolkit = next(package for package in packages if package["name"] == "cuda-toolkit")
    demanded = toolkit["dependencies"]["nvidia-cublas"]["version"].removeprefix("==").removesuffix(".*")
    entries, _ = check["read_requirements"]((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert [version for name, version, _ in entries if name == "nvidia-cublas"] == [demanded]


def test_requirements_name_no_package_index() -> None:
    for file in ROOT.glob("requirements*.txt"):
        if file.name != "requirements-torch-cpu.txt":  # its header has the line to type
            assert not re.search(r"-index-url|://", file.read_text(encoding="utf-8")), file.name
    assert "[[tool.poetry.source" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_make_target_calls_the_script_of_its_name(target: str) -> None:
    outside = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    line = ["make", "-n", target, "ARGS=-k x"]
    called = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=outside)
    assert called.stdout == f"sh scripts/{target} -k x\n"


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_a_script_is_plain_shell(name: str) -> None:
    assert subprocess.run(["sh", "-n", ROOT / "scripts" / name], check=False).returncode == 0


def write_program(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def run_setup(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs scripts/setup in a folder of its own, with `tmp_path`/bin first on the path."""
    project = tmp_path / "project with a space"
    (project / "scripts").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("setup", "environment"):
        shutil.copy(ROOT / "scripts" / name, project / "scripts")
    for name in ("requirements.txt", "requirements-onnx.txt", "requirements-serve.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, project)

    def run(*arguments: str, stderr: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = ["sh", str(project / "scripts" / "setup"), *arguments]
        variables = {**os.environ, "PATH": path, **environment}
        return subprocess.run(
            command, cwd="/", env=variables, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
        )

    return run


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Assert that set-up failed with one line on stderr that holds all the parts."""
    assert result.returncode == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert [line for line in result.stderr.splitlines() if not line.startswith("setup: making")] == [last]
    for part in parts:
        assert part in last


def test_setup_refuses_an_old_python_and_says_which_version_it_has(
    run_setup: Callable[..., Any], tmp_path: Path
) -> None:
    old = write_program(tmp_path / "old", 'case "$2" in *print*) echo Python 3.9.2 ;; *) exit 1 ;; esac\n')
    assert_one_line(run_setup(PYTHON=str(old)), f"PYTHON={old} is Python 3.9.2", "3.11, 3.12 or 3.13 is needed")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "not found"),
        (
            "echo Fatal Python error >&2\necho \"ModuleNotFoundError: No module named 'encodings'\" >&2\nexit 1\n",
            "No module named",
        ),
    ],
)
def test_setup_says_that_a_named_python_does_not_start(
    run_setup: Callable[..., Any], tmp_path: Path, program: str | None, reason: str
) -> None:
    python = tmp_path / "broken python"
    if program is not None:
        write_program(python, program)
    assert_one_line(run_setup(PYTHON=str(python)), f"PYTHON={python} does not start: {reason}")


def test_setup_looks_for_a_python_of_a_supported_version(run_setup: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python"):
        write_program(tmp_path / "bin" / name, 'case "$2" in *print*) echo Python 3.9.2 ;; *) exit 1 ;; esac\n')
    write_program(tmp_path / "bin" / "df", "echo header; echo disk 1 1 99999999 1% /\n")
    assert_one_line(run_setup(), "Python 3.11, 3.12 or 3.13 is needed", "found: Python 3.9.2", "PYTHON=")


def test_setup_names_the_package_that_brings_the_venv_module(run_setup: Callable[..., Any], tmp_path: Path) -> None:
    fake = 'case "$2" in *ensurepip*) exit 1 ;; esac\nexec "' + sys.executable + '" "$@"\n'
    python = write_program(tmp_path / "no-venv", fake)
    write_program(tmp_path / "bin" / "df", "echo header; echo disk 1 1 99999999 1% /\n")
    assert_one_line(run_setup(PYTHON=str(python)), "has no venv module", "apt install python3-venv")


def test_setup_refuses_a_disk_that_is_too_full(run_setup: Callable[..., Any], tmp_path: Path) -> None:
    write_program(tmp_path / "bin" / "df", "echo header; echo disk 1 1 2097152 1% /\n")
    assert_one_line(run_setup(PYTHON=sys.executable), "10 GB of free disk", "found 2 GB", "Free some")


def test_the_stand_ins_are_what_setup_imports() -> None:
    [imported] = re.findall(r"-c 'import ([\w, ]+)' \|\|\n", (ROOT / "scripts" / "setup").read_text(encoding="utf-8"))
    assert ("six", *imported.split(", ")) == NAMES


def test_setup_refuses_an_unknown_set(run_setup: Callable[..., Any]) -> None:
    assert_one_line(run_setup("tests"), "takes nothing or dev, not: tests")


@pytest.mark.slow
def test_setup_says_when_no_package_index_answers_and_goes_on_afterwards(
    run_setup: Callable[..., Any], tmp_path: Path
) -> None:
    write_program(tmp_path / "bin" / "df", "echo header; echo disk 1 1 99999999 1% /\n")
    closed = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    assert_one_line(run_setup(PYTHON=sys.executable, **closed), "no Python package index", "pip config set")
    again = run_setup(PYTHON=sys.executable, **closed)
    assert_one_line(again, "no Python package index")
    assert "making .venv" not in again.stderr


def test_setup_does_nothing_where_the_locked_versions_are_installed(
    run_setup: Callable[..., Any], tmp_path: Path
) -> None:
    project = tmp_path / "project with a space"
    (project / ".venv" / "bin").mkdir(parents=True)
    python = write_program(project / ".venv" / "bin" / "python", "")
    shutil.copy(project / "requirements-dev.txt", project / ".venv" / "installed-dev.txt")
    nothing = write_program(tmp_path / "nothing", "exit 1\n")
    for arguments in ((), ("dev",)):
        result = run_setup(*arguments, PYTHON=str(nothing))
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    python.unlink()
    assert run_setup(PYTHON=str(nothing)).returncode == 1
    write_program(python, "")
    shutil.copy(ROOT / "LICENSE", project / "requirements-dev.txt")
    assert run_setup("dev", PYTHON=str(nothing)).returncode == 1


@pytest.fixture
def new_environment(run_setup: Callable[..., Any], tmp_path: Path) -> Path:
    """Return a new environment without packages, of a project that has the package and its configuration files."""
    project = tmp_path / "project with a space"
    for folder in ("cifar10", "conf"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    return project / ".venv"


USE_THE_PACKAGE = """
import cifar10
from cifar10.config.conf_folder import CONF, options
print(cifar10.__file__, CONF, *options("tracking"), callable(cifar10.load))
"""


def used_elsewhere(python: Path) -> str:
    """Return what a script in another folder prints that imports the package."""
    done = subprocess.run([python, "-I", "-c", USE_THE_PACKAGE], cwd="/", capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_setup_makes_the_package_importable_from_any_folder_even_after_the_project_has_moved(
    run_setup: Callable[..., Any], new_environment: Path, tmp_path: Path
) -> None:
    project, python = new_environment.parent, Path(".venv") / "bin" / "python"
    assert "ModuleNotFoundError" in used_elsewhere(project / python)
    shutil.copy(project / "requirements.txt", new_environment / "installed.txt")  # as if all packages were there
    assert run_setup().returncode == 0
    expected = "{0}/cifar10/__init__.py {0}/conf mlflow none server True\n"
    assert used_elsewhere(project / python) == expected.format(project)
    project.rename(tmp_path / "moved")
    assert used_elsewhere(tmp_path / "moved" / python) == expected.format(tmp_path / "moved")


def test_the_image_makes_the_package_importable_from_any_folder(new_environment: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [line] = set(re.findall(r"&& (.*cifar10\.pth\S*)$", dockerfile, re.MULTILINE))
    [folder] = set(re.findall(r"^WORKDIR (.+)$", dockerfile, re.MULTILINE))
    command = line.replace(f"echo {folder} ", f"echo '{new_environment.parent}' ")
    path = f"{new_environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], env={**os.environ, "PATH": path}, check=True)
    assert used_elsewhere(new_environment / "bin" / "python").startswith(f"{new_environment.parent}/cifar10/")


@pytest.mark.slow
def test_a_type_checker_knows_the_types_of_the_installed_package(new_environment: Path, tmp_path: Path) -> None:
    library = next(new_environment.glob("lib/python3*/site-packages"))
    (library / "cifar10.pth").write_text(f"{new_environment.parent}\n")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text("import cifar10\nreveal_type(cifar10.load('best').predict(b'').class_name)\n")
    options = [
        "--config-file=",
        f"--python-executable={new_environment / 'bin' / 'python'}",
        "--ignore-missing-imports",
    ]
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", *options, script.name]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    assert 'Revealed type is "str"' in done.stdout or 'Revealed type is "builtins.str"' in done.stdout, done.stdout


@pytest.fixture
def stand_ins(run_setup: Callable[..., Any], tmp_path: Path) -> dict[str, str]:
    """Let the project require tiny packages, and return the settings by which pip finds them on the disk."""
    wheels = tmp_path / "wheels"
    lines = [requirement(write_wheel(wheels, name)) for name in NAMES]
    (tmp_path / "project with a space" / "requirements.txt").write_text(
        "# a comment\n" + "".join(lines), encoding="utf-8"
    )
    write_program(tmp_path / "bin" / "df", "echo header; echo disk 1 1 99999999 1% /\n")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), "PIP_CONFIG_FILE": os.devnull}
    return {**offline, "PYTHON": sys.executable}


@pytest.mark.slow
def test_setup_tells_its_progress_and_keeps_the_words_of_pip_in_a_log(
    run_setup: Callable[..., Any], stand_ins: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PIP_TARGET": str(tmp_path / "elsewhere")}
    hostile = {**elsewhere, "PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1", "HOME": "/dev/null", "TMPDIR": "/nowhere"}
    result = run_setup(**stand_ins, **hostile)
    assert result.returncode == 0, result.stderr
    said = [re.sub(r"\d+ s$", "N s", line) for line in result.stderr.splitlines()]
    assert [line.partition(";")[0] for line in said if "making .venv" not in line] == [
        f"setup: installing {len(NAMES)} packages as far as they are missing",
        f"setup: {len(NAMES)} of {len(NAMES)} packages are in place, N s",
        "setup: .venv is ready",
    ]
    venv = tmp_path / "project with a space" / ".venv"
    assert "Successfully installed" in (venv / "pip.log").read_text()
    assert len(list(venv.glob("lib/*/site-packages/torch.py"))) == 1
    assert not (tmp_path / "elsewhere").exists() and not (venv / "tmp").exists()
    again = run_setup(**stand_ins)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.slow
def test_setup_shows_the_last_words_of_pip_where_it_failed_and_goes_on_afterwards(
    run_setup: Callable[..., Any], stand_ins: dict[str, str], tmp_path: Path
) -> None:
    requirements = tmp_path / "project with a space" / "requirements.txt"
    right = requirements.read_text()
    requirements.write_text(right.replace("torch==1.0", "torch==2.0"))
    result = run_setup(**stand_ins)
    assert result.returncode == 1
    *_, reason, last = result.stderr.splitlines()
    assert "torch==2.0" in reason
    assert f"{tmp_path}/project with a space/.venv/pip.log" in last and "Run the same command again" in last
    requirements.write_text(right)
    assert run_setup(**stand_ins).returncode == 0


@pytest.mark.slow
def test_on_a_terminal_one_line_tells_what_pip_is_at(run_setup: Callable[..., Any], stand_ins: dict[str, str]) -> None:
    terminal, stderr = pty.openpty()
    result = run_setup(**stand_ins, stderr=stderr)
    os.close(stderr)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert result.returncode == 0
    assert re.search(rf"\rsetup: 0 of {len(NAMES)} packages, \d+ s: torch +".encode(), shown)
    assert all(len(line) <= 160 for line in re.split(rb"[\r\n]+", shown))


def test_hooks_run_only_what_is_locked_here() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks[0]["hooks"])


def test_compose_publishes_ports_on_loopback_only() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def serve_index(folder: Path) -> tuple[ThreadingHTTPServer, str]:
    """Serve a folder as a package index; the caller closes it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=folder))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/cpu"


LOCKED = {package["name"]: package for package in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]}


@pytest.fixture
def cpu_index(tmp_path: Path) -> Iterator[str]:
    """Serve pages of an index that has CPU builds of the locked PyTorch, and other files beside them."""
    for name, digit in (("torch", "1"), ("torchvision", "2")):
        version = LOCKED[name]["version"]
        files = {
            f"{name}-{version}%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl": digit * 64,
            f"{name}-{version}%2Bcpu-cp311-cp311-manylinux_2_28_aarch64.whl": "a" + digit * 63,
            f"{name}-{version}%2Bcpu-cp311-cp311-win_amd64.whl": "b" * 64,
            f"{name}-0.1.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl": "c" * 64,
            f"{name}-{version}%2Bcu132-cp311-cp311-manylinux_2_28_x86_64.whl": "d" * 64,
        }
        links = [f'<a href="/whl/cpu/{file}#sha256={digest}">{file}</a>' for file, digest in files.items()]
        (tmp_path / "cpu" / name).mkdir(parents=True)
        (tmp_path / "cpu" / name / "index.html").write_text("<html><body>" + "<br>".join(links), encoding="utf-8")
    server, address = serve_index(tmp_path)
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture
def exporting(copied: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs scripts/export_requirements --torch-cpu in a folder of its own."""
    (copied / "scripts").mkdir()
    for name in ("export_requirements", "check_requirements"):
        shutil.copy(ROOT / "scripts" / name, copied / "scripts")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(copied / "scripts" / "export_requirements"), "--torch-cpu", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_cpu_builds_are_required_by_the_locked_versions_and_the_hashes_of_their_index(
    exporting: Callable[..., subprocess.CompletedProcess[str]], copied: Path, cpu_index: str
) -> None:
    assert exporting(cpu_index).returncode == 0
    text = (copied / "requirements-torch-cpu.txt").read_text()
    check = runpy.run_path(str(ROOT / "scripts" / "check_requirements"))
    assert check["read_requirements"](text) == (
        [
            (name, f"{LOCKED[name]['version']}+cpu", {f"sha256:{digit * 64}", f"sha256:a{digit * 63}"})
            for name, digit in (("torch", "1"), ("torchvision", "2"))
        ],
        [],
    )
    assert run_check(copied).returncode == 0
    for pattern, replacement, complaint in (
        (r"torch==\d+", "torch==1", "torch is 1"),
        (r" \\\n    --hash=sha256:2+", "", None),
        (r"torchvision==(?:.*\n?)*", "", "torchvision is missing"),
    ):
        (copied / "requirements-torch-cpu.txt").write_text(re.sub(pattern, replacement, text))
        found = run_check(copied)
        assert found.returncode == (complaint is not None)
        assert (complaint or "") in found.stderr


def test_cpu_builds_that_cannot_be_had_are_said_in_one_line(
    exporting: Callable[..., subprocess.CompletedProcess[str]], copied: Path, cpu_index: str
) -> None:
    for address in (f"{cpu_index}/nowhere", "http://127.0.0.1:9", "nonsense"):
        result = exporting(address)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
        assert "requirements-torch-cpu.txt cannot be made" in result.stderr and "--torch-cpu INDEX" in result.stderr
    assert not (copied / "requirements-torch-cpu.txt").exists()


@pytest.fixture
def install_in_image(tmp_path: Path) -> Callable[..., tuple[int, list[str], str]]:
    """Return a function that runs scripts/image_packages where pip only notes the requirements that it is given."""
    library = tmp_path / "library"
    (library / "torch" / "test").mkdir(parents=True)
    (library / "numpy" / "tests").mkdir(parents=True)
    note = 'echo "$@" >>pip.log\nfor word; do case $word in *.txt) cat "$word" >>pip.log ;; esac; done\n'
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin" / "pip", note)
    write_program(tmp_path / "bin" / "python", f'case "$*" in *purelib*) echo "{library}" ;; esac\n')
    for name in ("requirements.txt", "requirements-postgres.txt"):
        shutil.copy(ROOT / name, tmp_path)
    settings = {"TORCH_INDEX_URL": "https://an.index/cpu", "MPLCONFIGDIR": str(library)}

    def run(kind: str) -> tuple[int, list[str], str]:
        result = subprocess.run(
            ["sh", str(ROOT / "scripts" / "image_packages"), kind],
            cwd=tmp_path,
            env={**os.environ, **settings, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        log = (tmp_path / "pip.log").read_text() if (tmp_path / "pip.log").exists() else ""
        return result.returncode, log.splitlines(), result.stderr

    return run


def test_an_image_for_the_cpu_leaves_out_what_only_cuda_needs_and_nothing_else(
    install_in_image: Callable[..., tuple[int, list[str], str]], tmp_path: Path
) -> None:
    code, log, stderr = install_in_image("cpu")
    assert code == 1 and not log and "python3 scripts/export_requirements --torch-cpu" in stderr
    (tmp_path / "requirements-torch-cpu.txt").write_text("torch==1.0+cpu --hash=sha256:1\n")
    code, log, stderr = install_in_image("cpu")
    assert code == 0, stderr
    calls = [line for line in log if line.startswith("install ")]
    assert len(calls) == 2 and all("--require-hashes" in call for call in calls)
    assert "--index-url https://an.index/cpu" in calls[0]
    check = runpy.run_path(str(ROOT / "scripts" / "check_requirements"))
    installed = {line.split("==")[0] for line in log if re.match(r"[a-z0-9].*==", line)}
    required = {name for name, _, _ in check["read_requirements"]((ROOT / "requirements.txt").read_text())[0]}
    only_cuda = {name for name in required if re.match("nvidia-|cuda-|triton$", name)}
    assert installed == required - only_cuda - {"torchvision"} | {"psycopg2-binary"}
    needed_by = {name: {n for n, p in LOCKED.items() if name in p.get("dependencies", {})} for name in only_cuda}
    assert all(users <= only_cuda | {"torch"} for users in needed_by.values()), needed_by


def test_an_image_for_cuda_holds_all_that_is_locked_without_the_tests_of_the_packages(
    install_in_image: Callable[..., tuple[int, list[str], str]], tmp_path: Path
) -> None:
    code, log, stderr = install_in_image("cuda")
    assert code == 0, stderr
    files = ("requirements.txt", "requirements-postgres.txt")
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    assert "--require-hashes" in log[0] and log[1:] == lines
    assert not list((tmp_path / "library").rglob("test*"))


def test_all_that_the_image_is_made_of_is_sent_to_the_engine() -> None:
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert any(fnmatch.fnmatch(path, name) for path in sent), name


def test_the_image_does_not_run_as_root_and_needs_no_buildkit() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)[-1] not in ("root", "0")
    assert not re.search(r"^# *syntax=|--mount=|<<", dockerfile, re.MULTILINE)


def test_what_the_image_keeps_is_in_the_volumes_that_it_names() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [program] = set(re.findall(r'CIFAR10_PROGRAM="(.+)"', dockerfile))
    [cache] = set(re.findall(r"XDG_CACHE_HOME=(\S+)", dockerfile))  # the engines' measurements, published weights
    [created] = set(re.findall(r"^RUN install --directory --owner=cifar10 ([a-z/ ]+) ", dockerfile, re.MULTILINE))
    volumes = re.findall(r"--volume cifar10-[a-z]+:(\S+)", program)
    assert volumes == [f"/app/{folder}" for folder in created.split() if "/" not in folder]
    assert any(Path(cache).is_relative_to(volume) for volume in volumes)
    head = dockerfile.partition("\nARG ")[0]
    assert all(f":{volume} " in head for volume in volumes)


def copy_of_the_project(folder: Path) -> Path:
    """Copy what Git tracks into a new repository in `folder` and commit it there; skip where this is no repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no Git repository")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All"]):
        subprocess.run([*git, *words], cwd=folder, check=True, capture_output=True)
    return folder


def test_a_checkout_on_windows_has_the_same_bytes(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    windows = tmp_path / "windows"
    settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", *settings, "clone", "--quiet", project, windows], check=True)
    names = subprocess.run(["git", "ls-files"], cwd=windows, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert "scripts/setup" in names
    changed = [name for name in names if name and (windows / name).read_bytes() != (project / name).read_bytes()]
    assert changed == []
    for script in SHELL_SCRIPTS:
        assert subprocess.run(["sh", "-n", windows / "scripts" / script], check=False).returncode == 0


def test_make_in_docs_takes_the_sphinx_of_the_environment_and_else_that_of_the_path(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "Makefile", tmp_path / "docs")

    def command() -> str:
        line = ["make", "--no-print-directory", "-n", "html"]
        return subprocess.run(line, cwd=tmp_path / "docs", capture_output=True, text=True, check=True).stdout.strip()

    assert command() == 'sphinx-build -M html . "_build"'
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write_program(tmp_path / ".venv" / "bin" / "python", "")
    assert command() == '../.venv/bin/python -m sphinx -M html . "_build"'


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_make_html_in_docs_builds_the_documentation(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    pages = "-q -D autosummary_generate=0 -D exclude_patterns=_build,reference"  # `make docs` builds all of them
    words = [f"SPHINXBUILD={sys.executable} -m sphinx", f"BUILDDIR={tmp_path}", f"SPHINXOPTS={pages}"]
    subprocess.run(["make", "html", *words], cwd=ROOT / "docs", check=True)
    assert (tmp_path / "html" / "index.html").exists()


def test_what_the_lines_of_the_documentation_make_is_ignored_by_git() -> None:
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("this is no Git repository")
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(line for page in pages for line in shell_lines(page.read_text(encoding="utf-8")))
    written = set(re.findall(r"--output=([\w./-]+)", text)) | set(re.findall(r"--test_dir=([\w./-]+)", text))
    written.discard("-")  # standard input
    assert {"answers.csv", "measured", "photos"} <= written
    made = {".venv", "dvc_plots/index.html", ".dvc/tmp/lock", ".dvc/cache/files", ".dvc/config.local"}
    made |= {"mlruns/mlflow.db", "models/first/best.ckpt", "models/dvc-metrics.json", "data/report.yaml"}
    made |= {"docs/_build/html/index.html", *(name if "." in name else f"{name}/file" for name in written)}
    names = sorted(name for name in made if not name.startswith("/"))
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.splitlines() == names


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_what_a_shell_would_expand_is_quoted_in_each_line_to_type(page: Path) -> None:
    for line in shell_lines(page.read_text(encoding="utf-8")):
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", re.sub(r"(^|\s)#.*", "", line))
        assert not re.search(r"[][?*{}()~]", bare), line
