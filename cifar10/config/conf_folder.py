"""The groups, options and settings in `conf/`, without Hydra."""

from pathlib import Path
from typing import Any

from cifar10.errors import UsageError
from cifar10.files import read_text
from cifar10.suggest import did_you_mean

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of `commands.py`. `data`, `models` and `mlruns` are created in the current folder, usually this one."""
CONF = PROJECT / "conf"
"""The folder of the YAML files: one sub-folder for each group, one file for each option.

:meta hide-value:
"""

_NO_GROUPS = frozenset({"engine", "export", "grouping", "promotion", "serving", "sweep"})  # for single commands
_NO_SETTINGS = frozenset({"defaults", "hydra", "_target_"})


def groups() -> list[str]:
    """Return the names of the groups that a run is configured by, sorted."""
    folders = [folder.name for folder in CONF.iterdir() if folder.is_dir()] if CONF.is_dir() else []
    return sorted(name for name in folders if name not in _NO_GROUPS)


def options(group: str) -> list[str]:
    """Return the names of the options of `group`, sorted."""
    files = (CONF / group).rglob("*.yaml")
    return sorted(file.relative_to(CONF / group).with_suffix("").as_posix() for file in files)


def option_file(group: str, name: str, kind: str) -> Path:
    """Return the file of an option of `group`; or `name` itself, if it is the path of a YAML file.

    Args:
        group: A folder of `conf/`.
        name: As typed.
        kind: What an option of the group is called in a message.

    Raises:
        UsageError: There is no such option.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = options(group)
    if name not in known:
        advice = did_you_mean(name, known) or f"; choose {', '.join(known)}, or name a YAML file: {group}=FILE.yaml"
        raise UsageError(f"{group}={name}: there is no such {kind}{advice}")
    return CONF / group / f"{name}.yaml"


def top_settings() -> dict[str, Any]:
    """Return the settings of `config.yaml` itself, such as `models_dir`, and their values."""
    content = _content(CONF / "config.yaml")
    return {key: content[key] for key in _keys(content)}


def settings() -> list[str]:
    """Return the dotted keys in the files, those of `config.yaml` first; without those in `experiment` only."""
    top = _content(CONF / "config.yaml")
    names = _keys(top)
    for group in [group for entry in top.get("defaults", []) if isinstance(entry, dict) for group in entry]:
        if group != "experiment":
            names += [f"{group}.{key}" for content in _contents(group) for key in _keys(content)]
    return list(dict.fromkeys(names))


def values_of(group: str, key: str) -> list[Any]:
    """Return the values of `key` in the options of `group`, as they are written."""
    return [content[key] for content in _contents(group) if key in content]


def _contents(group: str) -> list[dict[str, Any]]:
    return [_content(CONF / group / f"{option}.yaml") for option in options(group)]


def content_of(group: str, option: str) -> dict[str, Any]:
    """Return what the file of `option` of `group` contains; nothing if it cannot be read."""
    return _content(CONF / group / f"{option}.yaml")


def _keys(content: dict[str, Any]) -> list[str]:
    return [key for key in content if key not in _NO_SETTINGS]


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast where it is installed
        content = yaml.load(read_text(file), Loader=loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
