"""The race against record scripts: recipes without Hydra, one clock for all, and a ratio that says how sure it is."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_race import parse_arguments, race, ratio_with_interval
from race_clock import Stopwatch
from recipe_files import load_recipe
from record_scripts import accuracy_in, split_at_loop

from cifar10.config.compose import load_config
from cifar10.data.shapes import shapes

RECORD = """
import torch, sys
with open(sys.argv[0]) as file:
    assert "the text of the script" in file.read()

def main(run, model):
    data = torch.load("cifar10/train.pt", weights_only=True)
    assert data["images"].shape[3] == 3 and len(data["labels"]) == len(data["images"])
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    accuracy = float((data["labels"] == model).float().mean()) + 0 * (run == "warmup")
    end.record()
    start.elapsed_time(end)
    return accuracy

if __name__ == "__main__":
    model = 3
    print("a line that is no answer")
    main("warmup", model)
    accuracies = torch.tensor([main(run, model) for run in range(200)])
    raise SystemExit("the loop must not be reached")
"""
LOOPED = """
from math import ceil
def main(run, model):
    return 0.1 * run, 0.2 * run, model
if __name__ == "__main__":
    model = 5
    results = []
    for run in range(200):
        first, second, third = main(run + 1, model)
        results.append(second)
"""
IN_A_FUNCTION = """
import torch
def train_once(name, seed, model):
    return 0.5, 1.0
def main():
    runs = 30
    model = 7
    train_once("warmup", 1, model)
    values = []
    for run in range(runs):
        torch.cuda.synchronize()
        value, seconds = train_once(run + 1, 100 + run, model)
        values.append(value)
        print(f"after {run + 1} runs: {sum(values)}")
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("experiment", [None, "fast", "speedrun", "speedrun_gpu", "teaching", "demo"])
def test_recipes_read_without_hydra_are_those_that_hydra_composes(experiment: str | None) -> None:
    read = load_recipe(experiment, ["training.epochs=3", "evaluation.tta=mirror"])
    words = [f"experiment={experiment}"] if experiment else []
    composed = load_config([*words, "training.epochs=3", "evaluation.tta=mirror"]).plain()
    assert set(read) == set(composed) - {"tracking"}
    for key, value in read.items():
        if isinstance(value, dict) and "_target_" in value:  # load_config fills in the defaults of signatures
            assert value.items() <= composed[key].items()
        else:
            assert value == composed[key], key


def test_a_constant_ratio_is_found_and_is_sure() -> None:
    theirs = [2.0, 3.0, 5.0]
    assert ratio_with_interval([0.9 * value for value in theirs], theirs) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        ours, theirs = (random.lognormal(mean, 0.05, 50).tolist() for mean in (np.log(0.8), 0.0))
        _, low, high = ratio_with_interval(ours, theirs, samples=500)
        hits += low < 0.8 < high
    assert 0.88 < hits / 200 < 0.99


def test_the_loop_over_runs_is_left_out_and_its_call_is_kept() -> None:
    calls = {RECORD: "main(run, model)", LOOPED: "main(run + 1, model)"}
    calls[IN_A_FUNCTION] = "train_once(run + 1, 100 + run, model)"
    for text, expected in calls.items():
        before, call, counter = split_at_loop(text)
        assert (counter, ast_text(call)) == ("run", expected)
        statements = [ast_text(node) for node in before.body]
        assert any(statement.startswith("model =") for statement in statements)
        assert not any("range(" in statement for statement in statements if not statement.startswith("def"))
        assert text != RECORD or "Stopwatch(enable_timing=True)" in ast_text(before)


def ast_text(tree: Any) -> str:
    return ast.unparse(tree)


@pytest.mark.parametrize("text", ["x = 1", "if __name__ == '__main__':\n    main(0)"])
def test_a_script_without_a_loop_over_runs_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the script has no"):
        split_at_loop(text)


def test_a_result_may_be_one_accuracy_or_plain_and_augmented() -> None:
    assert accuracy_in(0.94, plain=False) == 0.94
    assert accuracy_in((0.93, 0.94, 2.0), plain=False) == 0.94
    assert accuracy_in((0.93, 0.94, 2.0), plain=True) == 0.93


def test_the_stopwatch_adds_up_what_is_measured() -> None:
    Stopwatch.total_ms = 0.0
    start, end = Stopwatch(), Stopwatch()
    start.record()
    end.record()
    once = start.elapsed_time(end)
    assert once >= 0
    start.elapsed_time(end)
    assert Stopwatch.total_ms == pytest.approx(2 * once)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_works_instead(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--root", "data"])
    assert "finds no GPU here; --device cpu --tiny --compile none" in capsys.readouterr().err


def test_a_record_that_is_not_there_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--root", "data", "--record", "airbench=/no/such/script.py"])
    assert "is not NAME=PATH with a script at PATH" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tta", ["mirror_translate", "mirror_translate_selective"])
def test_a_tiny_race_goes_all_the_way(tta: str, tmp_path: Path) -> None:
    script = tmp_path / "record.py"
    script.write_text("# the text of the script\n" + RECORD)
    data = shapes(image_size=16, train_size=60, validation_size=0, test_size=30)
    content = {
        "train_images": data.train.images,
        "train_labels": data.train.labels,
        "test_images": data.test.images,
        "test_labels": data.test.labels,
        "class_names": list(data.class_names),
    }
    torch.save(content, tmp_path / "data.pt")
    small = ["model.widths=[4,8,8]", "training.epochs=2", "training.batch_size=20", "evaluation.batch_size=8"]
    recipe = load_recipe(None, [*small, f"evaluation.tta={tta}", "evaluation.tta_confidence=0.5"])
    common = {"device": "cpu", "plain": False, "data": str(tmp_path / "data.pt")}
    ours = {**common, "recipe": recipe, "compile": None}
    results = race({"ours": ours, "record": {**common, "record": str(script)}}, runs=2)
    share = float((data.train.labels == 3).double().mean())
    assert results["record"]["accuracy"] == pytest.approx([share, share])
    assert all(0 <= accuracy <= 1 for accuracy in results["ours"]["accuracy"])
    assert all(len(figures["seconds"]) == 2 and min(figures["seconds"]) > 0 for figures in results.values())
