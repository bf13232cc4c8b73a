"""Which settings of a checkpoint may be changed: to resume its run, and to evaluate it."""

from collections.abc import Iterable, Sequence

from cifar10.errors import UsageError

RESUMABLE = (
    *("models_dir", "training.epochs", "data_loading.root", "data_loading.sources", "data_loading.cache", "tracking"),
    *("training.accelerator", "training.devices", "training.num_nodes"),
)
"""Settings, and sections of them, that may change when a run is resumed: its length, hardware and locations."""
DATA_LOCATION = ("data_loading.root", "data_loading.sources", "data_loading.cache")


def is_resumable(key: str) -> bool:
    """Return whether the setting `key` may change when a run is resumed."""
    return any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)


def placement_settings(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of locations, which do not change the checkpoint's configuration."""
    return [override for override in overrides if override.lstrip("+~").startswith(("models_dir=", "tracking"))]


def refuse_all_but_model(overrides: Sequence[str], checkpoint_name: str | None) -> None:
    """Raise UsageError if `overrides` set more than `model`, or if a checkpoint is named as well."""
    others = [o for o in overrides if o.partition("=")[0] != "model" and not o.startswith("model.")]
    if others:
        raise UsageError(f"{' '.join(others)}: only model=NAME_imagenet and model.KEY=VALUE may be set here")
    if checkpoint_name is not None:
        raise UsageError(f"{overrides[0]} and --checkpoint_name={checkpoint_name} both name a network; choose one")


def refuse_other_settings(keys: Iterable[str]) -> None:
    """Raise UsageError if `keys`, dotted, contain a setting other than the location of a checkpoint's data."""
    others = [key for key in keys if key not in DATA_LOCATION]
    if others:
        raise UsageError(
            f"{', '.join(others)}: the configuration of a checkpoint cannot be changed; "
            f"only {', '.join(DATA_LOCATION[:-1])} and {DATA_LOCATION[-1]} may be set"
        )
