"""Texts in several languages."""

import re
import string

import pytest

from cifar10.serving.web.language import LANGUAGES, language, preferred


@pytest.mark.parametrize("code", LANGUAGES)
def test_all_languages_have_the_same_texts_with_the_same_values(code: str) -> None:
    english, other = language("en"), language(code)
    assert english.texts.keys() == other.texts.keys() and english.classes.keys() == other.classes.keys()

    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, text in english.texts.items():
        assert text.strip() and other.texts[key].strip(), key
        assert fields(text) == fields(other.texts[key]), key


def test_russian_texts_are_russian() -> None:
    latin = {key for key, text in language("ru").texts.items() if not re.search("[а-яё]", text, re.IGNORECASE)}
    assert latin <= {
        "model.f1",
        "classify.address_hint",
        "classify.file_name",
        "cats.folder_hint",
        "cats.file_name",
        "result.answer",
        "reasons.other",
        "data.caption_wrong",
    }


@pytest.mark.parametrize(
    ("locale", "code"), [("ru-RU", "ru"), ("ru", "ru"), ("RU_ru", "ru"), ("en-GB", "en"), ("fr", "en"), (None, "en")]
)
def test_the_language_follows_the_browser(locale: str | None, code: str) -> None:
    assert preferred(locale) == code


def test_numbers_are_written_as_in_the_language() -> None:
    assert language("en").percent(0.1234) == "12.3%" and language("en").number(10000) == "10,000"
    assert language("ru").percent(0.1234) == "12,3\u00a0%" and language("ru").number(10000) == "10\u00a0000"


def test_a_class_that_has_no_translation_is_readable() -> None:
    assert language("ru").class_name("great_white_shark\x1b") == "great white shark\\x1b"
    assert language("ru").class_name("airplane") == "самолёт"


def test_a_class_name_means_nothing_as_markdown() -> None:
    assert language("en").class_markdown("*cat* [dog](x) :red") == r"\*cat\* \[dog\](x) \:red"
    assert language("ru").class_markdown("cat") == language("ru").class_name("cat")
