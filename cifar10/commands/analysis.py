"""Commands that judge what was trained: evaluate, compare, reproduce."""

from pathlib import Path
from typing import Literal

from cifar10 import STARTED_AT
from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    require_begun,
    require_checkpoint,
    require_folder,
    require_reproducible,
    require_runs,
)
from cifar10.config.changeable import refuse_other_settings
from cifar10.config.corruption_kinds import chosen_kinds
from cifar10.errors import UsageError
from cifar10.inference.engines import require_engine
from cifar10.system.signals import if_stopped


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
    --output=DIR             the folder of the report and its numbers  (evaluation beside the checkpoint, or
                             evaluation-train or evaluation-val)
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
