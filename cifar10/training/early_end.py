"""End a run early: close its record, and print what was saved and how to resume."""

import sys
from pathlib import Path

from cifar10.config.advice import command_line, setting
from cifar10.config.schema import Config, TrackingConfig
from cifar10.model import DivergedError
from cifar10.runs.checkpoint_names import LAST
from cifar10.runs.known_stores import unknown_settings
from cifar10.runs.run import Run
from cifar10.system.shortage import PeerGoneError
from cifar10.system.signals import Stopped
from cifar10.training.interruption import Interrupted


def close_early(run: Run, config: Config, error: BaseException) -> None:
    """Close the record of a run that `error` ends, and say what is kept: only here it is known."""
    run.close("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
    is_saved = (run.folder / LAST).exists()
    if isinstance(error, Stopped):
        saved_at = error.saved_at if isinstance(error, Interrupted) else None
        error.kept = error.kept or what_is_kept(run.folder, config.tracking, saved_at)
    elif isinstance(error, DivergedError):
        rate = config.optimizer.arguments.get("lr")
        _say(f"training stopped; lower optimizer.lr (now {rate}), or set training.gradient_clip=1")
        _say(f"the state before it is kept: {run.folder / LAST}" if is_saved else "nothing was saved before")
    elif is_saved and not isinstance(error, PeerGoneError):  # whose own text says it
        _say(f"go on with: {going_on_line(run.folder, config.tracking)}")


def what_is_kept(folder: Path, tracking: TrackingConfig, saved_at: Path | None = None) -> str:
    """Return the end of the line that says what has stopped the run; `saved_at` if its last step was saved there."""
    if not (folder / LAST).exists():
        return "before anything was saved; there is nothing to go on with"
    when = f"and saved at {saved_at}" if saved_at else "after the last save"
    return f"{when}; go on with: {going_on_line(folder, tracking)}"


def going_on_line(folder: Path, tracking: TrackingConfig) -> str:
    """Return the line to type to go on with the run, recorded where it is recorded."""
    unknown = {} if tracking.backend == "none" else unknown_settings(tracking)
    words = [setting(key, value) for key, value in unknown.items()]
    return command_line("train", *words, resume=folder.name, models_dir=str(folder.parent))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
