"""The settings of `promote` come from a file and overrides, and each mistake names its key."""

import itertools
from pathlib import Path

import pytest

from cifar10.config.promotion import Promotion, read_promotion
from cifar10.errors import UsageError


def test_the_file_holds_every_setting_and_an_override_changes_one() -> None:
    default = read_promotion([])
    assert default == Promotion(latency_factor=1.5, latency_images=200, floor=None)
    changed = read_promotion(["promotion.latency_factor=2", "promotion.floor=0.9"])
    assert changed == default.model_copy(update={"latency_factor": 2.0, "floor": 0.9})
    assert read_promotion(["promotion=default", "promotion.floor=null"]) == default


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["promotion.latency_facter=2"],
            "promotion.latency_facter: there is no such setting; did you mean",
        ),
        (["promotion.latency_factor=fast"], "promotion.latency_factor: must be a number, not"),
        (["promotion.latency_factor=0"], "promotion.latency_factor: must be greater than 0"),
        (["promotion.floor=1"], "promotion.floor: must be less than 1"),
        (["promotion.floor=0.1,0.2"], "promotion.floor: several values are given"),
        (["promotion=defalt"], "promotion=defalt: there is no such file of settings; did you mean default?"),
        (["promotion=default", "promotion=default"], "choose one"),
        (["promotion=absent.yaml"], "promotion: absent.yaml cannot be read"),
    ],
)
def test_mistakes_name_the_setting(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_promotion(words)
    assert message in str(refused.value)


def test_a_file_that_would_unfold_to_any_size_is_refused(tmp_path: Path) -> None:
    levels = [f"{name}: &{name} [{','.join(['*' + before] * 10)}]" for before, name in itertools.pairwise("abcdefghi")]
    (tmp_path / "p.yaml").write_text("\n".join(["a: &a [x, x]", *levels]))
    with pytest.raises(UsageError, match="values refer to others"):
        read_promotion([f"promotion={tmp_path / 'p.yaml'}"])
