"""Overrides that a command takes: of a checkpoint, to resume its run or evaluate it; of an experiment of its own."""

from collections.abc import Iterable, Sequence

from cifar10.errors import UsageError

RESUMABLE = (
    *("models_dir", "training.epochs", "data_loading.root", "data_loading.sources", "data_loading.cache", "tracking"),
    *("training.accelerator", "training.devices", "training.num_nodes"),
)
"""Settings, and sections of them, that may change when a run is resumed: its length, hardware and locations."""
DATA_LOCATION = ("data_loading.root", "data_loading.sources", "data_loading.cache")
NETWORK_SETTINGS = ("model", "grouping")
"""Settings, and sections of them, that `infer` takes."""


def is_resumable(key: str) -> bool:
    """Return whether the setting `key` may change when a run is resumed."""
    return any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)


def is_place(key: str) -> bool:
    """Return whether the setting `key` says where data, runs and records are, and nothing about the training."""
    places = (*DATA_LOCATION, "models_dir", "run_name", "tracking")
    return any(key == name or key.startswith(f"{name}.") for name in places)


def placement_settings(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of locations, which do not change the checkpoint's configuration."""
    return [override for override in overrides if override.lstrip("+~").startswith(("models_dir=", "tracking"))]


def require_network_settings(overrides: Sequence[str]) -> None:
    """Raise UsageError if `overrides` contain a setting that `infer` does not take."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    others = [key for key in keys if key.partition(".")[0] not in NETWORK_SETTINGS]
    if others:
        raise UsageError(
            f"{', '.join(others)}: infer takes no settings but model=NAME_imagenet, model.KEY=VALUE and grouping=NAME; "
            "the others come from the checkpoint"
        )


def refuse_other_settings(keys: Iterable[str]) -> None:
    """Raise UsageError if `keys`, dotted, contain a setting other than the location of a checkpoint's data."""
    others = [key for key in keys if key not in DATA_LOCATION]
    if others:
        raise UsageError(
            f"{', '.join(others)}: the configuration of a checkpoint cannot be changed; "
            f"only {', '.join(DATA_LOCATION[:-1])} and {DATA_LOCATION[-1]} may be set"
        )


def with_experiment(name: str, overrides: Sequence[str]) -> list[str]:
    """Return `overrides` with `experiment=NAME` in front, unless they choose an experiment themselves."""
    is_chosen = any(override.lstrip("+").startswith("experiment=") for override in overrides)
    return [*([] if is_chosen else [f"experiment={name}"]), *overrides]
