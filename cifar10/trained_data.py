"""The data that a checkpoint was trained on, wherever they lie today, labelled by the checkpoint's own class ids."""

import dataclasses
import os
import shlex
from collections.abc import Sequence

import torch

from cifar10.build import argument_names, build, locate
from cifar10.checkpoints import Checkpoint
from cifar10.checks import refuse_other_settings
from cifar10.config import Component
from cifar10.data.contract import DataError, DataSet, Split
from cifar10.errors import Misuse, UserError
from cifar10.labels import ClassFolders, few


def load_trained_data(checkpoint: Checkpoint, overrides: Sequence[str] = (), moved: str = "") -> DataSet:
    """Return the data that `checkpoint` says, with its class names in its order.

    Whether they are the same data as then, the digests tell.

    Args:
        overrides: KEY=VALUE, as `refuse_other_settings` lets them pass.
        moved: The line to type if they have moved.

    Raises:
        Misuse: An override cannot be meant.
        UserError: The data cannot be had, or have other classes or sizes than the checkpoint.
    """
    component = relocated(checkpoint.config.data_loading, overrides)
    try:
        data = _with_ids_of(checkpoint, component, build(component))
    except DataError as error:
        if overrides or "root" not in component.arguments:
            raise
        root = str(component.arguments["root"])
        in_full = "" if os.path.isabs(root) else f" ({os.path.abspath(root)})"
        told = f"data_loading.root={root}{in_full} comes from the checkpoint {checkpoint.path}"
        raise DataError(f"{error}\n{told}{'; if the data have moved: ' if moved else ''}{moved}") from error
    if data.image_size != checkpoint.image_size:
        raise UserError(
            f"{checkpoint.path} takes images of {checkpoint.image_size} pixels, and those of its data have "
            f"{data.image_size} today; bring the data back"
        )
    return data


def relocated(component: Component, overrides: Sequence[str]) -> Component:
    """Return `component`, the configuration of data, with what `overrides` say in the words that follow `train`.

    Raises:
        Misuse: An override cannot be read, or changes more than where the data lie.
    """
    if not overrides:
        return component
    from cifar10.overrides import parse_overrides

    parsed, problems = parse_overrides(overrides)
    if problems:
        raise Misuse("\n".join(map(str, problems)))
    changed = {override.key_or_group: override.value() for override in parsed}
    refuse_other_settings(list(changed))
    values = {key.removeprefix("data_loading."): value for key, value in changed.items()}
    return Component.model_validate({"_target_": component.target, **component.arguments, **values})


def class_ids(today: Sequence[str], class_names: Sequence[str], whose: object) -> list[int]:
    """Return the id in `class_names` of each class of `today`.

    Names are matched as those of folders are: in any Unicode form, case and spelling that `ClassFolders` knows.

    Args:
        whose: What has `class_names`, for the message.

    Raises:
        UserError: They are not the same classes; missing and added ones are named.
    """
    known = ClassFolders(class_names)
    found = [known.find(name) for name in today]
    ids = list(dict.fromkeys(class_id for class_id in found if class_id is not None))
    added = [name for name, class_id in zip(today, found, strict=True) if class_id is None]
    there = set(ids)
    missing = [name for class_id, name in enumerate(class_names) if class_id not in there]
    if added or missing or len(ids) < len(today):
        differences = [f"{few(missing)} missing" if missing else "", f"{few(added)} added" if added else ""]
        raise UserError(
            f"the data have other classes than {whose}: {' and '.join(filter(None, differences)) or 'one twice'}; "
            "give the folders their names back, or train anew"
        )
    return ids


def _with_ids_of(checkpoint: Checkpoint, component: Component, data: DataSet) -> DataSet:
    ids = class_ids(data.class_names, checkpoint.class_names, checkpoint.path)
    if data.class_names == checkpoint.class_names:
        return data
    if ids == sorted(ids):  # other spellings only
        return dataclasses.replace(data, class_names=checkpoint.class_names)
    if "classes" in argument_names(locate(component.target)):  # splits that are cut depend on the order
        ordered = {"_target_": component.target, **component.arguments, "classes": list(checkpoint.class_names)}
        data = build(Component.model_validate(ordered))
        assert data.class_names == checkpoint.class_names
        return data
    to_ids = torch.tensor(ids)
    train, validation, test = (Split(split.images, to_ids[split.labels]) for split in data.splits.values())
    return DataSet(data.name, checkpoint.class_names, train, validation, test)


def moved_line(command: str, checkpoint_name: str) -> str:
    """Return the line that runs `command` on a checkpoint whose data have moved."""
    return f"python commands.py {command} {shlex.quote(checkpoint_name)} data_loading.root=DIR"
