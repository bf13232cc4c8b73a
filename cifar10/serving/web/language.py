"""Texts of the page in the languages of `languages/`: one YAML file each, all with the same keys."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cifar10.data.class_names import printable

LANGUAGES = {"en": "English", "ru": "Русский"}
"""Name of a file in `languages/` -> what its speakers call it."""
_FOLDER = Path(__file__).with_name("languages")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>$:~#|!]")
_NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Language:
    """The texts of one language, and how it writes numbers."""

    code: str
    texts: dict[str, str]
    """By their dotted keys; values have the form of `str.format`."""
    classes: dict[str, str]
    """Name of a class, as data sets publish it -> what a person reads."""

    def __call__(self, key: str, **values: Any) -> str:
        """Return the text of `key` with `values` in it."""
        return self.texts[key].format(**values)

    def class_name(self, name: str) -> str:
        """Return a class name to read; names that are not known are only made printable."""
        return self.classes.get(name, printable(name).replace("_", " "))

    def class_markdown(self, name: str) -> str:
        """Return `class_name` for texts that are drawn as Markdown: its characters mean nothing there."""
        return _MARKDOWN.sub(r"\\\g<0>", self.class_name(name))

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number with `digits` decimals."""
        text = f"{value:,.{digits}f}"
        return text.replace(",", _NO_BREAK).replace(".", ",") if self.code == "ru" else text

    def percent(self, fraction: float, digits: int = 1) -> str:
        """Return a fraction of 1 in percent."""
        return f"{self.number(100 * fraction, digits)}{_NO_BREAK if self.code == 'ru' else ''}%"


@cache
def language(code: str) -> Language:
    """Return the language of the file `code`.yaml."""
    content = yaml.safe_load((_FOLDER / f"{code}.yaml").read_text(encoding="utf-8"))
    classes = content.pop("classes")
    return Language(code, _flat(content), classes)


def preferred(locale: str | None) -> str:
    """Return the language of a browser's locale, such as ru-RU; English if it is not known."""
    code = (locale or "").replace("_", "-").partition("-")[0].lower()
    return code if code in LANGUAGES else "en"


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat
