"""Packages that are not installed, and the line that installs them."""

_DISTRIBUTIONS = {
    "hydra": "hydra-core",
    "PIL": "pillow",
    "pi_heif": "pi-heif",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Name of a module -> name of the package that has it, where they differ."""
_OWN = "cifar10"


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return what to tell the user about an import that failed; None if the missing module is one of this program."""
    module = (error.name or "").partition(".")[0]
    if module in ("", _OWN):
        return None
    return f"needs the package {module}, which is not installed: {install_line(module)}"


def install_line(module: str) -> str:
    """Return the command that installs the package of `module`, and the one that installs everything."""
    everything = "sh scripts/setup, then . .venv/bin/activate"
    return f"python -m pip install {_DISTRIBUTIONS.get(module, module)}, or all packages: {everything}"
