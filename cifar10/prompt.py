"""Entry point of `main.py`: ask for images on a terminal, and print what they show."""

import os
import re
import sys
from collections import Counter
from dataclasses import replace

from cifar10.cli.checks import require_images
from cifar10.config.schema import Component
from cifar10.errors import UsageError
from cifar10.images.decode import silence_pillow
from cifar10.images.named_image import ImageSource
from cifar10.inference.destination import Destination
from cifar10.inference.grouping import Grouping
from cifar10.inference.predictor import Predictor
from cifar10.inference.results import open_results
from cifar10.system.home import expanded
from cifar10.system.memory import share_memory_between_threads


def prompt(pretrained: Component, grouping: Grouping) -> None:
    """Classify each photo or folder that is typed, until an empty line or the end of the input.

    Raises:
        UserError: The weights cannot be read or downloaded.
        UsageError: The grouping is for another network.
    """
    silence_pillow()
    share_memory_between_threads()
    predictor = Predictor.from_pretrained(pretrained)
    predictor = replace(predictor, groups=grouping.bind(predictor.class_names))
    _say(f"{predictor.origin['checkpoint']}: a photo or a folder, an empty line to end")
    while path := _typed():
        try:
            _classify(require_images(expanded(path)), predictor)
        except UsageError as error:
            _say(f"error: {str(error).removeprefix('--test_dir: ')}")


def _typed() -> str:
    print("> ", end="", file=sys.stderr, flush=True)
    line = os.fsdecode(sys.stdin.buffer.readline()).strip()  # a path may not be in the encoding of the terminal
    if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"":  # as a terminal writes a dropped file
        return line[1:-1]
    return line if os.path.lexists(line) else re.sub(r"\\(.)", r"\1", line)  # as that of macOS does


def _classify(images: ImageSource, predictor: Predictor) -> None:
    """Print a table with one row for each image, and the totals if there are several."""
    totals: Counter[str] = Counter()
    groups = predictor.groups
    assert groups is not None
    with open_results(Destination(None, "table"), predictor.class_names, 1, {}, groups=groups.names) as writer:
        for rows in predictor.predict_source(images, top_k=1):
            writer.write(rows)
            totals.update(row.group.name for row in rows if row.group is not None)
    if totals.total() > 1:
        _say(groups.totals_line(totals))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
