"""Ask for a photo or a folder, say whether it shows a cat or a dog, and ask again; an empty line ends it.

    python main.py
    python main.py model=squeezenet1_1_imagenet model.weights=FILE grouping=NAME

The same as `python commands.py infer model=resnet152_imagenet grouping=cats_vs_dogs --test_dir=...`, with the network
loaded once.
"""

import sys
from collections.abc import Sequence

from cifar10.cli.checks import note_place, require_grouping, require_pretrained
from cifar10.cli.command_line import main
from cifar10.config.changeable import require_network_settings

_DEFAULTS = ("model=resnet152_imagenet", "grouping=cats_vs_dogs")


def ask(*overrides: str) -> None:
    """Load the network that the overrides choose, and classify what is typed."""
    note_place()
    require_network_settings(overrides)
    given = {override.partition("=")[0] for override in overrides}
    chosen = [*(default for default in _DEFAULTS if default.partition("=")[0] not in given), *overrides]
    grouping, pretrained = require_grouping(chosen), require_pretrained(chosen, checkpoint_name=None)
    assert grouping is not None and pretrained is not None
    from cifar10.prompt import prompt

    prompt(pretrained, grouping)


def start(words: Sequence[str]) -> int:
    """Return the exit code."""
    if any(word.startswith("-") or "=" not in word for word in words):
        print(__doc__, file=sys.stdout if "--help" in words else sys.stderr)
        return 0 if "--help" in words else 2
    return main({"ask": ask}, description="", words=["ask", *words])


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
