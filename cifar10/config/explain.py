"""The composed configuration as YAML, with the origin of each value as a comment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from cifar10.config.compose import Composition, compose_config, validate_config
from cifar10.config.conf_folder import CONF
from cifar10.config.overrides import is_choice
from cifar10.config.schema import Config, flatten
from cifar10.config.targets import ROLES
from cifar10.config.yaml_lines import one_line

_WIDEST_VALUE = 60  # columns; the comment of a longer line is not aligned


def explain(overrides: Sequence[str] = ()) -> str:
    """Return the configuration of `conf/` and `overrides`, as YAML that reads back to `Config.plain()`.

    The comment after each value is `command line`, the file that set it, or `default of` a function or class. Errors
    are those of `load_config`.
    """
    composition = compose_config(overrides)
    config = validate_config(composition)
    sources = _sources(composition, config)
    lines = [(text, _source(path, sources)) for path, text in _lines(config.plain())]
    width = max(len(text) for text, source in lines if source and len(text) <= _WIDEST_VALUE)
    return "\n".join(f"{text:<{width}}  # {source}" if source else text for text, source in lines) + "\n"


def _lines(values: Mapping[str, Any], outside: str = "", indent: str = "") -> Iterator[tuple[str, str]]:
    """Yield one line of YAML for each key, with its dotted path; it is empty for a line that only opens a section."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield "", f"{indent}{one_line(key)}:"
            yield from _lines(value, f"{outside}{key}.", f"{indent}  ")
        else:
            yield f"{outside}{key}", f"{indent}{one_line(key)}: {one_line(value)}"


def _source(path: str, sources: Mapping[str, str]) -> str:
    """Return the origin of the value at `path`, or of the innermost dict around it that has one."""
    while path and path not in sources:
        path = path.rpartition(".")[0]
    return sources.get(path, "")


def _sources(composition: Composition, config: Config) -> dict[str, str]:
    """Return the origin of each value by its dotted path; for defaults of a signature, by that of the component."""
    components = {name: getattr(config, name) for name in ROLES}
    components |= {f"metric.{name}": metric for name, metric in config.metric.items()}
    sources = {path: f"default of {component.target}" for path, component in components.items()}
    for layer in composition.layers():
        if layer.config_path is not None and not layer.config_path.startswith("hydra/"):
            file = f"{layer.config_path}.yaml"
            content = yaml.safe_load((CONF / file).read_text(encoding="utf-8")) or {}
            inside = f"{layer.package}." if layer.package else ""
            sources |= dict.fromkeys(flatten(content, inside), f"conf/{file}")
    for override in composition.overrides:
        key = override.key_or_group
        if override.is_delete():
            sources = {path: source for path, source in sources.items() if not f"{path}.".startswith(f"{key}.")}
        elif not is_choice(override):
            sources |= dict.fromkeys(flatten({key: override.value()}), "command line")
    return sources
