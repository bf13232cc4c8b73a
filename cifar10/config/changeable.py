"""Which settings of a checkpoint may be changed: to resume its run, and to evaluate it."""

from collections.abc import Iterable, Sequence

from cifar10.errors import UsageError

RESUMABLE = (
    *("models_dir", "training.epochs", "data_loading.root", "data_loading.sources", "tracking"),
    *("training.accelerator", "training.devices", "training.num_nodes"),
)
"""Settings, and sections of them, that may change when a run goes on: its length, and where things are."""
DATA_LOCATION = ("data_loading.root", "data_loading.sources")


def is_resumable(key: str) -> bool:
    """Whether the setting `key` may change when a run is resumed."""
    return any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)


def placement_settings(overrides: Sequence[str]) -> list[str]:
    """Return those of RESUMABLE settings that say where things are now, rather than change the checkpoint's."""
    return [override for override in overrides if override.lstrip("+~").startswith(("models_dir=", "tracking"))]


def refuse_other_settings(keys: Iterable[str]) -> None:
    """Refuse to change anything about a checkpoint but where its data lie; what they are, it says itself.

    Args:
        keys: Dotted keys of the settings to change.
    """
    others = [key for key in keys if key not in DATA_LOCATION]
    if others:
        raise UsageError(
            f"{', '.join(others)}: a checkpoint carries its own configuration; "
            f"only {' and '.join(DATA_LOCATION)} may be set"
        )
