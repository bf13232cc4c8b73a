"""Checks of arguments that need no heavy imports, such as files that do not exist."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from cifar10.cli.flags import shortened
from cifar10.config.advice import command_line
from cifar10.config.changeable import is_place, is_resumable, refuse_other_settings
from cifar10.config.conf_folder import PROJECT, options, top_settings
from cifar10.errors import CheckpointError, UsageError, UserError
from cifar10.files import read_text
from cifar10.images.named_image import ImageSource
from cifar10.images.search import no_images
from cifar10.images.sources import STANDARD_INPUT, is_address, open_source
from cifar10.runs.checkpoint_names import BEST, LAST, find_locally, refuse_damaged, which_run
from cifar10.suggest import did_you_mean, did_you_mean_path
from cifar10.system.home import expanded

if TYPE_CHECKING:
    from cifar10.config.schema import Component
    from cifar10.images.parquet_images import ParquetImages
    from cifar10.inference.destination import Destination
    from cifar10.inference.grouping import Grouping
    from cifar10.inference.result_parts import PartFolder

MOST_RUNS = 50
"""That are compared at once."""


def require_images(test_dir: str, flag: str = "--test_dir") -> ImageSource:
    """Return the images of a folder, file, glob, archive, list or address; raise UsageError if there are none."""
    is_file = test_dir == STANDARD_INPUT or is_address(test_dir) or os.path.lexists(test_dir)
    if not is_file and not has_magic(test_dir):
        raise UsageError(f"{flag}: there is no folder or file {test_dir}{did_you_mean_path(test_dir)}")
    try:
        source = open_source(test_dir)
    except UserError as error:
        raise UsageError(f"{flag}: {error}") from None
    if source.is_empty():
        nothing = f"nothing matches {test_dir}" if has_magic(test_dir) and not source.skipped else _nothing(source)
        raise UsageError(f"{flag}: {nothing}")
    return source


def _nothing(source: ImageSource) -> str:
    return no_images(source.given, source.skipped, source.root)


def require_batch_images(test_dir: str) -> "ImageSource | ParquetImages":
    """Return the Parquet files or the images of a folder that `test_dir` names; raise UsageError if there are none."""
    from cifar10.images.parquet_images import find_parquet

    try:
        parquet = find_parquet(test_dir)
    except UserError as error:
        raise UsageError(f"--test_dir: {error}") from None
    if parquet is not None:
        return parquet
    source = require_images(test_dir)
    if test_dir == STANDARD_INPUT or is_address(test_dir) or not os.path.isdir(source.root):
        raise UsageError(f"--test_dir: batch reads folders and Parquet files; for {test_dir}, use infer")
    return source


def require_batch_destination(output: str, output_format: str | None, test_dir: str) -> "Destination | PartFolder":
    """Return the file or the new folder that `output` names; raise UsageError if it cannot be written or is read."""
    from cifar10.inference.destination import choose_destination, format_of
    from cifar10.inference.result_parts import PartFolder

    if output == "-":
        raise UsageError("--output=-: batch writes a file or a folder; for standard output, use infer")
    name, is_new = os.path.basename(output), format_of(output) is None and not os.path.lexists(output)
    if is_new and re.fullmatch(r".+\.[A-Za-z]\w{0,7}", name):
        raise UsageError(f"--output={output}: its suffix names no format; for a folder of that name, write {output}/")
    if os.path.isdir(output) or is_new:
        return PartFolder(Path(output), output_format or "parquet")  # type: ignore[arg-type]
    return choose_destination(output, output_format, [test_dir])


def require_ray(address: str | None) -> None:
    """Refuse to go on without Ray, or if no cluster listens at `address`."""
    from importlib.util import find_spec

    from cifar10.inference.ray_session import missing_ray, require_address

    if find_spec("ray") is None:
        raise missing_ray()
    if address is not None:
        require_address(address)


def require_file(name: str) -> None:
    """Refuse what is not a file with content."""
    try:
        if not os.path.isfile(name):
            there_is = "is a folder, a pipe or a device" if os.path.exists(name) else "is not there"
            raise UsageError(f"--file: {name} {there_is}; name a file{did_you_mean_path(name)}")
        with open(name, "rb") as file:
            if not file.read(1):
                raise UsageError(f"--file: {name} is empty")
    except OSError as error:
        raise UsageError(f"--file: {name} cannot be read: {error.strerror}") from None


def require_photo(photo: str) -> None:
    """Raise UsageError if `photo` is not a file."""
    if not os.path.isfile(photo):
        raise UsageError(f"--photo: there is no file {photo}{did_you_mean_path(photo)}")


def require_pretrained(overrides: Sequence[str], checkpoint_name: str | None) -> "Component | None":
    """Return the pretrained network that the overrides `model=` and `model.KEY=` choose; None if there are none.

    Raises:
        UsageError: It is not pretrained, its file of weights does not exist, or a checkpoint is given as well.
    """
    overrides = [override for override in overrides if not _is_of_grouping(override)]
    if not overrides:
        return None
    if checkpoint_name is not None:
        given = f"{shlex.join(overrides)} and --checkpoint_name={checkpoint_name}"
        raise UsageError(f"{given} are two networks; leave out one of them")
    from cifar10.config.pretrained_model import pretrained_model

    return pretrained_model(overrides)


def require_grouping(overrides: Sequence[str]) -> "Grouping | None":
    """Return the groups of classes that the overrides `grouping=` and `grouping.threshold=` choose, if any.

    Raises:
        UsageError: There is no such file, or it is not valid.
    """
    given = [override.partition("=")[::2] for override in overrides if _is_of_grouping(override)]
    chosen = dict(given)
    if not chosen:
        return None
    if len(given) > len(chosen):
        raise UsageError(f"{' and '.join('='.join(each) for each in given)}: choose one")
    unknown = sorted(chosen.keys() - {"grouping", "grouping.threshold"})
    if unknown or "grouping" not in chosen:
        advice = "choose a grouping with grouping=NAME or grouping=FILE.yaml; only grouping.threshold can be set in it"
        raise UsageError(f"{unknown[0] if unknown else 'grouping.threshold'}: {advice}")
    from cifar10.inference.grouping import read_grouping

    try:
        name = expanded(chosen["grouping"])
    except ValueError as error:
        raise UsageError(f"grouping: {error}") from None
    return read_grouping(name, chosen.get("grouping.threshold"))


def _is_of_grouping(override: str) -> bool:
    return override.partition("=")[0].partition(".")[0] == "grouping"


def require_folder(output: str, make_parents: bool = False) -> None:
    """Refuse `output` if it is a file, has no parent folder, or is the folder of a run, which has a confusion.png.

    Parents that are missing are no error if they will be made.
    """
    path = Path(output)
    refuse_file(output)
    if not make_parents and not path.exists() and not path.absolute().parent.is_dir():
        raise UsageError(f"--output: there is no folder {path.parent}; make it first")
    if any((path / name).exists() for name in (BEST, LAST, "scores.json")):
        again = f"{os.path.normpath(output)}-evaluation"
        raise UsageError(f"--output: {output} holds a run, which is not changed; name another folder, such as {again}")


def refuse_file(output: str) -> None:
    """Refuse `output` if it is there and no folder."""
    if os.path.lexists(output) and not os.path.isdir(output):
        raise UsageError(f"--output: {output} is a file; name a folder")


def require_checkpoint(name: str, models_dir: str = "models", prefer: str = BEST) -> Path | None:
    """Return the file that `name` refers to, None if it has to be looked up in MLflow; arguments of `find_locally`."""
    try:
        return find_locally(name, models_dir, prefer)
    except CheckpointError as error:
        raise UsageError(str(error)) from None


def require_runs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of runs among `words`, `best` and `last` as files, and the overrides of where their data are.

    Raises:
        UsageError: They are fewer than two or too many, one is not there, or one is named twice.
    """
    overrides = [word for word in words if "=" in word and not os.path.lexists(word)]
    refuse_other_settings(word.partition("=")[0] for word in overrides)
    names = [word for word in words if word not in overrides]
    if len(names) < 2:
        given = f"only {names[0]} is named" if names else "none is named"
        raise UsageError(f"compare needs two runs or more, and {given}: {command_line('compare', 'FIRST', 'SECOND')}")
    if len(names) > MOST_RUNS:
        raise UsageError(f"{len(names):,} runs are too many; compare at most {MOST_RUNS} of them")
    seen: dict[Path | str, str] = {}
    for name in names:
        file = require_checkpoint(name)
        key = file.resolve() if file is not None else name
        if key in seen:
            same = f"{name} is named twice" if seen[key] == name else f"{seen[key]} and {name} are the same run"
            raise UsageError(f"{same}; name each once")
        seen[key] = name
    return [pin_checkpoint(name) for name in names], overrides


def require_reproducible(name: str, overrides: Sequence[str]) -> None:
    """Refuse the name of no checkpoint, and settings that a reproduction does not take."""
    others = [word for word in overrides if not is_place(word.lstrip("+~").partition("=")[0])]
    if others:
        raise UsageError(
            f"{shlex.join(others)}: a reproduction takes its settings from the run; only places may be set: "
            "data_loading.root, models_dir, run_name, tracking"
        )
    require_checkpoint(name)


def require_begun(name: str, models_dir: str) -> None:
    """Refuse the name of no run in `models_dir`, as the value of --resume."""
    folder = Path(models_dir, name)
    if not any((folder / file).is_file() for file in (LAST, BEST)):
        raise UsageError(f"--resume={shortened(name)}: there is no run {folder}{did_you_mean_path(str(folder))}")


def pin_checkpoint(name: str) -> str:
    """Return the file that `best` or `last` refers to now, and print its run to stderr; other names are not changed.

    Raises:
        CheckpointError: That file is damaged, and there is another one.
    """
    if name not in ("best", "last"):
        return name
    for line in which_run(name):
        print(line, file=sys.stderr, flush=True)
    refuse_damaged(name)
    return str(find_locally(name))


def require_resumable(name: str, overrides: Sequence[str]) -> None:
    """Refuse the name of no checkpoint, and settings that cannot change when a run is resumed; see RESUMABLE.

    `auto` takes every setting, since it may start the run, and needs the run's name.
    """
    settings = {override.lstrip("+~").partition("=")[0].strip(): override for override in overrides}
    if name == "auto":
        if "run_name" not in settings:
            again = command_line("train", *overrides, "run_name=NAME", resume="auto")
            raise UsageError(f"--resume=auto resumes the run of that name, or starts it; add a name: {again}")
        return
    refused = [override for key, override in settings.items() if not is_resumable(key)]
    if refused:
        kept = [override for override in overrides if override not in refused]
        others = [override for key, override in settings.items() if key != "weights"]
        anew = command_line("train", f"weights={name}", *_data_and_network(name, settings), *others)
        raise UsageError(
            f"--resume takes its settings from the checkpoint; leave out {shlex.join(refused)}: "
            f"{command_line('train', *kept, resume=name)}\nor start a new run from its weights: {anew}"
        )
    values = top_settings()
    if overrides:
        from cifar10.config.compose import checked_changes

        values = checked_changes(overrides)
    require_checkpoint(name, str(values.get("models_dir", "models")), prefer=LAST)


def _data_and_network(name: str, settings: Mapping[str, str]) -> list[str]:
    """Return the overrides that choose the data set and the network of a run, if its folder has its configuration."""
    import yaml

    from cifar10.config.choices import same_data_and_network
    from cifar10.config.foreign_yaml import parse_yaml

    try:
        file = find_locally(name, prefer=LAST)
        values = parse_yaml(read_text(file.parent / "config.yaml")) if file else {}
    except (CheckpointError, OSError, ValueError, RecursionError, yaml.YAMLError):
        return []
    return same_data_and_network(values, settings) if isinstance(values, dict) else []


def note_place() -> None:
    """Print a note to stderr if the current folder is below the project's, which is likely a mistake."""
    here = require_place()
    if PROJECT in here.parents:
        project = shlex.quote(str(PROJECT))
        print(f"note: data, models and mlruns are those in {here}; for the project's: cd {project}", file=sys.stderr)


def require_place() -> Path:
    """Return the current folder, which Hydra and MLflow need; raise UsageError if it no longer exists."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current folder cannot be used ({error.strerror}); cd to one that is there") from None


def require_options(flag: str, group: str, names: str) -> list[str]:
    """Return the names of files in the folder `group` of `conf/`, from A,B or all; refuse those that are not there."""
    known = options(group)
    chosen = known if names == "all" else [name.strip() for name in names.strip("[]()").split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            advice = did_you_mean(name, known) or f"; choose {', '.join(known)} or all"
            raise UsageError(f"--{flag}={shortened(names)}: there is no {shortened(name)}{advice}")
    return list(dict.fromkeys(chosen))


def require_device(device: str) -> None:
    """Refuse what is not the name of a device; whether this machine has it is checked later."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        advice = did_you_mean({"gpu": "cuda"}.get(device, device), ["auto", "cpu", "cuda"])
        raise UsageError(f"--device={shortened(device)}: must be auto, cpu, cuda or cuda:N{advice}")
