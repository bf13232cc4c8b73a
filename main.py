"""Ask for a photo or a folder, say whether it shows a cat or a dog, and ask again; an empty line ends it.

    python main.py
    python main.py model=squeezenet1_1_imagenet model.weights=FILE grouping=NAME
    python main.py --web        the page *Cats and dogs* of the web page instead

The same as `python commands.py infer model=resnet152_imagenet grouping=cats_vs_dogs --test_dir=...`, with the network
loaded once.
"""

import sys
from collections.abc import Sequence

from cifar10.cli.checks import note_place, require_grouping, require_pretrained
from cifar10.cli.command_line import main
from cifar10.config.changeable import require_network_settings
from cifar10.errors import UsageError

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


def web(*overrides: str) -> int:
    """Serve the web page, with *Cats and dogs* first, and return the exit code."""
    note_place()
    require_network_settings(overrides)
    groupings = [override for override in overrides if override.startswith("grouping")]
    model = tuple(override for override in overrides if override not in groupings)
    require_grouping(groupings)
    require_pretrained(model, checkpoint_name=None)
    if any(override.startswith("grouping.") for override in groupings):
        raise UsageError("grouping.threshold: for the page, set it in a file: grouping=FILE.yaml")
    from cifar10.app import app
    from cifar10.serving.web.settings import WebSettings

    defaults = WebSettings()
    chosen = groupings[0].partition("=")[2] if groupings else defaults.cats_grouping
    return app(WebSettings(page="cats_and_dogs", cats_model=model or defaults.cats_model, cats_grouping=chosen))


def start(words: Sequence[str]) -> int:
    """Return the exit code."""
    command, words = ("web", [word for word in words if word != "--web"]) if "--web" in words else ("ask", words)
    if any(word.startswith("-") or "=" not in word for word in words):
        print(__doc__, file=sys.stdout if "--help" in words else sys.stderr)
        return 0 if "--help" in words else 2
    return main({"ask": ask, "web": web}, description="", words=[command, *words])


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
