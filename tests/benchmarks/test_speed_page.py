"""The page about speed is true: its chart is current, its claims are measured, and every result is linked."""

import itertools
import json
import re
import runpy
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from tests.documented import DOCS, ROOT

BENCHMARKS = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *DOCS.glob("*.md"), *BENCHMARKS.glob("*.md")]


def test_the_picture_of_speed_shows_the_newest_results() -> None:
    svg = (DOCS / "speed.svg").read_text()
    ways = runpy.run_path(str(DOCS / "draw_speed.py"))["find_ways"]()
    assert any(way.is_ours for way in ways)
    for line in (line for way in ways for line in way.label().splitlines()):
        assert f"<!-- {line} -->" in svg, "draw it anew: python docs/draw_speed.py"


@pytest.mark.parametrize("days", [("21", "22"), ("22", "21")])
def test_the_picture_of_speed_takes_what_was_measured_before_what_was_projected(
    days: tuple[str, str], tmp_path: Path
) -> None:
    find_ways = runpy.run_path(str(DOCS / "draw_speed.py"))["find_ways"]
    machine = {"cpu": "a processor", "cores": 2, "gpu": None, "flags": ["avx2"]}
    scores = {"accuracy": 0.93, "accuracy_tta": 0.94}
    run = {"data_name": "cifar10", "wall_seconds": 60, "test/accuracy": 0.9, "test/accuracy_tta": 0.95}
    race = {"experiment": "fast", "overrides": [], "runs": [run | {"machine": machine}], "machine": machine}
    race |= {"port_whole_run": scores, "wall_seconds": {"port fp32": [900], "port bf16": [600], "ours": [60]}}
    (tmp_path / f"race_cpu_2026-11-{days[0]}.json").write_text(json.dumps(race))
    assert [(way.minutes, way.is_projected) for way in find_ways(tmp_path)] == [(1, False), (10, True)]
    whole = {"train_images": 50_000, "test_images": 10_000, "wall": 1200, "machine": machine, **scores}
    (tmp_path / f"plain_port_2026-11-{days[1]}.json").write_text(json.dumps(whole))
    assert [(way.minutes, way.is_projected) for way in find_ways(tmp_path)] == [(1, False), (20, False)]


def test_the_picture_of_speed_takes_the_usual_accuracy_from_its_newest_whole_run(tmp_path: Path) -> None:
    find_ways = runpy.run_path(str(DOCS / "draw_speed.py"))["find_ways"]
    machine = {"cpu": "a processor", "cores": 2, "gpu": None, "flags": ["avx2"]}
    rates = {"made": "2026-11-21", "machine": machine, "seconds_to_target": {"usual": [600], "ours": [60]}}
    (tmp_path / "usual_pipeline_a.json").write_text(json.dumps(rates))
    [way] = find_ways(tmp_path)
    assert (way.minutes, way.accuracies, way.is_projected) == (10, [94.0], True)
    for day, accuracy, epochs in (("2026-11-23", 0.875, 30), ("2026-11-22", 0.5, 30), ("2026-11-24", 0.25, 1)):
        whole = {"made": day, "machine": machine, "accuracy": accuracy, "epochs": epochs, "seconds": 6000}
        (tmp_path / f"usual_pipeline_full_{day}.json").write_text(json.dumps(whole))
    [way] = find_ways(tmp_path)
    assert (way.minutes, way.accuracies, way.is_projected) == (10, [87.5], True)


def test_labels_of_the_picture_of_speed_keep_out_of_each_others_place() -> None:
    drawing = runpy.run_path(str(DOCS / "draw_speed.py"))
    ways = [drawing["Way"](f"way {minutes}", "here", minutes, [94.0], 93.0, True, False) for minutes in (5.0, 5.5, 6.0)]
    [axes] = drawing["draw"](ways).axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(ways)
    assert not any(box.overlaps(other) for box, other in itertools.combinations(boxes, 2))


def tables() -> list[list[list[str]]]:
    """Return the tables of claims in `speed.md`: the cells claim, ratio, machine and file of each row."""
    texts = [text.splitlines()[2:] for text in (DOCS / "speed.md").read_text().split("| claim |")[1:]]
    tables = [itertools.takewhile(lambda row: row.startswith("|"), rows) for rows in texts]
    return [[row.strip("| ").split(" | ") for row in rows] for rows in tables]


def linked_files(page: Path) -> set[Path]:
    """Return the files below `benchmarks/` to which a page links."""
    links = [page.parent / link for link in re.findall(r"\]\(([^):#]+)\)", page.read_text())]
    return {link.resolve() for link in links if BENCHMARKS in link.resolve().parents}


@pytest.mark.parametrize("cells", [row for table in tables() for row in table], ids=lambda cells: " ".join(cells[::2]))
def test_each_figure_of_a_claim_stands_in_the_file_that_it_names(cells: list[str]) -> None:
    claim, ratio, _, link = cells
    result = (DOCS / link.partition("](")[2].rstrip(")")).read_text()
    measured = [Decimal(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*\.\d+", result)]
    figures = [Decimal(figure.replace("−", "-")) for figure in re.findall(r"[-−]?\d+\.\d+", f"{claim} {ratio}")]
    assert len(figures) >= 3, "a ratio and its range"
    for figure in figures:
        assert any(number.quantize(figure, ROUND_HALF_UP) == figure for number in measured), figure


def test_each_table_of_claims_fits_a_screen() -> None:
    assert [5 <= len(table) <= 15 for table in tables()] == [True, True, True, True]


def test_each_result_is_linked_and_each_link_to_one_works() -> None:
    results = set((BENCHMARKS / "results").glob("*.md"))
    linked = {file for page in [*PAGES, *results] for file in linked_files(page)}
    assert [file.name for file in linked if not file.exists()] == []
    assert results - {file for page in PAGES for file in linked_files(page)} == set()
    assert {file.stem for file in (BENCHMARKS / "results").glob("*.json")} <= {file.stem for file in results}
