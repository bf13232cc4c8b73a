"""Tiny packages in place of the real ones, for what installs packages."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

NAMES = ("six", "fire", "hydra", "torch", "torchvision", "pytorch_lightning", "mlflow")
"""What scripts/setup fetches first, and what it imports at its end."""


def write_wheel(folder: Path, name: str, version: str = "1.0", code: str = "") -> Path:
    """Write a wheel of one module that holds `code`; its version may have a build tag: "1.0-1"."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    number = version.partition("-")[0]
    info = f"{name}-{number}.dist-info"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        archive.writestr(f"{info}/WHEEL", kind)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def write_sdist(folder: Path, name: str, code: str) -> Path:
    """Write a source archive that runs `code` as soon as anybody asks it for its metadata; it needs nothing else."""
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"backend.py": code, "pyproject.toml": build, "PKG-INFO": f"Name: {name}\nVersion: 1.0\n"}
    sdist = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for file, text in files.items():
            member = tarfile.TarInfo(f"{name}-1.0/{file}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return sdist


def requirement(wheel: Path) -> str:
    """Return the lines of a requirements file that pin a wheel."""
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
