"""Commands that answer: classify images, find similar ones, and check answers again."""

from pathlib import Path
from typing import Literal

from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    require_batch_destination,
    require_batch_images,
    require_checkpoint,
    require_device,
    require_file,
    require_grouping,
    require_images,
    require_photo,
    require_pretrained,
    require_ray,
)
from cifar10.config.changeable import require_network_settings
from cifar10.errors import UsageError
from cifar10.inference.destination import choose_destination
from cifar10.inference.request import InferenceRequest
from cifar10.system.signals import if_stopped


def infer(
    *overrides: str,
    test_dir: str,
    checkpoint_name: str | None = None,
    output: str | None = None,
    format: Literal["table", "csv", "jsonl", "parquet"] | None = None,
    top_k: int = 1,
    batch_size: int | None = None,
    tta: Literal["none", "mirror", "mirror_translate", "mirror_translate_selective"] | None = None,
    device: str = "auto",
    engine: str | None = None,
    full_jpeg: bool = False,
    resume: bool = False,
    receipts: bool = False,
) -> int:
    """Classify the images of a folder, with a checkpoint or a pretrained network.

    --test_dir=DIR           a folder with all its sub-folders, an image file, a glob in quotes, a zip or tar archive, a
                             text file of paths, - for such a list on standard input, or the http(s) address of an image
                             or a list. If the sub-folders are named after classes, accuracy is reported too.
    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    --output=FILE            file for the results  (stdout)
    --format=FORMAT          table, csv, jsonl or parquet  (by the suffix of FILE, else table)
    --top_k=N                number of classes to list for each image  (1)
    --batch_size=N           images per forward pass  (the checkpoint's)
    --tta=VIEWS              test-time augmentation: none, mirror or mirror_translate average over 1, 2 or 6 views;
                             mirror_translate_selective over 6 if the confidence is low  (the checkpoint's)
    --device=DEVICE          auto, cpu, cuda or cuda:N  (auto)
    --engine=NAME            what computes: a file of conf/engine/  (onnx for an ONNX file, else torch)
    --full_jpeg              decode photos at full size; by default JPEG is decoded at a size near the network's
    --resume                 continue an interrupted run with --output=FILE
    --receipts               add columns to csv, jsonl and parquet: SHA-256 of the image, digest of the weights, engine,
                             settings and program version, for: python commands.py verify FILE
    model=NAME_imagenet      instead of a checkpoint, a network of torchvision or timm, with its published weights;
                             model.weights=FILE takes them from a file
    grouping=NAME            also sum the probabilities of groups of classes: a file of conf/grouping/, or FILE.yaml

    A file that cannot be read gets a row with the reason; the exit code is then 3.

    python commands.py infer --test_dir=photos
    python commands.py infer --test_dir='photos/*.png' --top_k=3 --output=answers.csv
    python commands.py infer model=resnet152_imagenet grouping=cats_vs_dogs --test_dir=photos
    find photos -newer answers.csv -name '*.jpg' | python commands.py infer --test_dir=-
    """
    note_place()
    images = require_images(test_dir)
    require_network_settings(overrides)
    grouping, pretrained = require_grouping(overrides), require_pretrained(overrides, checkpoint_name)
    name = checkpoint_name or "best"
    network = pretrained or require_checkpoint(name) or name
    require_device(device)
    inputs = [test_dir, checkpoint_name, *(override.partition("=")[2] for override in overrides)]
    destination = choose_destination(output, format, inputs)
    request = InferenceRequest(
        images, network, destination, device, top_k, batch_size, tta, engine, resume, full_jpeg, receipts, grouping
    )
    if pretrained is None:
        pin_checkpoint(name)
    from cifar10.infer import infer

    return 3 if infer(request).num_failed else 0


def batch(
    test_dir: str,
    output: str,
    *,
    checkpoint_name: str = "best",
    format: Literal["parquet", "csv", "jsonl"] | None = None,
    address: str | None = None,
    workers: int | None = None,
    top_k: int = 1,
    batch_size: int | None = None,
    tta: Literal["none", "mirror", "mirror_translate", "mirror_translate_selective"] | None = None,
    device: str = "auto",
    engine: str | None = None,
    receipts: bool = False,
) -> int:
    """Classify the images of a folder or of Parquet files with Ray Data, here or on a cluster.

    --test_dir=DIR           images as for infer; or a Parquet file, or a folder of them, with a column bytes of encoded
                             images, a column path, or both
    --output=PATH            a file for the rows, or a new folder for several files of up to 100,000 rows
    --format=FORMAT          parquet, csv or jsonl  (by the suffix of PATH; parquet for a folder)
    --address=ADDRESS        a Ray cluster: ray://HOST:10001, HOST:6379, or auto  (Ray is started on this machine)
    --workers=N              processes that compute  (one for each machine, or for each GPU)
    --checkpoint_name=NAME, --top_k=N, --batch_size=N, --tta=VIEWS, --device=DEVICE, --engine=NAME,
    --receipts: as for infer

    The rows are those of infer, in the same order. A file that cannot be read gets a row with the reason; the exit code
    is then 3. On a cluster, images are read by the machines of the cluster, from the same paths.

    python commands.py batch --test_dir=photos --output=answers.parquet
    python commands.py batch --test_dir=shards --output=answers --address=ray://head:10001
    """
    note_place()
    images = require_batch_images(test_dir)
    checkpoint = require_checkpoint(checkpoint_name)
    require_device(device)
    destination = require_batch_destination(output, format, test_dir)
    require_ray(address)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    from cifar10.batch import BatchRequest, batch

    network = checkpoint or checkpoint_name
    request = BatchRequest(
        images, network, destination, address, workers, device, top_k, batch_size, tta, engine, receipts
    )
    return 3 if batch(request) else 0


def similar(
    *overrides: str,
    photo: str,
    test_dir: str,
    checkpoint_name: str | None = None,
    top_k: int = 10,
    output: str | None = None,
    format: Literal["table", "csv", "jsonl"] | None = None,
    device: str = "auto",
) -> int:
    """Find the images of a folder that are most similar to a photo.

    --photo=FILE             an image
    --test_dir=DIR           where to look: a folder with all its sub-folders, or anything else that infer reads
    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    model=NAME_imagenet      a pretrained network instead of a checkpoint; model.KEY=VALUE sets a value of it
    --top_k=N                number of images to list  (10)
    --output=FILE            file for the results  (stdout)
    --format=FORMAT          table, csv or jsonl  (by the suffix of FILE, else table)
    --device=DEVICE          auto, cpu, cuda or cuda:N  (auto)

    Similarity is the cosine of the angle between two embeddings, which are the input of the network's last layer: 1 for
    copies. Embeddings are kept in data/cache.

    python commands.py similar photo.jpg --test_dir=photos model=resnet18_imagenet
    """
    note_place()
    require_photo(photo)
    images = require_images(test_dir)
    require_device(device)
    destination = choose_destination(output, format, [photo, test_dir, checkpoint_name])
    if destination.format == "parquet":
        raise UsageError("similar writes table, csv or jsonl; name another file or --format")
    if top_k < 1:
        raise UsageError(f"--top_k={top_k} is not possible; it must be 1 or more")
    if others := [override for override in overrides if not override.startswith(("model=", "model."))]:
        raise UsageError(f"{' '.join(others)}: similar takes no settings but model=NAME_imagenet and model.KEY=VALUE")
    pretrained, checkpoint = require_pretrained(overrides, checkpoint_name), None
    if pretrained is None:
        checkpoint_name = checkpoint_name or "best"
        checkpoint = require_checkpoint(checkpoint_name) or checkpoint_name
        pin_checkpoint(checkpoint_name)
    with if_stopped("while images were compared; embeddings so far are kept"):
        from cifar10.similar import similar

        return 3 if similar(photo, images, destination, checkpoint, pretrained, top_k, device) else 0


def verify(file: str, *, checkpoint_name: str | None = None, test_dir: str | None = None, sample: int = 200) -> int:
    """Compute a random sample of predictions again, and compare them with a file that infer --receipts has written.

    --file=FILE              csv, jsonl or parquet
    --checkpoint_name=NAME   the checkpoint  (the one in the receipts, else one in models/ with the same weights)
    --test_dir=DIR           the folder of the images, if they have moved  (the one in the receipts)
    --sample=N               number of rows; all if there are fewer  (200)

    Counts rows whose image is missing or changed, whose model is missing or changed, or whose class or probability
    changed. The exit code is 0 if all rows hold, else 1.

    python commands.py infer --test_dir=photos --receipts --output=answers.csv
    python commands.py verify answers.csv
    """
    require_file(file)
    if test_dir is not None:
        require_images(test_dir)
    if checkpoint_name is not None:
        require_checkpoint(checkpoint_name)
    with if_stopped("while predictions were compared"):
        from cifar10.verify import verify

        return 0 if verify(Path(file), checkpoint_name, test_dir, sample) else 1
