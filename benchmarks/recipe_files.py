"""Recipes of conf/ read with PyYAML alone, for machines without Hydra: groups, an experiment over them, overrides.

Knows as much of Hydra's composition as our own files use, and a test holds it to what Hydra makes of them.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[1] / "conf"
_NOT_NEEDED = ("tracking", "experiment", "_self_")

Values = dict[str, Any]


def load_recipe(experiment: str | None = None, overrides: Sequence[str] = ()) -> Values:
    """Return the configuration of `experiment` with `overrides` (KEY.KEY=VALUE), without what tracks a run."""
    base, choices = _read(CONF / "config.yaml")
    overlay: Values = {}
    if experiment is not None:
        overlay, chosen = _read(CONF / "experiment" / f"{experiment}.yaml")
        choices |= {group.removeprefix("override /"): name for group, name in chosen.items()}
    values: Values = {
        group: _load_group(group, name) if name else {} for group, name in choices.items() if group not in _NOT_NEEDED
    }
    values = _merged(_merged(values, base), overlay)
    for override in overrides:
        key, _, value = override.partition("=")
        values = _merged(values, _nested(key.split("."), yaml.safe_load(value)))
    return {key: value for key, value in values.items() if key != "hydra"}


def make(component: Values, **provided: Any) -> Any:
    """Return the target of `component` called with its arguments, and with what it takes of `provided`."""
    module, _, name = component["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    arguments = {key: value for key, value in component.items() if key != "_target_"}
    taken = {key: value for key, value in provided.items() if key in inspect.signature(target).parameters}
    return target(**arguments, **taken)


def _read(path: Path) -> tuple[Values, dict[str, Any]]:
    """Return the values of a file, and what its list of defaults chooses: {group: name}."""
    values: Values = yaml.safe_load(path.read_text()) or {}
    choices: dict[str, Any] = {}
    for entry in values.pop("defaults", []):
        choices |= entry if isinstance(entry, dict) else {entry: None}
    return values, choices


def _load_group(group: str, name: str) -> Values:
    """Return the values of a file of `group`, laid over those of the files beside it that it is based on."""
    own, bases = _read(CONF / group / f"{name}.yaml")
    values: Values = {}
    for base in bases:
        values = _merged(values, _load_group(group, base))
    return _merged(values, own)


def _merged(below: Values, above: Values) -> Values:
    both = dict(below)
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = _merged(both[key], value) if inner else value
    return both


def _nested(keys: list[str], value: Any) -> Values:
    return {keys[0]: _nested(keys[1:], value) if len(keys) > 1 else value}
