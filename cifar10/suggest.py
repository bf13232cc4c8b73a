"""Suggestions for misspelt names: the most similar known name."""

import difflib
import os
from collections.abc import Iterable

_OTHER_NAMES = {
    "arch": "model",
    "bs": "batch_size",
    "ckpt": "checkpoint_name",
    "data": "data_loading",
    "dataset": "data_loading",
    "device": "accelerator",
    "gpu": "accelerator",
    "gpus": "devices",
    "learning_rate": "lr",
    "net": "model",
    "network": "model",
    "scheduler": "schedule",
    "wd": "weight_decay",
}
"""Name of a setting in other programs -> its name here."""
_LONGEST = 100  # characters; no name is longer, and a comparison takes quadratic time
_LIKENESS = 0.65  # difflib's ratio; two swapped letters of three, as in `cvs`, give 0.67


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, the first of several, or None if none is similar.

    Dotted names are also compared by their last part, so `epoch` finds `training.epochs`. Names from other programs and
    the start or a word of exactly one known name, are found too.
    """
    if len(name) > _LONGEST:
        return None
    candidates = list(dict.fromkeys(known))
    folded = _fold(name)
    elsewhere = _OTHER_NAMES.get(_last(folded), folded)
    for alike in (_same(folded, candidates), _same(elsewhere, candidates), _close(folded, candidates)):
        if alike:
            return alike
    return _part(folded, candidates)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or an empty string if no known name is similar."""
    alike = nearest(name, known)
    return f"; did you mean {alike}?" if alike else ""


def did_you_mean_path(path: str) -> str:
    """Return `; did you mean X?` with the most similar path in the same folder, or an empty string."""
    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        beside = os.listdir(folder or os.curdir) if name else []
    except (OSError, ValueError):  # ValueError: a null character
        return ""
    others = [os.path.join(folder, entry) for entry in beside if entry != name]
    return did_you_mean(os.path.join(folder, name), others)


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _same(name: str, candidates: list[str]) -> str | None:
    """Return the first candidate that differs in case or hyphens only, or has the same last part."""
    same = [known for known in candidates if _fold(known) == name]
    same += [known for known in candidates if _fold(_last(known)) == _last(name)]
    return same[0] if same else None


def _close(name: str, candidates: list[str]) -> str | None:
    whole = {_fold(known): known for known in reversed(candidates)}  # the first of equals stays
    last = {_fold(_last(known)): known for known in reversed(candidates)}
    for names, wanted in ((whole, name), (last, _last(name))):
        for match in difflib.get_close_matches(wanted, names, n=1, cutoff=_LIKENESS):
            return names[match]
    return None


def _part(name: str, candidates: list[str]) -> str | None:
    """Return the only candidate that begins with `name` or contains it as a word."""
    longer = [known for known in candidates if len(name) > 1 and _fold(known).startswith(name)]
    longer = longer or [known for known in candidates if name in _fold(_last(known)).split("_")]
    return longer[0] if len(longer) == 1 else None
