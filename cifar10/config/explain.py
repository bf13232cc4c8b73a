"""The composed configuration as YAML, with the origin of each value as a comment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from cifar10.config.compose import Composition, compose_config, validate_config
from cifar10.config.conf_folder import CONF
from cifar10.config.overrides import is_choice
from cifar10.config.schema import Config, flatten
from cifar10.config.yaml_lines import one_line

_WIDEST_VALUE = 60  # columns; a longer line has its comment right behind it


def explain(overrides: Sequence[str] = ()) -> str:
    """Return the configuration that `overrides` make, as YAML that reads back to `Config.plain()`.

    Behind each value stands `# command line`, the file that set it, or `# default of` the function whose signature did.

    Raises:
        ConfigError: see `load_config`.
    """
    composition = compose_config(overrides)
    config = validate_config(composition)
    sources = _sources(composition)
    lines = [(text, _source(path, sources, config)) for path, text in _lines(config.plain())]
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


def _source(path: str, sources: Mapping[str, str], config: Config) -> str:
    section, _, name = path.partition(".")
    outer = path
    while outer and outer not in sources:  # whoever set a dict set what is in it
        outer = outer.rpartition(".")[0]
    if outer or not path:
        return sources[outer] if path else ""
    if path == "metric":  # none is chosen
        return ""
    component = config.metric[name.partition(".")[0]] if section == "metric" else getattr(config, section)
    return f"default of {component.target}"


def _sources(composition: Composition) -> dict[str, str]:
    """Return who set each value last, by its dotted path."""
    sources: dict[str, str] = {}
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
