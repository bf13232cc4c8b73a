"""The composed configuration as YAML, with a comment behind each value that says where it came from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from hydra.core.default_element import ResultDefault

from cifar10.config.compose import Composition, compose_config, validate_config
from cifar10.config.conf_folder import CONF
from cifar10.config.overrides import is_choice
from cifar10.config.schema import Config
from cifar10.config.yaml_lines import one_line

Path = tuple[str, ...]
"""Keys from the outside inwards."""

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


def _lines(values: Mapping[str, Any], outside: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield one line of YAML for each key, with its path; the path is empty for a line that only opens a section."""
    for key, value in values.items():
        indent = "  " * len(outside)
        if isinstance(value, dict) and value:
            yield (), f"{indent}{one_line(key)}:"
            yield from _lines(value, (*outside, key))
        else:
            yield (*outside, key), f"{indent}{one_line(key)}: {one_line(value)}"


def _source(path: Path, sources: Mapping[Path, str], config: Config) -> str:
    if not path:
        return ""
    for length in range(len(path), 0, -1):  # whoever set a dict set what is in it
        if path[:length] in sources:
            return sources[path[:length]]
    return f"default of {getattr(config, path[0]).target}"


def _sources(composition: Composition) -> dict[Path, str]:
    """Return who set each value last, by its path."""
    sources: dict[Path, str] = {}
    for layer in composition.layers():
        if layer.config_path is not None and not layer.config_path.startswith("hydra/"):
            sources.update(_set_by_file(layer))
    for override in composition.overrides:
        path = tuple(override.key_or_group.split("."))
        if override.is_delete():
            sources = {key: source for key, source in sources.items() if key[: len(path)] != path}
        elif not is_choice(override):
            sources.update(_leaves(override.value(), path, "command line"))
    return sources


def _set_by_file(layer: ResultDefault) -> dict[Path, str]:
    file = f"{layer.config_path}.yaml"
    content = yaml.safe_load((CONF / file).read_text(encoding="utf-8")) or {}
    package = tuple(part for part in (layer.package or "").split(".") if part)
    return dict(_leaves(content, package, f"conf/{file}"))


def _leaves(value: Any, path: Path, source: str) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)), source)
    else:
        yield path, source
