"""Entry point of `benchmark`: the inference engines on this machine, by speed, size, accuracy and differing answers."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.engine_figure import EnginePoint, draw_engines
from cifar10.config.conf_folder import content_of
from cifar10.errors import UserError, first_line
from cifar10.files import atomic_write, make_output_folder, write_text
from cifar10.formats.parity import all_probabilities
from cifar10.inference.engines import load_model
from cifar10.inference.engines.auto import candidates, explanation, fastest, remember
from cifar10.inference.engines.measuring import BATCH_SIZES, Measured, measure
from cifar10.inference.finite import require_numbers
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.provenance import machine, versions
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.limits import num_cpus
from cifar10.system.memory import keep_memory_warm

_REFERENCE = "eager"
"""The engine whose answers others are compared with: PyTorch's own operators in float32."""
_CHOOSER = "auto"


@dataclass(frozen=True)
class Answers:
    """What an engine computes for the test images, one view each."""

    accuracy: float
    """Between 0 and 1."""
    num_different: int
    """Images whose most probable class is another one than the reference's."""
    largest_difference: float
    """Of a probability, from the reference's."""
    size_mb: float
    """Megabytes of the weights, as the engine reads them."""


def benchmark(
    checkpoint_name: str, engines: Sequence[str], output: str | None = None, overrides: Sequence[str] = ()
) -> None:
    """Print a table of the engines; write it as JSON, with a picture.

    Args:
        checkpoint_name: Anything `resolve_checkpoint` knows.
        engines: Names of files in `conf/engine/`.
        output: The folder of the files; None: `benchmark` beside the checkpoint.
        overrides: Where the data are today, as for `load_trained_data`.

    Raises:
        UserError: The checkpoint, its data or the folder is not as needed.
    """
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    folder = Path(output) if output else checkpoint.path.parent / "benchmark"
    make_output_folder(folder)
    keep_memory_warm()
    names = [_REFERENCE, *(name for name in engines if name not in (_REFERENCE, _CHOOSER))]
    data = load_trained_data(
        checkpoint, relocated(checkpoint.config, overrides), moved_line("benchmark", checkpoint_name)
    )
    answers, refused = _answers(checkpoint, names, *data.test.arrays())
    measured = {number: _measured(checkpoint.path, list(answers), number) for number in sorted({1, num_cpus()})}
    print("\n".join(_table(answers, measured, len(data.test))))
    if not _explain_choice(checkpoint.path, measured[num_cpus()], refused):
        print("\n".join(f"{name}: {reason}" for name, reason in refused.items()), end="", file=sys.stderr)
    report = {
        "checkpoint": str(checkpoint.path),
        "weights_digest": checkpoint.weights_digest,
        "num_images": len(data.test),
        "machine": machine(),
        "versions": versions(),
        "engines": {name: asdict(each) for name, each in answers.items()},
        "measured": {str(number): each for number, each in measured.items()},
        "refused": refused,
    }
    write_text(folder / "engines.json", f"{json.dumps(report, indent=2, allow_nan=False)}\n")
    figure = draw_engines(_points(answers, measured), BATCH_SIZES)
    with atomic_write(folder / "engines.png") as file:
        figure.savefig(file, format="png", dpi=150)
    print(f"written to {folder}: engines.json, engines.png", file=sys.stderr)


def _answers(
    checkpoint: Checkpoint, names: Sequence[str], images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[dict[str, Answers], dict[str, str]]:
    """Return the answers of each engine, and the reasons of those that cannot compute the model here."""
    batch_size = checkpoint.config.evaluation.images_at_once(checkpoint.image_size)
    answers: dict[str, Answers] = {}
    refused: dict[str, str] = {}
    reference: NDArray[np.float32] | None = None
    for name in names:
        try:
            engine = load_model(name, checkpoint.path, "cpu").engine
            found = all_probabilities(engine, images, batch_size, name)
            require_numbers(found, checkpoint.path)
        except UserError as error:
            if name == _REFERENCE:
                raise
            refused[name] = first_line(error)
            continue
        reference = found if reference is None else reference
        classes = found.argmax(axis=1)
        answers[name] = Answers(
            accuracy=float(np.mean(classes == labels)),
            num_different=int(np.sum(classes != reference.argmax(axis=1))),
            largest_difference=float(np.abs(found - reference).max()),
            size_mb=_size_mb(name, checkpoint),
        )
    return answers, refused


def _size_mb(engine: str, checkpoint: Checkpoint) -> float:
    exported = content_of("engine", engine).get("file_name")
    if exported is not None:
        return (checkpoint.path.parent / "export" / str(exported)).stat().st_size / 1e6
    return sum(tensor.numel() * tensor.element_size() for tensor in checkpoint.weights.values()) / 1e6


def _measured(path: Path, names: Sequence[str], num_threads: int) -> dict[str, Measured]:
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    print(f"measuring {', '.join(names)} with {threads}", file=sys.stderr, flush=True)
    return measure(path, names, num_threads)


def _table(
    answers: Mapping[str, Answers], measured: Mapping[int, Mapping[str, Measured]], num_images: int
) -> list[str]:
    one, many = BATCH_SIZES
    columns = [f"ms/image, batch {one}, {number} thr." for number in measured]
    columns += [f"images/s, batch {many}, {number} thr." for number in measured]
    differing = [f"other classes of {num_images:,}", "largest difference"]
    rows = [["engine", "precision", "MB", "accuracy", *differing, *columns]]
    for name, about in answers.items():
        seconds = [each[name].get("seconds", {}) for each in measured.values()]
        cells = [f"{1000 * each[str(one)]:.3f}" if each else "-" for each in seconds]
        cells += [f"{many / each[str(many)]:,.0f}" if each else "-" for each in seconds]
        precision = next(iter(measured.values()))[name].get("precision", "-")
        differing = [f"{about.num_different:,}", f"{about.largest_difference:.1e}"]
        rows.append([name, precision, f"{about.size_mb:.1f}", f"{about.accuracy:.2%}", *differing, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _explain_choice(path: Path, measured: Mapping[str, Measured], refused: Mapping[str, str]) -> bool:
    """Say what `--engine=auto` takes, and remember it, if all its candidates were measured; return whether."""
    known = dict(measured) | {name: Measured(refused=reason) for name, reason in refused.items()}
    if not set(candidates()) <= set(known):
        return False
    considered = {name: known[name] for name in candidates()}
    try:
        remember(path, candidates(), considered)
    except (OSError, UserError) as error:
        print(f"engine=auto will measure again, since {first_line(error)}", file=sys.stderr)
    single, many = (fastest(considered, size) for size in BATCH_SIZES)
    print(f"engine=auto: {many}, and {single} with --batch_size=1; {explanation(considered, many)}", file=sys.stderr)
    return True


def _points(answers: Mapping[str, Answers], measured: Mapping[int, Mapping[str, Measured]]) -> list[EnginePoint]:
    return [
        EnginePoint(name, number, int(size), int(size) / seconds, about.accuracy, about.size_mb)
        for number, each in measured.items()
        for name, about in answers.items()
        for size, seconds in each[name].get("seconds", {}).items()
    ]
