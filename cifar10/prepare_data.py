"""Entry point of `data`: configuration -> data, downloaded and verified -> description, and PNG files on request."""

from pathlib import Path

import torch
from torch import Tensor

from cifar10.config.build import build
from cifar10.config.schema import Component, Config
from cifar10.config.targets import DATA
from cifar10.config.yaml_lines import one_line, one_line_each
from cifar10.data.export import export_images as export
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.stored_images import sample_of
from cifar10.errors import UsageError
from cifar10.networks.normalize import channel_statistics


def prepare_data(config: Config, export_images: bool = False) -> None:
    """Download and verify the data, and print a description as YAML.

    Args:
        config: Only `data_loading` is used.
        export_images: Also write PNG files, see `export.export_images`, into the root of the data; of generated data,
            which have none, into data/NAME.

    Raises:
        UsageError: `export_images` is true, but the data set already consists of image files.
        UserError: The data are unavailable, or the images cannot be written.
    """
    if export_images and config.data_loading.target == "cifar10.data.folder.folder":
        raise UsageError("--export_images: data_loading=folder reads image files, so there is nothing to export")
    data: ImageDataset = build(DATA, config.data_loading)
    print(describe(data), flush=True)
    if export_images:
        root = Path(config.data_loading.arguments.get("root", f"data/{data.name}"))
        if config.data_loading.target.startswith("cifar10.data.cifar."):  # the published splits, in their order
            unsplit = config.data_loading.model_dump() | {"validation_size": 0}
            data = build(DATA, Component.model_validate(unsplit))
        export(data, root)


def describe(data: ImageDataset) -> str:
    """Return name, sizes, statistics, digest and counts of `data` as YAML."""
    mean, deviation = (levels / 255 for levels in channel_statistics(sample_of(data.train.images)))
    measured = "all" if isinstance(data.train.images, Tensor) else "a sample of the"
    counts = torch.stack([torch.bincount(split.labels, minlength=data.num_classes) for split in data.splits.values()])
    sizes = ", ".join(f"{name}: {len(split)}" for name, split in data.splits.items())
    names = one_line_each(data.class_names)
    width = max(map(len, names)) + 1
    return "\n".join(
        [
            f"name: {one_line(data.name)}",
            f"classes: {data.num_classes}",
            f"image_size: {data.image_size}  # pixels, height and width",
            f"images: {{{sizes}}}",
            f"mean: {_row(mean)}  # red, green and blue over {measured} training pixels, scaled to [0, 1]",
            f"std: {_row(deviation)}",
            f"sha256: {data.digest}  # of class names, pixels and labels",
            "images_per_class:  # train, validation, test",
            *(
                f"  {name + ':':{width}} [{', '.join(f'{count:5}' for count in row)}]"
                for name, row in zip(names, counts.T.tolist(), strict=True)
            ),
        ]
    )


def _row(values: Tensor) -> str:
    return f"[{', '.join(f'{value:.4f}' for value in values.tolist())}]"
