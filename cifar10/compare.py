"""Entry point of `compare`: runs -> their settings, curves and answers for the same test images -> what differs.

OUTPUT/report.html   verdict, settings, learning curves, classes, images whose answer flipped
OUTPUT/report.json   the numbers
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.comparison import ComparedRun, Comparison, TestAnswers, TestImages
from cifar10.analysis.comparison_report import ComparisonPage
from cifar10.analysis.comparison_words import plain_table, verdicts
from cifar10.config.build import argument_names
from cifar10.config.targets import DATA
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.split_digest import SplitContent
from cifar10.errors import UsageError, UserError
from cifar10.files import sole_writer, write_text
from cifar10.runs.checkpoints import Checkpoint
from cifar10.runs.described_run import DescribedRun, describe_run
from cifar10.runs.provenance import machine, versions
from cifar10.runs.trained_data import load_trained_data, relocated
from cifar10.system.memory import keep_memory_warm
from cifar10.system.streams import print_message
from cifar10.trainer import prepare_cpu
from cifar10.training.testing import Tester, here_and_alone

REPORT, NUMBERS = "report.html", "report.json"
_TRACKED_LENGTH = 500  # characters of a value that MLflow keeps


def compare(names: Sequence[str], output: Path, overrides: Sequence[str] = ()) -> Comparison:
    """Compare runs: print settings, accuracies and verdict, and write the report; return what was found.

    Args:
        names: Two or more, each as for `resolve_checkpoint`.
        output: Folder of the report.
        overrides: Where the data are now, as for `relocated`.

    Raises:
        UsageError: Two names are of the same run.
        UserError: A run cannot be read, or the folder cannot be written.
    """
    with sole_writer(output):
        return _compared_in(output, names, overrides)


def _compared_in(output: Path, names: Sequence[str], overrides: Sequence[str]) -> Comparison:
    keep_memory_warm()
    runs = with_own_names([describe_run(name) for name in names], names)
    tested = _answers(runs, overrides, output)
    found = Comparison([_compared(run, tested, runs) for run in runs], tested.images, _origin(names))
    print("\n".join([*plain_table(found), "", *verdicts(found)]), flush=True)
    page = ComparisonPage(found, tested.image)
    write_text(output / NUMBERS, f"{json.dumps({**found.numbers(), 'verdict': verdicts(found)}, indent=1)}\n")
    page.report().write(output / REPORT)
    print_message(f"written to {output}: {REPORT}, {NUMBERS}")
    return found


def with_own_names(runs: Sequence[DescribedRun], given: Sequence[str]) -> list[DescribedRun]:
    """Return the runs with names that differ: those that are shared are replaced by what was typed.

    Raises:
        UsageError: Two are the same file.
    """
    files: dict[Path, str] = {}
    for run, word in zip(runs, given, strict=True):
        if run.checkpoint is not None:
            file = run.checkpoint.path.resolve()
            if file in files:
                raise UsageError(f"{files[file]} and {word} are the same run; name each once")
            files[file] = word
    counts = Counter(run.name for run in runs)
    return [
        run if counts[run.name] == 1 else dataclasses.replace(run, name=word)
        for run, word in zip(runs, given, strict=True)
    ]


# -- answers for the test images ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _TestSet:
    """The test images of a run, as they are now."""

    data: ImageDataset
    content: SplitContent

    @classmethod
    def of(cls, data: ImageDataset) -> "_TestSet":
        return cls(data, SplitContent.of_test(data))


@dataclass(frozen=True, eq=False)
class _Tested:
    """The answers that can be compared, and the images that they are about."""

    answers: dict[str, TestAnswers]
    problems: dict[str, str]
    """Run -> why its answers cannot be compared."""
    images: TestImages | None
    data: ImageDataset | None

    def image(self, position: int) -> NDArray[np.uint8]:
        """Return a test image, (S, S, 3)."""
        assert self.data is not None
        return np.ascontiguousarray(self.data.test.images[position].permute(1, 2, 0).numpy())


def _answers(runs: Sequence[DescribedRun], overrides: Sequence[str], folder: Path) -> _Tested:
    """Return the answers of the runs that share most test images."""
    test_sets, problems = _test_sets(runs, overrides)
    counts = Counter(digest for test_set in test_sets.values() for digest in test_set.content.digests)
    if not counts or max(counts.values()) < 2:
        for name in test_sets:
            problems[name] = "no other run has the same test images and classes"
        return _Tested({}, problems, None, None)
    shared, _ = counts.most_common(1)[0]
    chosen = [run for run in runs if run.name in test_sets and shared in test_sets[run.name].content.digests]
    for name in test_sets:
        if name not in {run.name for run in chosen}:
            problems[name] = f"its test images or classes are others than those of {printable(chosen[0].name)}"
    first = test_sets[chosen[0].name]
    data = first.data
    answers = {}
    for run in chosen:
        test_set = test_sets[run.name]
        positions = first.content.positions_in(test_set.content)
        assert run.checkpoint is not None and positions is not None
        answers[run.name] = _predict(run.checkpoint, test_set.data, data.class_names, folder).take(positions)
    images = TestImages(data.test.labels.numpy(), data.class_names, data.name)
    return _Tested(answers, problems, images, data)


def _test_sets(runs: Sequence[DescribedRun], overrides: Sequence[str]) -> tuple[dict[str, _TestSet], dict[str, str]]:
    """Return run -> its test set, and run -> why it has none. Equal data are loaded once."""
    test_sets: dict[str, _TestSet] = {}
    problems: dict[str, str] = {}
    known: dict[tuple[str, tuple[str, ...]], _TestSet] = {}
    _refuse_unused(runs, overrides)
    for run in runs:
        if run.checkpoint is None:
            problems[run.name] = f"its network is not at hand: {run.problem}"
            continue
        try:
            own = [override for override in overrides if _takes(run.checkpoint, _argument(override))]
            test_set = _test_set(run.checkpoint, own, known)
        except UserError as error:
            if overrides and isinstance(error, UsageError):
                raise
            moved = "; if they have moved, add data_loading.root=DIR" if _takes(run.checkpoint, "root") else ""
            problems[run.name] = f"its data cannot be loaded: {str(error).splitlines()[0]}{moved}"
            continue
        data = test_set.data
        if data.digest != run.checkpoint.data_digest:
            print_message(
                f"warning: the data of {printable(run.name)} are not those of its training (SHA-256 "
                f"{data.digest[:12]} now, {run.checkpoint.data_digest[:12]} then); they are compared as they are now"
            )
        test_sets[run.name] = test_set
    return test_sets, problems


def _refuse_unused(runs: Sequence[DescribedRun], overrides: Sequence[str]) -> None:
    """Raise UsageError if an override suits the data of none of the runs, such as a root of drawn images."""
    checkpoints = [run.checkpoint for run in runs if run.checkpoint is not None]
    for override in overrides if checkpoints else ():
        name = _argument(override)
        if not any(_takes(checkpoint, name) for checkpoint in checkpoints):
            raise UsageError(f"data_loading.{name}: the data of none of these runs have this setting; leave it out")


def _argument(override: str) -> str:
    """Return the name of an argument of the data set: `root` of `data_loading.root=DIR`."""
    return override.lstrip("+~").partition("=")[0].removeprefix("data_loading.")


def _takes(checkpoint: Checkpoint, name: str) -> bool:
    return name in argument_names(DATA.locate(checkpoint.config.data_loading.target))


def _test_set(
    checkpoint: Checkpoint, overrides: Sequence[str], known: dict[tuple[str, tuple[str, ...]], _TestSet]
) -> _TestSet:
    """Return the test set of a checkpoint; `known` ones are not loaded again.

    Raises:
        UserError: The data are not available, or have no test images.
    """
    component = relocated(checkpoint.config, overrides)
    key = (json.dumps(component.model_dump(), sort_keys=True), checkpoint.class_names)
    if key not in known:
        data = load_trained_data(checkpoint, component)
        if not len(data.test):
            raise UserError(f"{data.name} has no test images")
        known[key] = _TestSet.of(data)
    return known[key]


def _predict(checkpoint: Checkpoint, data: ImageDataset, class_names: Sequence[str], folder: Path) -> TestAnswers:
    """Return the answers of a checkpoint, as in the test of its training, with the class ids of `class_names`."""
    config = checkpoint.config
    prepare_cpu(here_and_alone(config.training))
    quiet = config.model_copy(update={"tracking": config.tracking.model_copy(update={"tensorboard": False})})
    tester = Tester.of(dataclasses.replace(checkpoint, config=quiet), data, folder)
    _, answers = tester.answers(data.test, "test")
    ids = np.array([class_names.index(name) for name in data.class_names], dtype=np.int64)
    return TestAnswers(
        predicted=ids[answers.predicted],
        confidence=answers.augmented.max(axis=1).astype(np.float32),
        plain=ids[answers.plain.argmax(axis=1)],
        tta=checkpoint.tta,
    )


# -- facts -------------------------------------------------------------------------------------------------------------


def _compared(run: DescribedRun, tested: _Tested, runs: Sequence[DescribedRun]) -> ComparedRun:
    """Return a run for the analysis. Values are cut as MLflow does, if a run is known from there only."""
    settings, recipe = run.settings, run.recipe
    if any(each.checkpoint is None for each in runs):
        settings = {key: value[:_TRACKED_LENGTH] for key, value in settings.items()}
        recipe = tuple((key, value[:_TRACKED_LENGTH]) for key, value in recipe)
    return ComparedRun(
        name=run.name,
        seed=run.seed,
        recipe=recipe,
        settings=settings,
        origin=run.origin,
        history=run.history,
        scores=run.scores,
        weights=None if run.checkpoint is None else run.checkpoint.weights_digest,
        answers=tested.answers.get(run.name),
        problem=tested.problems.get(run.name, ""),
    )


def _origin(names: Sequence[str]) -> list[tuple[str, str]]:
    computer = machine()
    return [
        ("runs", ", ".join(map(printable, names))),
        ("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("machine", f"{computer['cpu']}, {computer['cores']} cores, GPU {computer['gpu']}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
    ]
