"""Train an image classifier, evaluate it, and classify images with it.

Each function is a command, its parameters are the flags and its docstring is the help; the code is in cifar10/. Heavy
packages are imported in the command that needs them, so that help and error messages appear at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cifar10 import STARTED_AT
from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    refuse_file,
    require_batch_destination,
    require_batch_images,
    require_begun,
    require_checkpoint,
    require_device,
    require_file,
    require_folder,
    require_grouping,
    require_images,
    require_options,
    require_photo,
    require_place,
    require_pretrained,
    require_ray,
    require_reproducible,
    require_resumable,
    require_runs,
)
from cifar10.cli.command_line import main
from cifar10.config.changeable import (
    placement_settings,
    refuse_other_settings,
    require_network_settings,
    with_experiment,
)
from cifar10.config.corruption_kinds import chosen_kinds
from cifar10.config.temperature import read_temperature
from cifar10.errors import UsageError
from cifar10.inference.destination import choose_destination
from cifar10.inference.engines import require_engine
from cifar10.inference.request import InferenceRequest
from cifar10.system.signals import if_stopped


def train(*overrides: str, resume: str | None = None) -> None:
    """Train a network, test it once, and save it with its configuration, scores and provenance.

    KEY=VALUE         change the configuration: choose a file of conf/ by its group, or set a value by its dotted key.
                      To list all of them: python commands.py config
    --resume=NAME     resume an interrupted run, with the result of an uninterrupted one: its name in models/, the path
                      of a checkpoint, or last. Settings come from the checkpoint. With auto and run_name=NAME, resume
                      the run of that name if there is one, else start it.

    python commands.py train
    python commands.py train model=resnet18 training=long optimizer=sgd
    python commands.py train data_loading=shapes training.epochs=2
    python commands.py train experiment=probe data_loading.root=photos
    """
    note_place()
    if resume is not None:
        require_resumable(resume, overrides)
    from cifar10.config.compose import load_config
    from cifar10.runs.folder import refuse_taken

    changes = overrides if resume not in (None, "auto") else ()
    config = load_config(placement_settings(changes) if changes else overrides)  # before slow imports
    if config.pooling is not None:
        raise UsageError("experiment=pooling is for compare_pooling; to train its network alone: model=pooling_cnn")
    if resume is None:
        refuse_taken(Path(config.models_dir), config.run_name)
    if config.weights is not None:
        require_checkpoint(config.weights, config.models_dir)
    with if_stopped("before training began; nothing was trained"):
        from cifar10.runs.stopwatch import Stopwatch

        since_start = Stopwatch(wall_started=STARTED_AT, cpu_started=0.0)
        if config.probe is not None:
            from cifar10.probe import probe

            probe(config, since_start)
            return
        from cifar10.train import train

        train(config, resume=resume, changes=changes, stopwatch=since_start)


def compare_pooling(*overrides: str, resume: bool = False) -> int:
    """Compare ways to shrink feature maps: one small network each, trained with several seeds, everything else equal.

    KEY=VALUE   change the comparison, as for train: data_loading.classes=[cattle,camel], pooling.seeds=[0,1,2],
                training.epochs=500, training.early_stopping=30, run_name=NAME
    --resume    go on with an interrupted comparison, and refuse to begin one; without it, the same line goes on too

    Everything is in models/NAME/laboratory/: curves.png while it trains, report.html and results.json in the end, and
    all runs. The best one becomes the run models/NAME. The exit code is 3 if some runs failed.

    python commands.py compare_pooling
    python commands.py compare_pooling data_loading=shapes training.epochs=5 run_name=shapes
    """
    note_place()
    from cifar10.config.compose import load_config
    from cifar10.laboratory.workers import prepare_workers

    config = load_config(with_experiment("pooling", overrides))
    with if_stopped("before training began; nothing was trained"):
        prepare_workers()
        from cifar10.compare_pooling import compare_pooling

        return 3 if compare_pooling(config, resume, overrides=overrides).failures else 0


def sweep(
    *overrides: str,
    trials: int | None = None,
    study: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    test: bool = False,
) -> int:
    """Search for better settings: many trainings, compared on validation images.

    KEY=VALUE       what all trainings have in common, as for train
    KEY=A,B,C       a list of values; several of them make a grid, and each combination is tried once
    sweep=NAME      without lists: the search space, a file of conf/sweep/, or FILE.yaml  (default)
    --trials=N      trainings in all  (as the search space says)
    --study=NAME    the folder in models/, for trials, table and report  (sweep-NAME, or sweep-grid)
    --storage=URL   the study's database, for several machines: postgresql://USER@HOST/DATABASE  (a file in the folder)
    --resume        go on with a study that was stopped or killed, join another process, or add trials
    --test          in the end, test the best training on the test images

    Each training is a run of its own. A table of the best is printed; report.html shows what matters. Optuna draws the
    values and stops trainings early that are worse than the others. The exit code is 3 if some failed.

    python commands.py sweep
    python commands.py sweep experiment=teaching optimizer.lr=0.003,0.01,0.03 model=simple_cnn,speed
    python commands.py sweep sweep=mine.yaml --trials=100 --study=night --resume
    """
    note_place()
    from cifar10.config.sweep_plan import plan_sweep

    plan = plan_sweep(overrides, study, trials)
    folder = Path(plan.config.models_dir) / plan.study
    url = storage or f"sqlite:///{folder / 'study.db'}"
    if plan.config.weights is not None:
        require_checkpoint(plan.config.weights, plan.config.models_dir)
    with if_stopped("before the first trial; nothing was trained"):
        from cifar10.studies.opening import open_storage

        database = open_storage(plan.study, folder, url, resume)
        from cifar10.sweep import SweepRequest, sweep

        results = sweep(SweepRequest(plan, database, url, folder, trials, resume, test))
        return 3 if results.of_state("failed", "killed") else 0


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
    destination = choose_destination(output, format)
    request = InferenceRequest(
        images, network, destination, device, top_k, batch_size, tta, engine, resume, full_jpeg, receipts, grouping
    )
    if pretrained is None:
        pin_checkpoint(name)
    from cifar10.infer import infer

    return 3 if infer(request).num_failed else 0


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
    destination = choose_destination(output, format)
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
    destination = require_batch_destination(output, format)
    require_ray(address)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    from cifar10.batch import BatchRequest, batch

    network = checkpoint or checkpoint_name
    request = BatchRequest(
        images, network, destination, address, workers, device, top_k, batch_size, tta, engine, receipts
    )
    return 3 if batch(request) else 0


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


def evaluate(
    *overrides: str,
    checkpoint_name: str = "best",
    split: Literal["train", "val", "test"] = "test",
    output: str | None = None,
    engine: str | None = None,
    corruptions: str | None = None,
    honest: str | None = None,
    report: bool = True,
) -> None:
    """Evaluate a checkpoint on the test images of the data set it was trained on: scores, and a report to look at.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS  (best)
    --split=SPLIT            train, val or test  (test)
    --output=DIR             the folder of the report and its numbers  (evaluation beside the checkpoint)
    --engine=NAME            what computes: a file of conf/engine/  (as in the test of the training)
    --corruptions=KINDS      also measure the accuracy under noise, blur, weather and digital artefacts, at five
                             strengths each: all, or groups and kinds such as noise,fog
    --honest=DIR             CIFAR-10: also measure without near-duplicates of training images and without labels that
                             people reject, and against people's own labels. The lists are read from this folder; those
                             that are missing are downloaded into it.
    --report=false           only print the scores
    data_loading.root=DIR    the folder of the data, if they have moved; likewise data_loading.sources=[...] and cache.
                             All other settings come from the checkpoint.

    python commands.py evaluate --checkpoint_name=last --output=measured
    python commands.py evaluate first --corruptions=all --honest=data/honest
    python commands.py evaluate first data_loading.root=/mnt/flowers
    """
    note_place()
    if require_checkpoint(checkpoint_name) is None and output is None and report:
        raise UsageError(
            "a checkpoint from MLflow has no folder here; add --output=DIR for the report, or --report=false"
        )
    refuse_other_settings(override.partition("=")[0] for override in overrides)
    kinds = [] if corruptions is None else chosen_kinds(corruptions)
    if engine is not None:
        require_engine(engine)
    if honest is not None and Path(honest).exists() and not Path(honest).is_dir():
        raise UsageError(f"--honest: {honest} is a file; name a folder")
    if not report and (output or kinds or honest):
        raise UsageError("--report=false prints scores only; leave it out, or --output, --corruptions and --honest")
    if output is not None:
        require_folder(output)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("in the test; no report was written"):
        from cifar10.evaluate import evaluate

        evaluate(
            checkpoint_name,
            output=output,
            overrides=overrides,
            split=split,
            engine=engine,
            corruptions=kinds,
            honest=honest,
            report=report,
        )


def compare(*runs: str, output: str = "compared") -> None:
    """Compare trained networks: settings, learning curves, classes, answers that flip, and whether it is chance.

    RUN RUN ...              two or more, each a path, a name in models/, best, last, an MLflow run id or
                             models:/NAME@ALIAS. Runs that differ by their seed only count as one recipe.
    --output=DIR             the folder of report.html and report.json  (compared)
    data_loading.root=DIR    the folder of the data, if they have moved; likewise data_loading.sources=[...] and cache

    Two networks are compared by McNemar's exact test on the same test images; recipes of several seeds over seeds and
    images. If test images or classes differ, settings and learning curves are compared.

    python commands.py compare first second
    python commands.py compare models/speed-* models/simple-* --output=speed_or_simple
    """
    note_place()
    names, overrides = require_runs(runs)
    require_folder(output, make_parents=True)
    with if_stopped("while runs were compared; nothing was written"):
        from cifar10.compare import compare

        compare(names, Path(output), overrides)


def reproduce(*overrides: str, checkpoint_name: str, resume: str | None = None) -> int:
    """Train a run again from what it says of itself, and state whether the result is the same.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS
    --resume=NAME            go on with a reproduction that was interrupted: its name in models/
    data_loading.root=DIR    the folder of the data, if they have moved; likewise data_loading.sources=[...] and cache
    run_name=NAME            the new run  (NAME-reproduced); likewise models_dir=DIR and tracking=none

    With the same code, versions, kind of processor and threads, the weights must be the same bit by bit. If something
    differs, the accuracies must lie within the spread of the recipe. The exit code is 0 for yes, 1 for no.

    python commands.py reproduce first
    python commands.py reproduce first --resume=first-reproduced
    """
    note_place()
    require_reproducible(checkpoint_name, overrides)
    from cifar10.config.compose import load_config
    from cifar10.runs.folder import refuse_taken

    config = load_config([word for word in overrides if not word.startswith("data_loading.")])
    if resume is not None:
        require_begun(resume, config.models_dir)
    else:
        refuse_taken(Path(config.models_dir), config.run_name)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("before training began; nothing was trained"):
        from cifar10.runs.stopwatch import Stopwatch

        since_start = Stopwatch(wall_started=STARTED_AT, cpu_started=0.0)
        from cifar10.reproduce import reproduce

        return 0 if reproduce(checkpoint_name, config, overrides, resume, since_start) else 1


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
    require_checkpoint(checkpoint_name)
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
    require_checkpoint(checkpoint_name)
    refuse_other_settings(override.partition("=")[0] for override in overrides)
    chosen = require_options("engines", "engine", engines)
    checkpoint_name = pin_checkpoint(checkpoint_name)
    with if_stopped("while engines were measured; nothing was written"):
        from cifar10.benchmark import benchmark

        benchmark(checkpoint_name, chosen, output=output, overrides=overrides)


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


def data(*overrides: str, export_images: bool = False) -> None:
    """Download and verify the data set, and report its splits and classes.

    KEY=VALUE         choose the data set, as for train: data_loading=cifar100
    --export_images   also write the images as PNG files into class folders: data/train and data/test for
                      CIFAR-10 and CIFAR-100, data/shapes/train and data/shapes/test for generated shapes

    python commands.py data
    python commands.py data 'data_loading.sources=[/mnt/archives]'
    """
    note_place()
    from cifar10.config.compose import load_config

    config = load_config(overrides)
    from cifar10.prepare_data import prepare_data

    with if_stopped("while the data were downloaded; repeat the command to continue"):
        prepare_data(config, export_images=export_images)


def explore(
    *overrides: str,
    photos: str | None = None,
    labels: bool = False,
    checkpoint_name: str | None = None,
    output: str = "explored",
    most: int = 500,
    track: bool = False,
) -> int:
    """Look at the data: classes, pixels, odd images, duplicates, and labels that may be wrong.

    KEY=VALUE                choose the data set, as for train: data_loading=cifar100
    --photos=DIR             instead: images without classes, from a folder or anything else that infer reads
    --labels                 also look for wrong labels, by four short trainings; with experiment=probe, by linear
                             classifiers on what a pretrained network says
    --checkpoint_name=NAME   also compare images by the embeddings of this network, to find more near-duplicates
    --output=DIR             the folder of report.html, its tables and summary.json  (explored)
    --most=N                 images in the largest gallery  (500)
    --track                  also log numbers and files in MLflow

    A summary is printed as JSON. If files cannot be read, they are listed, and the exit code is 3.

    python commands.py explore
    python commands.py explore data_loading=cifar100 --labels --output=explored/cifar100
    python commands.py explore data_loading=folder data_loading.root=photos --labels experiment=probe
    python commands.py explore --photos=holiday
    """
    note_place()
    require_folder(output, make_parents=True)
    if photos is not None and (labels or overrides):
        refused = "--labels" if labels else overrides[0]
        raise UsageError(f"{refused}: the images of --photos have no classes; for class folders: data_loading.root=DIR")
    source = None if photos is None else require_images(photos, "--photos")
    if checkpoint_name is not None:
        require_checkpoint(checkpoint_name)
        checkpoint_name = pin_checkpoint(checkpoint_name)
    from cifar10.config.compose import load_config

    chosen = () if any(word.lstrip("+").startswith("experiment=") for word in overrides) else ("experiment=explore",)
    config = load_config([*chosen, *overrides])
    with if_stopped("while images were explored; nothing was written"):
        from cifar10.explore import ExploreRequest, explore

        request = ExploreRequest(config, source, Path(output), labels, checkpoint_name, most, track)
        return 3 if explore(request) else 0


def config(*overrides: str) -> None:
    """Print the configuration of a run, and the origin of each value.

    KEY=VALUE   change it, as for train

    python commands.py config model=resnet18 training.epochs=5
    """
    require_place()
    from cifar10.config.explain import explain

    print(explain(overrides))


def demo() -> None:
    """Train, test, save, track and infer on a small generated data set, in about a minute."""
    from cifar10.demo import demo

    demo()


COMMANDS = {
    command.__name__: command
    for command in (
        *(train, sweep, compare_pooling, infer, batch, verify, similar, evaluate, compare, reproduce),
        *(export, benchmark, explore, sync, data, config, demo),
    )
}

if __name__ == "__main__":
    sys.exit(main(COMMANDS, description="Train an image classifier, evaluate it, and classify images with it."))
