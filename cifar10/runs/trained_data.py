"""Load the data that a checkpoint was trained on, with the class ids of the checkpoint."""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from cifar10.config.advice import command_line
from cifar10.config.build import argument_names, build
from cifar10.config.changeable import refuse_other_settings
from cifar10.config.conf_folder import values_of
from cifar10.config.schema import Component, Config
from cifar10.config.targets import DATA
from cifar10.data.archives import without_fetching
from cifar10.data.class_names import ClassFolders, few
from cifar10.data.image_dataset import DataError, ImageDataset, MissingDataError, Split
from cifar10.errors import UserError
from cifar10.runs.checkpoints import Checkpoint


def load_trained_data(checkpoint: Checkpoint, component: Component, moved: str = "") -> ImageDataset:
    """Return the data of `component`, with the checkpoint's class names in the checkpoint's order.

    The pixels may differ from those of the checkpoint; the digests show that.

    If only the checkpoint names the folder of the data (neither `conf/` nor the user), nothing is created or downloaded
    there, because the checkpoint may come from a stranger. Existing files are read.

    Args:
        checkpoint: The checkpoint of a network that was trained on the data.
        component: The checkpoint's own `data_loading`, perhaps with another `root`.
        moved: The line to type if the data have moved.

    Raises:
        UserError: The data are unavailable, or have other classes or sizes than the checkpoint.
    """
    root, then = component.arguments.get("root"), checkpoint.config.data_loading.arguments.get("root")
    is_typed = root != then or component.arguments.get("sources") is not None
    is_foreign = isinstance(root, str) and not is_typed and root not in values_of("data_loading", "root")
    try:
        with without_fetching() if is_foreign else nullcontext():
            if is_foreign and not Path(str(root)).is_dir():
                raise MissingDataError(f"there is no folder {root}")  # it would be created
            data = _with_ids_of(checkpoint, component, build(DATA, component))
    except DataError as error:
        if root is None or root != then:
            raise
        in_full = "" if os.path.isabs(root) else f" ({os.path.abspath(root)})"
        origin = f"data_loading.root={root}{in_full} comes from the checkpoint {checkpoint.path}"
        raise type(error)(f"{error}\n{origin}{'; if the data have moved: ' if moved else ''}{moved}") from error
    if data.image_size != checkpoint.image_size:
        raise UserError(
            f"{checkpoint.path} takes images of {checkpoint.image_size} pixels, and its data now have "
            f"{data.image_size}; restore the data"
        )
    return data


def without_sources(component: Component) -> Component:
    """Return a checkpoint's `data_loading` without places that may be a stranger's.

    Nothing is fetched from its `sources`, and nothing is written into its `cache`, unless `conf/` names that folder.
    """
    arguments = dict(component.arguments)
    if arguments.get("sources") is not None:
        arguments["sources"] = None
    if arguments.get("cache") not in (None, *values_of("data_loading", "cache")):
        del arguments["cache"]
    return component.model_copy(update={"arguments": arguments})


def relocated(config: Config, overrides: Sequence[str]) -> Component:
    """Return the `data_loading` of a checkpoint's `config`, with `overrides` in the form of `train`.

    Raises:
        UsageError: An override cannot be read, or changes more than the location of the data.
    """
    from cifar10.config.compose import with_changes

    refuse_other_settings(override.lstrip("+~").partition("=")[0] for override in overrides)
    base = config.model_copy(update={"data_loading": without_sources(config.data_loading)})
    return with_changes(base, overrides).data_loading


def class_ids(today: Sequence[str], class_names: Sequence[str], whose: object) -> list[int]:
    """Return the id in `class_names` of each class of `today`.

    Names are matched like those of folders: in any Unicode form, case and spelling that `ClassFolders` accepts.

    Args:
        today: The classes of the data.
        class_names: The classes of the checkpoint, by id.
        whose: The owner of `class_names`, for the message.

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
            "restore the names of the folders, or train again"
        )
    return ids


def _with_ids_of(checkpoint: Checkpoint, component: Component, data: ImageDataset) -> ImageDataset:
    ids = class_ids(data.class_names, checkpoint.class_names, checkpoint.path)
    if data.class_names == checkpoint.class_names:
        return data
    if ids == sorted(ids):  # other spellings only
        return dataclasses.replace(data, class_names=checkpoint.class_names)
    if "classes" in argument_names(DATA.locate(component.target)):  # splits that are cut depend on the order
        ordered = {"_target_": component.target, **component.arguments, "classes": list(checkpoint.class_names)}
        data = build(DATA, Component.model_validate(ordered))
        assert data.class_names == checkpoint.class_names
        return data
    to_ids = torch.tensor(ids)
    train, validation, test = (Split(split.images, to_ids[split.labels]) for split in data.splits.values())
    return ImageDataset(data.name, checkpoint.class_names, train, validation, test)


def moved_line(command: str, checkpoint_name: str) -> str:
    """Return the line that runs `command` on a checkpoint whose data have moved."""
    return command_line(command, "data_loading.root=DIR", checkpoint_name=checkpoint_name)
