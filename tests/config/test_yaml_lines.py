"""YAML on one line reads back to what it says, whatever the text holds."""

from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cifar10.config.yaml_lines import one_line, one_line_each
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.prepare_data import describe

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=100)
HARD = ["@a", "*a", "{b", "%x", "=", "!t", "'q", "<<", "2024-02-30", "yes", "null", "1e3", "- a", "? x", "a: b", "# x"]
HARD += ["", " ", "new\nline", "\x85", "\u2028", "\ufeff", "~", "x" * 250, "word " * 50, "кот", "\N{CAT}", '"', "a\\"]


def names_in_report(names: list[str]) -> list[str]:
    split = Split(torch.zeros(len(names), 3, 1, 1, dtype=torch.uint8), torch.arange(len(names)))
    return list(yaml.safe_load(describe(ImageDataset("odd", tuple(names), split, split, split)))["images_per_class"])


def test_hard_names_read_back_from_the_report() -> None:
    assert names_in_report(HARD) == HARD


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True))
def test_any_names_read_back_from_the_report(names: list[str]) -> None:
    assert names_in_report(names) == names


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_plain_value_is_one_line_that_reads_back(value: Any) -> None:
    text = one_line(value)
    assert "\n" not in text and yaml.safe_load(text) == value


@pytest.mark.parametrize("name", ["cat", "a b", "кот", "猫"])
def test_plain_names_stay_plain(name: str) -> None:
    assert one_line_each([name]) == [name]


def test_what_another_version_of_yaml_reads_as_a_number_is_quoted() -> None:
    assert one_line_each(["1e3", "7", "nan"]) == ['"1e3"', '"7"', '"nan"']
