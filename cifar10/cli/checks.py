"""Checks of arguments that need no heavy imports: above all, files that do not exist."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar10.cli.flags import shortened
from cifar10.config.advice import command_line
from cifar10.config.changeable import is_resumable
from cifar10.config.conf_folder import PROJECT, options, top_settings
from cifar10.errors import CheckpointError, UsageError, UserError
from cifar10.images.other_formats import kind_of_collection, kind_of_name
from cifar10.images.search import ImageSearch, no_images
from cifar10.runs.checkpoint_names import BEST, LAST, find_locally, which_run
from cifar10.suggest import did_you_mean, did_you_mean_path


def require_images(test_dir: str) -> ImageSearch:
    """Return the search for the images of a folder, file or glob; refuse one that is not there or holds no image."""
    is_glob = any(magic in test_dir for magic in "*?[")
    if not os.path.lexists(test_dir) and not is_glob:
        raise UsageError(f"--test_dir: there is no folder or file {test_dir}{did_you_mean_path(test_dir)}")
    if os.path.isfile(test_dir):
        _refuse_other_format(test_dir)
    try:
        search = ImageSearch(test_dir)
    except UserError as error:
        raise UsageError(f"--test_dir: {error}") from None
    if search.is_empty():
        nothing = f"nothing matches {test_dir}" if is_glob and not search.skipped else no_images(search)
        raise UsageError(f"--test_dir: {nothing}")
    return search


def _refuse_other_format(test_dir: str) -> None:
    """Refuse an archive of images, a list of their names, and a raw photo, of which only a thumbnail can be read."""
    if kind_of_name(test_dir) == "raw photo":
        raise UsageError(f"--test_dir: {test_dir} is a raw photo, which is not read; convert it to JPEG or PNG first")
    try:
        with open(test_dir, "rb") as file:
            start = file.read(4096)
    except OSError:  # the decoder gives the reason
        return
    if (kind := kind_of_collection(start)) is not None:
        raise UsageError(f"--test_dir: {test_dir} is {kind}")


def require_folder(output: str) -> None:
    """Refuse a name under which no folder can be or be made, and the folder of a run: it has a confusion.png."""
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output: {output} is a file; name a folder")
    if not path.exists() and not path.absolute().parent.is_dir():
        raise UsageError(f"--output: there is no folder {path.parent}; make it first")
    if any((path / name).exists() for name in (BEST, LAST, "scores.json")):
        again = f"{os.path.normpath(output)}-evaluation"
        raise UsageError(
            f"--output: {output} holds a run, which is kept as it is; name another folder, such as {again}"
        )


def require_checkpoint(name: str, models_dir: str = "models", prefer: str = BEST) -> Path | None:
    """Return the file that `name` means, None if only MLflow can tell; refuse a name that means nothing.

    Arguments as for `find_locally`.
    """
    try:
        return find_locally(name, models_dir, prefer)
    except CheckpointError as error:
        raise UsageError(str(error)) from None


def say_which_run(name: str) -> None:
    """Print to stderr which run `best` or `last` means, nothing for other names."""
    for line in which_run(name):
        print(line, file=sys.stderr, flush=True)


def pin_checkpoint(name: str) -> str:
    """Return the file that `best` or `last` means now, having said on stderr which run that is; other names unchanged.

    So what was said holds although a run may end while this one works.
    """
    say_which_run(name)
    return str(find_locally(name)) if name in ("best", "last") else name


def require_resumable(name: str, overrides: Sequence[str]) -> None:
    """Refuse a name that nothing bears, and settings that a run which has begun cannot take on; see RESUMABLE.

    `auto` takes every setting, since it may start the run, and needs the run's name.
    """
    settings = {override.lstrip("+~").partition("=")[0].strip(): override for override in overrides}
    if name == "auto":
        if "run_name" not in settings:
            again = command_line("train", *overrides, "run_name=NAME", resume="auto")
            raise UsageError(f"--resume=auto goes on with the run of a name, or starts it; say which: {again}")
        return
    refused = [override for key, override in settings.items() if not is_resumable(key)]
    if refused:
        kept = [override for override in overrides if override not in refused]
        anew = command_line("train", f"weights={name}", *overrides)
        raise UsageError(
            f"--resume goes on with the settings of the checkpoint; leave out {shlex.join(refused)}: "
            f"{command_line('train', *kept, resume=name)}\nor start a new run from its weights: {anew}"
        )
    require_checkpoint(name, _models_dir(settings.get("models_dir")), prefer=LAST)


def _models_dir(override: str | None) -> str:
    """Return the folder that `override` says, as Hydra and the shell's `~` have it; without one, that of `conf/`."""
    if override is None:
        return str(top_settings().get("models_dir", "models"))
    from cifar10.config.compose import ConfigError, compose_config  # which know quotes, `~` and interpolations

    composition = compose_config([override])
    if composition.problems:
        raise ConfigError([str(problem) for problem in composition.problems])
    return str(composition.values["models_dir"])


def note_place() -> None:
    """Say on stderr where files are looked for if the current folder is one within the project: most likely a slip.

    Raises:
        UsageError: see `require_place`.
    """
    here = require_place()
    if PROJECT in here.parents:
        project = shlex.quote(str(PROJECT))
        print(f"note: data, models and mlruns are those in {here}; for the project's: cd {project}", file=sys.stderr)


def require_place() -> Path:
    """Return the current folder.

    Raises:
        UsageError: It is no longer there, and neither Hydra nor MLflow can do without.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current folder cannot be used ({error.strerror}); cd to one that is there") from None


def require_formats(names: str) -> list[str]:
    """Return the names of files in the folder of `conf/` export, from A,B or all; refuse those that are not there."""
    known = options("export")
    chosen = known if names == "all" else [name.strip() for name in names.strip("[]()").split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            advice = did_you_mean(name, known) or f"; choose {', '.join(known)} or all"
            raise UsageError(f"--formats={shortened(names)}: there is no {shortened(name)}{advice}")
    return list(dict.fromkeys(chosen))


def require_device(device: str) -> None:
    """Refuse what is no device anywhere; whether this machine has it shows later."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        advice = did_you_mean({"gpu": "cuda"}.get(device, device), ["auto", "cpu", "cuda"])
        raise UsageError(f"--device={shortened(device)}: must be auto, cpu, cuda or cuda:N{advice}")
