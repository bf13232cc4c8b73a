"""Entry point of `verify`: compute a sample of the rows of a result file again, and compare.

A row holds if its image is there and has the SHA-256 of the receipt, a checkpoint with the same weights is there, and
it computes the same classes, with the same names and with the same probabilities, within a tolerance that depends on
the precision. Labels and groups are not compared.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cifar10.config.conf_folder import options
from cifar10.data.class_names import few, printable
from cifar10.errors import CheckpointError, UserError
from cifar10.files import read_text
from cifar10.images.decode import silence_pillow
from cifar10.images.reading import ImageError, read_image_file
from cifar10.images.sources import open_source
from cifar10.inference.prediction import ImageResult
from cifar10.inference.predictor import Predictor
from cifar10.inference.receipt_files import RecordedRow, sample_rows
from cifar10.inference.receipts import TEST_DIR
from cifar10.inference.results import inert
from cifar10.runs.checkpoint_names import BEST, resolve_checkpoint

HOLDS = "holds"
_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""Largest difference of a probability, between machines and versions: as between engines in float32; elsewhere what
rounding changes in a logit, about 1 %, changes in a probability, with room for several layers."""
_ENGINES = {  # program and precision in a receipt -> names in conf/engine to try, where they differ from the program
    ("onnxruntime", "fp32"): ("onnx",),
    ("onnxruntime", "int8"): ("onnx_int8",),
    ("native", "bf16"): ("native", "torch"),
    ("native", "int8"): ("native_int8",),
}
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


def verify(file: Path, checkpoint_name: str | None = None, test_dir: str | None = None, sample: int = 200) -> bool:
    """Print how many of `sample` random rows of `file` hold, with examples, and return whether all do.

    Args:
        file: Written by `infer --receipts`, as csv, jsonl or parquet.
        checkpoint_name: The checkpoint; None: the one in the receipt, or one in `models/` with the same weights.
        test_dir: Folder, archive or list of the images; None: the one in the receipt.
        sample: Number of rows; all, if there are fewer.

    Raises:
        UserError: The file is damaged or has no rows with receipts.
    """
    rows, total = sample_rows(file, sample)
    if not rows:
        raise UserError(f"{file} has no rows")
    silence_pillow()
    found: dict[str, list[str]] = defaultdict(list)
    for _, group in itertools.groupby(sorted(rows, key=_model), key=_model):
        members = list(group)
        try:
            predictor = _predictor(members[0], checkpoint_name)
        except UserError as error:
            _say(str(error))
            found["model missing or changed"] += [row.path for row in members]
            continue
        _note_versions(members[0], predictor)
        for start in range(0, len(members), predictor.batch_size):
            part = members[start : start + predictor.batch_size]
            for row, verdict in zip(part, _verdicts(part, predictor, test_dir), strict=True):
                found[verdict].append(row.path)
    print(f"{file}: {total:,} rows, {len(rows):,} computed again")
    for verdict, paths in sorted(found.items(), key=lambda item: (item[0] != HOLDS, item[0])):
        print(f"{verdict:<25} {len(paths):>7,}" + ("" if verdict == HOLDS else f"  {few(paths)}"), flush=True)
    return len(found[HOLDS]) == len(rows)


def _model(row: RecordedRow) -> tuple[str, str, str, list[tuple[str, str]]]:
    settings = sorted((key, value) for key, value in row.settings.items() if key != TEST_DIR)
    return row.weights_digest, row.checkpoint, row.engine, settings


def _predictor(row: RecordedRow, checkpoint_name: str | None) -> Predictor:
    """Return a predictor with the weights and settings of `row`.

    Raises:
        UserError: There is none, or the receipt has settings that are not possible here.
    """
    program = row.engine.partition(" ")[0]
    engines = _ENGINES.get((program, row.settings.get("precision", "")), (program,))
    if not set(engines) <= set(options("engine")):
        raise UserError(f"the engine of the receipts, {row.engine[:80]!r}, is not known here")
    batch_size = row.settings.get("batch_size", "")
    if not re.fullmatch("[1-9][0-9]{0,5}", batch_size):
        raise UserError(f"the receipts have no batch_size from 1 to 999999, but {batch_size[:80]!r}")
    device = "cpu" if row.settings.get("device") == "cpu" else "auto"
    tta, problem = row.settings.get("tta"), ""
    files = [resolve_checkpoint(checkpoint_name)] if checkpoint_name else _candidates(row)
    for file, engine in itertools.product(files, engines):
        try:
            predictor = Predictor.from_checkpoint(
                file, device, int(batch_size), tta, engine=engine, full_jpeg=row.settings.get("jpeg") == "full"
            )
        except UserError as error:  # such as an engine for other processors
            problem = f"; {error}"
            continue
        if predictor.origin["weights_digest"] == row.weights_digest:
            return predictor
        problem = f"; {file} has the weights {predictor.origin['weights_digest'][:12]}"
    raise CheckpointError(
        f"no checkpoint with the weights {row.weights_digest[:12]} was found{problem}; name one: --checkpoint_name=NAME"
    )


def _candidates(row: RecordedRow) -> list[Path]:
    """Return the checkpoint of the receipt, and those in `models/` whose run has the same weights."""
    found = [Path(row.checkpoint)] if os.path.isfile(row.checkpoint) else []
    for scores in sorted(Path("models").glob("*/scores.json")):
        try:
            values = json.loads(read_text(scores))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(values, dict) and values.get("weights_digest") == row.weights_digest:
            exported = scores.parent / "export" / Path(row.checkpoint).name  # of another precision, perhaps
            found.append(exported if row.checkpoint.endswith(".onnx") else scores.parent / BEST)
    return [file for file in found if os.path.isfile(file)]


def _note_versions(row: RecordedRow, predictor: Predictor) -> None:
    now = predictor.provenance
    then = {"engine": row.engine, **{key: row.settings.get(key, "?") for key in ("precision", "device")}}
    changed = [f"{key} {value[:80]}, now {now[key]}" for key, value in then.items() if value != now.get(key, value)]
    used = f"{now['checkpoint']}: weights {row.weights_digest[:12]}, {now['engine']}"
    _say(f"{used}{'; then ' if changed else ''}{'; '.join(changed)}")


def _verdicts(rows: Sequence[RecordedRow], predictor: Predictor, test_dir: str | None) -> list[str]:
    """Return for each row whether it holds, or what is different."""
    images = _contents(rows, test_dir)
    encoded = [image for image in images if image is not None]
    results = iter(predictor.predict(encoded, top_k=predictor.num_classes) if encoded else [])
    precision = {
        predictor.provenance.get("precision", "fp32"),
        *(row.settings.get("precision", "fp32") for row in rows),
    }
    tolerance = max(_TOLERANCES.get(name, min(_TOLERANCES.values())) for name in precision)
    return [
        _compare(row, image, None if image is None else next(results), predictor.class_names, tolerance)
        for row, image in zip(rows, images, strict=True)
    ]


def _compare(
    row: RecordedRow, image: bytes | None, result: ImageResult | None, class_names: Sequence[str], tolerance: float
) -> str:
    if image is None or result is None:
        return HOLDS if row.image_sha256 is None else "image missing"
    if hashlib.sha256(image).hexdigest() != row.image_sha256:
        return "image changed"
    if bool(result.top) != bool(row.top):
        return "prediction changed"
    now = {one.class_id: one.probability for one in result.top}
    is_same = all(
        abs(now.get(then.class_id, -1.0) - then.probability) <= tolerance
        and class_at_rank.probability - now[then.class_id] <= tolerance
        and then.class_name in (class_names[then.class_id], inert(class_names[then.class_id]))
        for then, class_at_rank in zip(row.top, result.top, strict=False)
    )
    is_same &= len({then.class_id for then in row.top}) == len(row.top) <= len(result.top)
    return HOLDS if is_same else "prediction changed"


def _contents(rows: Sequence[RecordedRow], test_dir: str | None) -> list[bytes | None]:
    """Return the encoded image of each row, None if it cannot be read."""
    contents: dict[str, dict[str, bytes]] = {}
    for place, members in itertools.groupby(rows, key=lambda row: test_dir or row.settings.get(TEST_DIR, os.curdir)):
        if os.path.isfile(place):  # an archive or a list
            contents[place] = _in_collection(place, {name for row in members for name in _names(row)})
    return [_content(row, test_dir or row.settings.get(TEST_DIR, os.curdir), contents) for row in rows]


def _content(row: RecordedRow, place: str, contents: Mapping[str, Mapping[str, bytes]]) -> bytes | None:
    for name in _names(row):
        if place in contents:
            if name in contents[place]:
                return contents[place][name]
            continue
        try:
            return read_image_file(Path(place, name))
        except ImageError:
            continue
    return None


def _names(row: RecordedRow) -> list[str]:
    """Return the names of files that may have been written as the row's path."""
    original = _ESCAPED.sub(lambda found: os.fsdecode(bytes.fromhex(found[1])), row.path)  # not UTF-8
    plain = row.path.removeprefix("./")  # which keeps a name from being a formula of a spreadsheet
    return list(dict.fromkeys([row.path, original, plain, f"./{plain}"]))  # as `tar cf FILE .` calls its members


def _in_collection(place: str, names: Collection[str]) -> dict[str, bytes]:
    """Return name -> encoded image, for those of `names` that are in an archive or list; no address is fetched."""
    found: dict[str, bytes] = {}
    try:
        for image in open_source(place):
            if image.name in names and not image.is_remote and image.name not in found:
                with contextlib.suppress(ImageError):
                    found[image.name] = image.read(lambda size: None)
    except UserError as error:
        _say(str(error))
    return found


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)  # names may come from an untrusted file
