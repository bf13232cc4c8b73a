"""R2: requirements and packages that somebody has tampered with, before scripts/setup or an image installs them."""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.documented import ROOT
from tests.faults.experiment import Experiment, Trial
from tests.stand_in_packages import NAMES, requirement, write_sdist, write_wheel


@dataclass(frozen=True)
class Project:
    """A copy of the scripts, which requires tiny packages, and a package index on this machine."""

    folder: Path
    index: Path
    """One folder for each package; it is served as it is, without hashes in its links."""
    url: str

    @property
    def requirements(self) -> Path:
        """The file that the scripts read; the images have a copy of another name."""
        return self.folder / "requirements.txt"

    @property
    def mark(self) -> Path:
        """Is written by each tampered package as soon as any of its code runs."""
        return self.folder / "mark"

    @property
    def packages(self) -> Path:
        """Where packages are installed."""
        [found] = self.folder.glob(".venv/lib/python3*/site-packages")
        return found

    @property
    def evil(self) -> str:
        """The code of a tampered package."""
        return f"open({str(self.mark)!r}, 'w').close()"

    def change(self, pattern: str, replacement: str) -> None:
        """Change the requirements in one place."""
        text, count = re.subn(pattern, replacement, self.requirements.read_text(), count=1)
        assert count == 1, pattern
        self.requirements.write_text(text)

    def reset(self) -> None:
        """Put everything back: right requirements and packages, nothing installed."""
        shutil.rmtree(self.index, ignore_errors=True)
        wheels = [write_wheel(self.index / name.replace("_", "-"), name) for name in NAMES]
        self.requirements.write_text("# a comment\n" + "".join(map(requirement, wheels)))
        for found in installed(self):
            (shutil.rmtree if found.is_dir() else Path.unlink)(found)
        for left in (self.mark, self.folder / ".venv" / "installed.txt"):
            left.unlink(missing_ok=True)


def installed(project: Project) -> list[Path]:
    """Return what lies in site-packages that a new environment does not have."""
    own = re.compile(r"(pip|setuptools|pkg_resources|_distutils_hack|distutils|__pycache__|cifar10\.pth)")
    return [path for path in project.packages.iterdir() if not own.match(path.name)]


# -- what is done to them: each takes a project and the name of a package ----------------------------------------------

Tampering = Callable[[Project, str], None]


def _in_index(project: Project, name: str) -> Path:
    return project.index / name.replace("_", "-")


def other_bytes(project: Project, name: str) -> None:
    write_wheel(_in_index(project, name), name, code=project.evil)


def sdist_of_the_first(project: Project, _: str) -> None:
    next(_in_index(project, "six").iterdir()).unlink()
    write_sdist(_in_index(project, "six"), "six", project.evil)


def sdist_instead(project: Project, name: str) -> None:
    next(_in_index(project, name).iterdir()).unlink()
    write_sdist(_in_index(project, name), name, project.evil)


def newer_build(project: Project, name: str) -> None:
    write_wheel(_in_index(project, name), name, "1.0-1", project.evil)


def another_package(project: Project, name: str) -> None:
    evil = write_wheel(project.folder / "evil", name, code=project.evil)
    [own] = _in_index(project, name).iterdir()
    shutil.copy(evil, own)


def cut_off(project: Project, name: str) -> None:
    [wheel] = _in_index(project, name).iterdir()
    wheel.write_bytes(wheel.read_bytes()[:-100])


def hash_changed(project: Project, name: str) -> None:
    digit = re.search(rf"{name}==1.0 \\\n +--hash=sha256:(.)", project.requirements.read_text())
    assert digit is not None
    project.change(rf"({name}==1.0 \\\n +--hash=sha256:).", rf"\g<1>{'0' if digit[1] != '0' else '1'}")


def hash_removed(project: Project, name: str) -> None:
    other_bytes(project, name)
    project.change(rf"({name}==1.0) \\\n +--hash=\S+", r"\1")


def weak_hash(project: Project, name: str) -> None:
    project.change(rf"({name}==1.0 \\\n +--hash=)sha256:\S+", rf"\g<1>md5:{'0' * 32}")


def version_changed(project: Project, name: str) -> None:
    write_wheel(_in_index(project, name), name, "2.0", project.evil)
    project.change(rf"{name}==1.0", f"{name}==2.0")


def pin_loosened(project: Project, name: str) -> None:
    write_wheel(_in_index(project, name), name, "2.0", project.evil)
    project.change(rf"{name}==1.0", f"{name}>=1.0")


def similar_name(project: Project, name: str) -> None:
    write_wheel(_in_index(project, f"{name}s"), f"{name}s", code=project.evil)
    project.change(rf"\n{name}==1.0", rf"\n{name}s==1.0")


def package_added(project: Project, _: str) -> None:
    write_wheel(_in_index(project, "extra"), "extra", code=project.evil)
    project.change(r"\Z", "extra==1.0\n")


def package_added_with_a_hash_of_another(project: Project, _: str) -> None:
    [own] = _in_index(project, "six").iterdir()
    write_wheel(_in_index(project, "extra"), "extra", code=project.evil)
    project.change(r"\Z", requirement(own).replace("six", "extra").replace("\\", "\\\\"))


def by_address(project: Project, name: str) -> None:
    evil = write_wheel(project.folder / "evil", name, code=project.evil)
    project.change(rf"{name}==1.0 \\\n +--hash=\S+", f"{name} @ {evil.as_uri()}")


def editable(project: Project, name: str) -> None:
    folder = project.folder / "evil" / "source"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setup.py").write_text(f"{project.evil}\nfrom setuptools import setup\nsetup(name={name!r})\n")
    project.change(rf"({name}==1.0 \\\n +--hash=\S+\n)", rf"\1-e {folder}\n")


TAMPERINGS: tuple[Tampering, ...] = (
    *(other_bytes, sdist_of_the_first, sdist_instead, newer_build, another_package, cut_off),
    *(hash_changed, hash_removed, weak_hash, version_changed, pin_loosened, similar_name),
    *(package_added, package_added_with_a_hash_of_another, by_address, editable),
)


# -- installing --------------------------------------------------------------------------------------------------------


@contextmanager
def new_project(folder: Path) -> Iterator[Project]:
    """Make a project with an environment of its own, and serve its index."""
    (folder / "project" / "scripts").mkdir(parents=True)
    for name in ("setup", "environment", "image_packages"):
        shutil.copy(ROOT / "scripts" / name, folder / "project" / "scripts")
    index = folder / "index"
    handler = partial(_QuietHandler, directory=index)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        subprocess.run([sys.executable, "-m", "venv", folder / "project" / ".venv"], check=True)
        yield Project(folder / "project", index, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def install(project: Project, as_image: bool) -> "subprocess.CompletedProcess[str]":
    """Install as a person does, or as the Dockerfile does."""
    for name in ("serve", "postgres"):
        shutil.copy(project.requirements, project.folder / f"requirements-{name}.txt")
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{project.folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**kept, "PATH": path, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": project.url}
    variables |= {"PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    words = ["scripts/image_packages", "serve"] if as_image else ["scripts/setup"]
    command = ["sh", *words]
    return subprocess.run(command, cwd=project.folder, env=variables, capture_output=True, text=True, check=False)


def broken_claim(project: Project, done: "subprocess.CompletedProcess[str]", as_image: bool) -> str:
    """Return what does not hold after an installation that had to be refused, or ""."""
    if project.mark.exists():
        return "code of the tampered package ran"
    if found := installed(project):
        return f"{found[0].name} was installed"
    if done.returncode != 1 or (project.folder / ".venv" / "installed.txt").exists():
        return f"exit code {done.returncode}, as if all were well"
    last = (done.stderr.splitlines() or [""])[-1]
    if "Traceback" in done.stderr or not (as_image or last.startswith("setup: ")):
        return f"the last words are {done.stderr[-200:]!r}"
    return ""


def run(number: int, folder: Path, is_protected: bool = True) -> Iterator[Trial]:
    """Tamper in each way, first before an installation by a person, then before one into an image."""
    with new_project(folder) as project:
        project.reset()
        done = install(project, as_image=False)
        assert done.returncode == 0 and len(installed(project)) == 2 * len(NAMES), done.stderr
        if not is_protected:
            for name in ("setup", "image_packages"):
                script = project.folder / "scripts" / name
                script.write_text(script.read_text().replace("--require-hashes", ""))
        for index in range(number):
            tamper = TAMPERINGS[index % len(TAMPERINGS)]
            as_image = index // len(TAMPERINGS) % 2 == 1
            name = random.Random(index).choice(NAMES)
            project.reset()
            tamper(project, name)
            if not is_protected:
                text = re.sub(r" \\\n +--hash=\S+", "", project.requirements.read_text())
                project.requirements.write_text(text)
            problem = broken_claim(project, install(project, as_image), as_image)
            words = tamper.__name__.replace("_", " ")
            yield Trial(f"{words}, {name}, {'image' if as_image else 'setup'}", problem)


TAMPERED_PACKAGES = Experiment(
    row="R2",
    name="tampered_packages",
    claim="an installation is refused, and nothing of the tampered package runs",
    run=run,
    control=partial(run, is_protected=False),
    short=2,
    full=2 * len(TAMPERINGS),
)
