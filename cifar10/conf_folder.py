"""What `conf/` offers: its groups, their options and their settings. Needs no Hydra."""

from collections.abc import Iterator
from pathlib import Path

CONF = Path(__file__).resolve().parent.parent / "conf"
"""The folder of the YAML files: one sub-folder a group, one file an option."""

_NO_SETTINGS = frozenset({"defaults", "hydra", "_target_"})


def groups() -> list[str]:
    """Return the names of the groups, sorted."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir()) if CONF.is_dir() else []


def options(group: str) -> list[str]:
    """Return what may be chosen for `group`, sorted."""
    files = (CONF / group).rglob("*.yaml")
    return sorted(file.relative_to(CONF / group).with_suffix("").as_posix() for file in files)


def settings() -> list[str]:
    """Return the dotted keys that the files mention, sorted; overlays of whole runs (`experiment`) aside."""
    names = set(_top_level_keys(CONF / "config.yaml"))
    for group in groups():
        if group != "experiment":
            names.update(f"{group}.{key}" for option in options(group) for key in _keys_of(group, option))
    return sorted(names)


def _keys_of(group: str, option: str) -> Iterator[str]:
    return _top_level_keys(CONF / group / f"{option}.yaml")


def _top_level_keys(file: Path) -> Iterator[str]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    if isinstance(content, dict):
        yield from (str(key) for key in content if key not in _NO_SETTINGS)
