"""Names of folders -> class ids: how images say which class they belong to."""

from collections.abc import Sequence
from pathlib import PurePath

from cifar10.constants import CLASS_ALIASES


class ClassFolders:
    """Knows which folder names mean which class: exactly, but for case, space, - and _, or by an alias (plane, car).

    Args:
        class_names: In the order of their ids.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._exact = {name: class_id for class_id, name in enumerate(class_names)}
        plain = [_plain(name) for name in class_names]
        self._plain = {name: class_id for class_id, name in enumerate(plain) if plain.count(name) == 1}
        for names in _synonyms():
            known = {self._plain[name] for name in names if name in self._plain}
            if len(known) == 1:
                self._plain |= dict.fromkeys(names, known.pop())

    def find(self, folder_name: str) -> int | None:
        """Return the id of the class that `folder_name` means, or None."""
        return self._exact.get(folder_name, self._plain.get(_plain(folder_name)))

    def label(self, relative: PurePath) -> int | None:
        """Return the class that the folder of a file says, the nearest folder first; None if none says anything."""
        found = (self.find(folder.name) for folder in relative.parents)
        return next((class_id for class_id in found if class_id is not None), None)


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _synonyms() -> list[set[str]]:
    groups: dict[str, set[str]] = {}
    for alias, published in CLASS_ALIASES.items():
        groups.setdefault(published, {published}).add(alias)
    return list(groups.values())
