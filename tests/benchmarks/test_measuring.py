"""What the benchmarks share: turns, ratios, and results that are never overwritten."""

from pathlib import Path

import measuring
import pytest
from measuring import in_turn, ratio, result_path


def test_each_round_begins_with_another_way() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = in_turn({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert figures == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_ratio_compares_within_each_round() -> None:
    # The machine was half as fast in the second round: medians of all would tell of a difference that there is not.
    assert ratio([2.0, 4.0, 3.0], [1.0, 2.0, 1.0]) == "2.000 (2.000 to 3.000)"


def test_a_result_takes_a_name_that_no_other_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    computer = {"cpu": "Some (R) CPU", "gpu": None, "cores": 2}
    for name in ("a_some-r-cpu-2-cores_2026-01-01.md", "a_some-r-cpu-2-cores_2026-01-01-2.md"):
        path = result_path("a", computer, "2026-01-01T12:00:00Z")
        assert path.name == name
        path.touch()


def test_a_result_says_what_the_host_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {
        "command": "x",
        "git_commit": "abc",
        "git_dirty": False,
        "machine": {"cpu": "CPU", "cores": 2, "gpu": None, "flags": []},
        "versions": {},
    }
    times = tmp_path / "stat"
    times.write_text("cpu  160 0 10 10 0 0 0 20 0 0\n")
    monkeypatch.setattr(measuring, "_PROCESSOR_TIMES", times)
    monkeypatch.setattr(measuring, "_AT_START", [80, 0, 10, 0, 0, 0, 0, 10])
    assert "The host kept 10.0% of the processors' time" in "\n".join(measuring.origin(place))
