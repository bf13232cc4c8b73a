"""Map folder names to class ids."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from cifar10.constants import CLASS_ALIASES

_MOST_NAMED = 3  # names in a message


class ClassFolders:
    """Maps folder names to class ids: exactly, or ignoring case, space, - and _, or by an alias (plane, car).

    Names are compared in Unicode's composed form (NFC), since macOS decomposes characters with accents.

    Args:
        class_names: In the order of their ids.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._exact = {nfc(name): class_id for class_id, name in enumerate(class_names)}
        plain = [_plain(name) for name in class_names]
        occurrences = Counter(plain)
        self._plain = {name: class_id for class_id, name in enumerate(plain) if occurrences[name] == 1}
        for published in set(CLASS_ALIASES.values()):
            names = [published, *(alias for alias, meant in CLASS_ALIASES.items() if meant == published)]
            known = {self._plain[name] for name in names if name in self._plain}
            if len(known) == 1:
                self._plain |= dict.fromkeys(names, known.pop())

    def alike(self) -> list[list[str]]:
        """Return groups of names that differ only in case, space, - and _."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for name in self._exact:
            kinds[_plain(name)].append(name)
        return [names for names in kinds.values() if len(names) > 1]

    def find(self, folder_name: str) -> int | None:
        """Return the class id for `folder_name`, or None."""
        return self._exact.get(nfc(folder_name), self._plain.get(_plain(folder_name)))

    def label(self, relative: PurePath) -> int | None:
        """Return the class id of the outermost folder of `relative` that is a class folder; None if none is.

        Class folders are read in the same way: deeper folders belong to the class.
        """
        found = (self.find(folder.name) for folder in reversed(relative.parents))
        return next((class_id for class_id in found if class_id is not None), None)


def nfc(name: str) -> str:
    """Return `name` in Unicode's composed form (NFC): equal for names that look alike on every system."""
    return unicodedata.normalize("NFC", name)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names of classes in the order of their ids: by number if all are whole numbers, else by character."""
    names = sorted(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        names.sort(key=int)
    return names


def printable(name: str) -> str:
    """Return `name` as part of a line of UTF-8: control characters and bytes that are not UTF-8 are escaped."""
    return "".join(character if character.isprintable() else _escaped(character) for character in name)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # Python's form of a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def few(names: Sequence[str]) -> str:
    """Return the first three names in one line, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more


def is_utf8(name: str) -> bool:
    """Return whether `name` can be encoded in UTF-8: not if a file name has bytes in another encoding."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _plain(name: str) -> str:
    return nfc(name).strip().casefold().replace(" ", "_").replace("-", "_")
