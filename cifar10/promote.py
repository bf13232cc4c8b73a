"""Entry point of `promote`: checkpoint -> export, measurements, checks -> a version in the registry, and its alias.

Beside the checkpoint:
    export/model.onnx   evaluation/    made if they are missing, or of other weights
    promotion.json                     what was measured and checked
    MODEL_CARD.md
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar10.analysis.model_card import description_of, model_card
from cifar10.analysis.promotion_checks import Check, tags_of
from cifar10.analysis.promotion_comparison import compare_and_time
from cifar10.analysis.served_network import ServedNetwork, require_same_classes, shared_test_images
from cifar10.config.advice import command_line
from cifar10.config.promotion import Promotion
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.split_digest import SplitContent
from cifar10.errors import UsageError, UserError
from cifar10.evaluate import evaluate
from cifar10.export import export
from cifar10.files import write_text
from cifar10.formats.known_parity import known_or_measured
from cifar10.inference.engines.onnx import exported_weights
from cifar10.runs.aliases import Alias
from cifar10.runs.checkpoint_names import find_locally, resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import SCORES
from cifar10.runs.measured_files import EVALUATION, PROMOTION, MeasuredFiles
from cifar10.runs.provenance import machine, versions
from cifar10.runs.registry import (
    RegisteredName,
    VersionContent,
    identity_tags,
    name_of_data,
    told_if_refused,
)
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.memory import keep_memory_warm
from cifar10.system.streams import print_message

CARD = "MODEL_CARD.md"
_EXPORTED = "export/model.onnx"
_WITH_VERSION = (CARD, PROMOTION, EVALUATION, "evaluation/report.html", SCORES)
"""Files that a version holds beside its model."""
_PURPOSE = "promote"


def promote(
    checkpoint_name: str,
    alias: str,
    name: str | None,
    settings: Promotion,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Register a checkpoint with its export, evaluation and card, and give it an alias if all checks hold.

    Args:
        checkpoint_name: Anything `resolve_checkpoint` knows.
        alias: That moves.
        name: Of the registered model; None: that of the data set.
        settings: Limits of the checks.
        overrides: Where the data are today, as for `relocated`.
        dry_run: Measure and print, and register nothing.

    Raises:
        UserError: A check fails, or the checkpoint, its data or the registry are not as needed. The alias has not
            moved.
    """
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    target = RegisteredName(name or name_of_data(checkpoint), alias)
    with told_if_refused(_PURPOSE):
        place = _opened(target, checkpoint, dry_run)
        before = place.version()
    champion = None if before is None else ServedNetwork.with_alias(target, before)
    if champion is not None and champion.serves(checkpoint):
        _renew_card(str(before), checkpoint, checkpoint_name, None if dry_run else place)
        print(f"{alias:<12} is version {before} of {target.name} already, with the same weights")
        return
    with _refused(target, before):
        found = _measured(checkpoint, checkpoint_name, champion, settings, overrides)
    failed = [check for check in found.checks if check.holds is False]
    if dry_run:
        _write_numbers(found, None)
        print_message("nothing was registered, since this is a dry run")
    else:
        _write(found, checkpoint_name, None if failed else target, overrides)
        _register(found, place, before, moves=not failed)
    if failed:
        reasons = "; ".join(f"{check.name}: {check.found}" for check in failed)
        raise UserError(f"not promoted, {_unmoved(target, before)}: {reasons}")


# -- before the measurements -------------------------------------------------------------------------------------------


def _opened(target: RegisteredName, checkpoint: Checkpoint, dry_run: bool) -> Alias:
    if dry_run:
        return Alias.open_for_reading(target)
    return Alias.open_for_writing(target, checkpoint.config.tracking.experiment, _now())


@contextlib.contextmanager
def _refused(target: RegisteredName, before: str | None) -> Iterator[None]:
    """Say in an error of the block what follows from it."""
    try:
        yield
    except UsageError:
        raise
    except UserError as error:
        raise UserError(f"not promoted and not registered, {_unmoved(target, before)}: {error}") from None


def _unmoved(target: RegisteredName, before: str | None) -> str:
    if before is None:
        return f"no version of {target.name} is {target.alias}"
    return f"version {before} of {target.name} stays {target.alias}"


# -- measurements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """A network that computes in its exported file what it computes in its checkpoint, and what was measured."""

    checkpoint: Checkpoint
    exported: Path
    checks: Sequence[Check]
    numbers: Mapping[str, Any]
    """For `promotion.json`; plain values."""


def _measured(
    checkpoint: Checkpoint,
    checkpoint_name: str,
    champion: ServedNetwork | None,
    settings: Promotion,
    overrides: Sequence[str],
) -> _Found:
    """Measure the network, and the one that has the alias; print each check.

    Raises:
        UserError: The exported file computes something else, or the two networks cannot be compared.
    """
    if champion is not None:
        require_same_classes(checkpoint, champion)
    data = _data_of(checkpoint, overrides, checkpoint_name)
    theirs = None if champion is None else (champion, shared_test_images(data, champion, overrides))
    own = ServedNetwork("this network", checkpoint, _exported(checkpoint, overrides))
    assert own.exported is not None
    parity, facts = known_or_measured(own.exported, checkpoint, data)
    if not parity.is_equal:
        again = command_line("export", checkpoint_name=checkpoint_name)
        told = f"{own.exported} computes something else than {checkpoint.path}"
        raise UserError(f"{told}: {parity.describe()}; export it again: {again}")
    same = _told(Check("parity", True, parity.describe()))
    checks, compared = compare_and_time(own, data, theirs, settings, _told)
    numbers = {
        "weights_digest": checkpoint.weights_digest,
        "made": _now(),
        "data": data.name,
        "data_digest": data.digest,
        "test_digest": SplitContent.of_test(data).digests[0],
        "tta": checkpoint.tta,
        "export": facts,
        "parity": asdict(parity),
        **compared,
        "checks": [asdict(each) for each in (same, *checks)],
        "settings": settings.model_dump(),
        "machine": machine(),
        "versions": versions(),
    }
    return _Found(checkpoint, own.exported, [same, *checks], numbers)


def _told(check: Check) -> Check:
    print(check.line, flush=True)
    return check


def _data_of(checkpoint: Checkpoint, overrides: Sequence[str], checkpoint_name: str) -> ImageDataset:
    keep_memory_warm()
    moved = moved_line(_PURPOSE, checkpoint_name)
    data = load_trained_data(checkpoint, relocated(checkpoint.config, overrides), moved)
    if not len(data.test):
        raise UserError(f"{data.name} has no test images")
    if data.digest != checkpoint.data_digest:
        print_message(
            f"warning: these are not the data of the training run (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); all is measured on the data as they are now"
        )
    return data


def _exported(checkpoint: Checkpoint, overrides: Sequence[str]) -> Path:
    """Return the ONNX file of a checkpoint; write it if it is missing or of other weights.

    Raises:
        CheckpointError: It is there, but damaged, or a new one would compute something else.
    """
    file = checkpoint.path.parent / _EXPORTED
    if file.is_file():
        if exported_weights(file) == checkpoint.weights_digest:
            return file
        print_message(f"{file} is of other weights; it is written again")
    else:
        print_message(f"{file} is not there; it is written")
    with contextlib.redirect_stdout(sys.stderr):
        export(str(checkpoint.path), ["onnx"], overrides=overrides)
    return file


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


# -- files and registry ------------------------------------------------------------------------------------------------


def _write(found: _Found, checkpoint_name: str, target: RegisteredName | None, overrides: Sequence[str]) -> None:
    """Evaluate the checkpoint if that is missing, and write numbers and card beside it.

    Args:
        found: What was measured.
        checkpoint_name: As it was given.
        target: The alias that will be of this network; None: none will.
        overrides: Where the data are today.
    """
    checkpoint, folder = found.checkpoint, found.checkpoint.path.parent
    evaluation = MeasuredFiles.of(checkpoint).evaluation
    if evaluation is None or evaluation["data_digest"] != found.numbers["data_digest"] or evaluation["split"] != "test":
        print_message(f"{folder / EVALUATION} is not there, or of other weights or data; evaluating the checkpoint")
        with contextlib.redirect_stdout(io.StringIO()):  # the scores are in the report
            evaluate(str(checkpoint.path), overrides=overrides)
    _write_numbers(found, target)
    run = None if find_locally(checkpoint_name) else checkpoint_name
    write_text(folder / CARD, model_card(checkpoint, MeasuredFiles.of(checkpoint), run))
    print_message(f"written to {folder}: {PROMOTION}, {CARD}")


def _write_numbers(found: _Found, target: RegisteredName | None) -> None:
    numbers = {**found.numbers, "target": None if target is None else asdict(target)}
    write_text(found.checkpoint.path.parent / PROMOTION, f"{json.dumps(numbers, indent=1, allow_nan=False)}\n")


def _renew_card(number: str, checkpoint: Checkpoint, checkpoint_name: str, place: Alias | None) -> None:
    """Write the card of a run that has the alias as version `number` from what was measured since.

    With `place`, it also becomes the description of the version.
    """
    files = MeasuredFiles.of(checkpoint)
    if find_locally(checkpoint_name) is None or files.promotion is None:
        return
    card, file = model_card(checkpoint, files), checkpoint.path.parent / CARD
    write_text(file, card)
    print_message(f"written anew: {file}")
    if place is not None:
        with told_if_refused(_PURPOSE):
            place.annotate(number, {}, description_of(card))


def _register(found: _Found, place: Alias, before: str | None, moves: bool) -> None:
    """Register the network, or find its version, describe it, and move the alias to it if it `moves`."""
    target, checkpoint, folder = place.target, found.checkpoint, found.checkpoint.path.parent
    identity = identity_tags(checkpoint, found.exported)
    card = folder / CARD
    content = VersionContent(
        files={name: folder / name for name in _WITH_VERSION if (folder / name).is_file()},
        tags={
            "promotion": "all checks hold" if moves else "refused",
            **tags_of(found.checks),
            "promotion.compared_with": "none" if before is None else f"version {before}",
            "promotion.made": str(found.numbers["made"]),
            "test_digest": str(found.numbers["test_digest"]),
            **identity,
        },
        description=description_of(card.read_text(encoding="utf-8")),
    )
    with told_if_refused(_PURPOSE):
        number = place.version_with(identity)
        if number is None:
            number = place.add(checkpoint, found.exported, content)
            weights = f"weights {checkpoint.weights_digest[:12]}"
            print(f"{'registered':<12} models:/{target.name}/{number}, {weights}", flush=True)
        else:
            place.annotate(number, content.tags, content.description)
            print(f"{'registered':<12} before as models:/{target.name}/{number}; described anew", flush=True)
        if moves:
            place.move(number, before)
            since = "" if before is None else f", until now version {before}"
            print(f"{target.alias:<12} is version {number} of {target.name}{since}", flush=True)
            address = f"models:/{target.name}@{target.alias}"
            print_message(f"to serve it: {command_line('serve', checkpoint_name=address)}")
