"""Commands that bring a network elsewhere: export its files, compare engines, promote it, send a run to MLflow."""

import sys
from collections.abc import Sequence

from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    refuse_file,
    require_checkpoint,
    require_images,
    require_options,
    require_pretrained,
)
from cifar10.config.changeable import refuse_other_settings
from cifar10.config.temperature import read_temperature
from cifar10.errors import UsageError
from cifar10.system.signals import if_stopped


def export(
    *overrides: str,
    checkpoint_name: str | None = None,
    formats: str = "onnx",
    output: str | None = None,
    register: str | None = None,
    photos: str | None = None,
    temperature: str | None = None,
) -> None:
    """Write the network of a checkpoint in other formats, each compared with it on the whole test split.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    --formats=A,B            files of conf/export/, or all that this network and CPU can have  (onnx)
    --output=DIR             the folder of the files  (export beside the checkpoint)
    --register=NAME[@ALIAS]  also log the model in MLflow, and register it: for mlflow models serve, and as
                             --checkpoint_name=models:/NAME@ALIAS
    --temperature=T          divide logits by this number, so that probabilities are calibrated: a number, or the
                             report.json that evaluate has written. With --output, since the files differ from the
                             checkpoint.
    data_loading.root=DIR    where the data are today, if they have moved; likewise data_loading.sources=[...]
    model=NAME_imagenet      instead of a checkpoint, a network of torchvision or timm, with its published weights
    --photos=DIR             with model=: images to compare on  (random pixels)

    python commands.py export --checkpoint_name=first --formats=onnx,safetensors
    python commands.py export --checkpoint_name=first --register=cats@champion
    python commands.py export model=resnet152_imagenet --output=exported
    """
    note_place()
    if output is not None:
        refuse_file(output)
    if any(override.startswith("model") for override in overrides):
        if register is not None:
            raise UsageError("--register: only checkpoints are registered; fine-tune the pretrained network first")
        if temperature is not None:
            raise UsageError("--temperature is for checkpoints; fine-tune the pretrained network first")
        _export_pretrained(overrides, checkpoint_name, formats, output, photos)
        return
    if photos is not None:
        raise UsageError("--photos is for pretrained networks; a checkpoint is compared on its test split")
    from cifar10.runs.registry import RegisteredName

    registered = RegisteredName.parse(register) if register else None
    chosen_temperature = None if temperature is None else read_temperature(temperature)
    if temperature is not None and output is None:
        raise UsageError("--temperature: the files would no longer be those of the checkpoint; add --output=DIR")
    checkpoint_name = checkpoint_name or "best"
    if require_checkpoint(checkpoint_name) is None and output is None and registered is None:
        raise UsageError("a checkpoint from MLflow has no folder here; name one for the files: --output=DIR")
    refuse_other_settings(override.partition("=")[0] for override in overrides)
    chosen = require_options("formats", "export", formats)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("while files were exported; those that were named are complete"):
        from cifar10.export import export

        export(
            checkpoint_name,
            chosen,
            output=output,
            overrides=overrides,
            registered=registered,
            leave_out_impossible=formats == "all",
            temperature=chosen_temperature,
        )


def _export_pretrained(
    overrides: Sequence[str], checkpoint_name: str | None, formats: str, output: str | None, photos: str | None
) -> None:
    others = [word for word in overrides if not word.lstrip("+~").startswith(("model=", "model."))]
    if others:
        raise UsageError(f"{' '.join(others)}: beside model= only model.KEY=VALUE can be set")
    component = require_pretrained(overrides, checkpoint_name)
    assert component is not None
    if output is None:
        raise UsageError("a pretrained network has no folder of its own; name one for the files: --output=DIR")
    chosen = require_options("formats", "export", formats)
    fit = [name for name in chosen if "int8" not in name]
    if len(fit) < len(chosen):
        if formats != "all":
            raise UsageError(f"--formats={formats}: 8-bit integers need training images; leave them out")
        print("8-bit integers are left out: they need training images", file=sys.stderr)
    images = None if photos is None else require_images(photos, "--photos")
    with if_stopped("while files were exported; those that were named are complete"):
        from cifar10.export import export_pretrained

        export_pretrained(component, fit, output, images)


def benchmark(*overrides: str, checkpoint_name: str = "best", engines: str = "all", output: str | None = None) -> None:
    """Compare the inference engines on this machine: speed, size, accuracy, and answers that differ.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    --engines=A,B            files of conf/engine/, or all  (all)
    --output=DIR             the folder of the table and the picture  (benchmark beside the checkpoint)
    data_loading.root=DIR    where the data are today, if they have moved; likewise data_loading.sources=[...]

    All images of the test split are computed by each engine. --engine=auto uses what was measured.

    python commands.py benchmark --checkpoint_name=first
    """
    note_place()
    if output is not None:
        refuse_file(output)
    if require_checkpoint(checkpoint_name) is None and output is None:
        raise UsageError("a checkpoint from MLflow has no folder here; name one for the table: --output=DIR")
    refuse_other_settings(override.partition("=")[0] for override in overrides)
    chosen = require_options("engines", "engine", engines)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("while engines were measured; nothing was written"):
        from cifar10.benchmark import benchmark

        benchmark(checkpoint_name, chosen, output=output, overrides=overrides)


def promote(
    *overrides: str,
    checkpoint_name: str = "best",
    alias: str = "champion",
    name: str | None = None,
    dry_run: bool = False,
) -> None:
    """Register a checkpoint in MLflow, and give it an alias if it is as good as the network that has the alias now.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    --alias=ALIAS            that moves  (champion)
    --name=NAME              the registered model  (the name of the data set)
    --dry_run                measure and print; register nothing
    promotion.KEY=VALUE      limits: latency_factor, latency_images, floor; promotion=NAME is a file of conf/promotion/
    data_loading.root=DIR    where the data are today, if they have moved; likewise data_loading.sources=[...]

    The alias moves if the exported ONNX file computes what the checkpoint computes on the whole test split, if the
    accuracy is above the floor and not worse beyond chance than that of the alias on the same images, and if one image
    does not take longer. Otherwise the reason is printed and the exit code is 1. Export and evaluation are made if they
    are missing; the model card is written to MODEL_CARD.md beside the checkpoint.

    python commands.py promote --checkpoint_name=first
    python commands.py promote --checkpoint_name=first --name=cats --alias=staging promotion.latency_factor=2
    """
    note_place()
    require_checkpoint(checkpoint_name)
    from cifar10.config.promotion import is_of_promotion, read_promotion
    from cifar10.runs.registry import require_alias, require_name, require_registry

    own = [override for override in overrides if is_of_promotion(override)]
    others = [override for override in overrides if override not in own]
    refuse_other_settings(override.partition("=")[0] for override in others)
    settings = read_promotion(own)
    require_alias(alias, f"--alias={alias}")
    if name is not None:
        require_name(name, f"--name={name}")
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("before the alias moved"):
        if not dry_run:
            require_registry("promote")
        from cifar10.promote import promote

        promote(checkpoint_name, alias, name, settings, others, dry_run)


def sync(name: str | None = None, *, models_dir: str = "models", tracking_uri: str | None = None) -> None:
    """Send to MLflow what is missing there: for runs that were not tracked, or while the server was unavailable.

    --name=NAME           the run's name in models/, or the path of its folder; all runs if not given
    --models_dir=DIR      folder of the run folders  (models)
    --tracking_uri=URI    MLflow's store, sqlite:///FILE or http://HOST:PORT  (the run's own)

    Existing records are not changed, so it is safe to repeat this command.

    python commands.py sync first
    """
    from cifar10.sync import sync

    sync(name, models_dir=models_dir, tracking_uri=tracking_uri)
