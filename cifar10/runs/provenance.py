"""Provenance of results: code, versions, machine."""

import contextlib
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "mlflow", "numpy", "pillow")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon", "asimd")
_PACKAGE = Path(__file__).parents[1]


def code_state() -> dict[str, Any]:
    """Return the commit of the code and whether files differ from it, None outside a checkout, and a digest of it."""
    is_tracked = _git("ls-files", "--error-unmatch", __file__) is not None  # else the checkout is of another project
    commit = _git("rev-parse", "HEAD") if is_tracked else None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    dirty = None if commit is None else bool(changes)
    return {"git_commit": commit, "git_dirty": dirty, "code_digest": code_digest()}


def code_digest() -> str:
    """Return the SHA-256 over names and bytes of the package's Python files, which needs no Git."""
    sha = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(_PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return sha.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine() -> dict[str, Any]:
    """Return the processor, its number of cores, its relevant instruction sets, and the GPU if there is one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**processor(), "gpu": gpu}


def processor() -> dict[str, Any]:
    """Return the processor, its number of cores and its relevant instruction sets; without importing PyTorch."""
    name, flags = _cpu_info()
    return {
        "cpu": name or platform.processor(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
    }


def _cpu_info() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", set()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", ""), set((fields.get("flags") or fields.get("Features") or "").split())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
