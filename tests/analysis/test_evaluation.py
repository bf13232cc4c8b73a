"""The numbers of an evaluation are those of scikit-learn, to the last digit; and the report holds them."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, log_loss, top_k_accuracy_score

from cifar10.analysis.calibration import negative_log_likelihood
from cifar10.analysis.evaluation import Accuracy, Answers, Evaluation, WorstErrors, averages, calibrate
from cifar10.analysis.evaluation_report import make_report
from cifar10.analysis.honest import Findings, honest_scores


def answers(number: int = 2000, classes: int = 12, seed: int = 0, tta: bool = True) -> Answers:
    """Return answers for random labels, which are often right; the last class has no image."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - 1, number)
    logits = random.standard_normal((number, classes)) + 2 * np.eye(classes)[labels]
    plain, augmented = (softmax(each) for each in (logits, logits + 0.3 * random.standard_normal(logits.shape)))
    return Answers(plain, augmented if tta else plain, labels, tuple(f"class {number}" for number in range(classes)))


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 12, 100])
@pytest.mark.parametrize("number", [1, 3, 2000])
def test_scores_are_scikit_learn_s_to_the_last_digit(classes: int, number: int) -> None:
    found = answers(number, classes)
    report = classification_report(found.labels, found.predicted, output_dict=True, zero_division=0.0)
    present = np.unique([found.labels, found.predicted])
    scores = {score.name: score for score in found.score.classes}
    assert list(scores) == [found.class_names[label] for label in present]
    for label in present:
        expected, score = report[str(label)], scores[found.class_names[label]]
        assert (score.precision or 0, score.recall or 0) == (expected["precision"], expected["recall"])
        assert (score.f1 or 0, score.support) == (expected["f1-score"], expected["support"])
    for name, is_weighted in (("macro avg", False), ("weighted avg", True)):
        mean = averages(found.score.classes, is_weighted)
        expected = report[name]
        assert (mean.precision, mean.recall) == (expected["precision"], expected["recall"])
        assert mean.f1 == expected["f1-score"]
    every = list(range(classes))
    matrix = confusion_matrix(found.labels, found.predicted, labels=every)
    np.testing.assert_array_equal(found.score.confusion, matrix)
    assert Accuracy.of(found.augmented, found.labels).value == accuracy_score(found.labels, found.predicted)
    if classes > 5:
        top = top_k_accuracy_score(found.labels, found.augmented, k=5, labels=every)
        assert Accuracy.of(found.augmented, found.labels, 5).value == top
    exact = found.plain / found.plain.sum(axis=1, keepdims=True, dtype=np.float64)
    loss = log_loss(found.labels, exact, labels=every)
    assert negative_log_likelihood(found.plain, found.labels) == pytest.approx(loss, rel=1e-6)  # it normalises rows


def test_of_equal_probabilities_the_lower_id_counts_as_the_answer() -> None:
    equal = np.full((3, 4), 0.25)
    labels = np.array([0, 1, 3])
    assert [Accuracy.of(equal, labels, top).correct for top in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert Answers(equal, equal, labels, ("a", "b", "c", "d")).score.correct == 1


def test_the_worst_errors_are_the_surest_wrong_answers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    found = Answers(probabilities, probabilities, np.array([0, 0, 1, 0]), ("a", "b"))
    assert found.worst(10).tolist() == [1, 3, 2] and found.worst(2).tolist() == [1, 3]


def test_the_temperature_is_fitted_on_validation_images_and_else_in_halves_and_never_on_training_images() -> None:
    own, held_out = answers(seed=1), answers(500, seed=2)
    fitted = calibrate(own, held_out, own, "test").temperature
    assert fitted is not None and (fitted.fitted_on, fitted.num_images, fitted.is_cross_fitted) == ("val", 500, False)
    halves = calibrate(own, None, own, "test")
    assert halves.temperature is not None and halves.temperature.is_cross_fitted
    assert halves.temperature.fitted_on == "test" and halves.temperature.num_images == 2000
    assert halves.temperature_on_training == pytest.approx(halves.temperature.value)
    assert calibrate(own, None, None, "train").temperature is None
    assert calibrate(answers(1), None, None, "test").temperature is None


def evaluation(own: Answers, trained: Answers | None = None, **others: Any) -> Evaluation:
    positions = own.worst(3)
    values: dict[str, Any] = {
        "name": "first",
        "split": "test",
        "tta": "mirror",
        "trained": trained,
        "num_trained": 9000,
        "calibration": calibrate(own, None, trained, "test"),
        "errors": WorstErrors(positions, np.zeros((len(positions), 8, 8, 3), np.uint8), None),
        "corruptions": {},
        "honest": (),
        "people": None,
        "origin": [("machine", "here")],
    }
    return Evaluation(answers=own, **values | others)


def test_the_page_shows_the_numbers_and_names_cannot_become_markup() -> None:
    own = answers()
    own = Answers(own.plain, own.augmented, own.labels, ("<b>bold</b>", "名前", "tab\there", *own.class_names[3:]))
    corrupted = {"fog": [0.5, 0.4, 0.3, 0.2, 0.1], "snow": [0.6] * 5}
    findings = Findings(np.arange(2000) < 10, np.arange(2000) >= 1990, None)
    scores = honest_scores(own.augmented, own.labels, findings)
    found = evaluation(own, answers(3000, seed=5), corruptions=corrupted, honest=scores)
    page = make_report(found).html()
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "tab\\there" in page
    accuracy = Accuracy.of(own.augmented, own.labels)
    for text in (f"{accuracy.value:.2%}", "3,000 of 9,000", "mean corruption error", "55.00%", "Honest accuracy"):
        assert text in page
    assert 'src="http' not in page and 'href="http' not in page
    numbers = json.loads(json.dumps(found.numbers()))
    assert numbers["corruption_error"] == pytest.approx(0.55)
    assert numbers["accuracy"]["tta"]["value"] == accuracy.value
    assert numbers["accuracy"]["tta"]["interval"] == list(accuracy.interval)
    assert len(numbers["classes"]) == 12 and numbers["train"]["num_images"] == 3000
    assert [score["num_images"] for score in numbers["honest"]] == [2000, 1990, 1990, 1980, 10, 10]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "classes"), [(1, 2), (5, 2), (300, 100)])
def test_few_images_and_many_classes_have_a_page(number: int, classes: int) -> None:
    own = answers(number, classes, tta=False)
    page = make_report(evaluation(own, answers(1, classes), tta="none")).html()
    assert f"{number:,} test image" in page and "with TTA" not in page
    assert ("one image is too few" in page) == (number == 1)


def test_answers_that_are_all_right_have_a_page() -> None:
    own = Answers(np.eye(3), np.eye(3), np.arange(3), ("a", "b", "c"))
    page = make_report(evaluation(own)).html()
    assert "No answer is wrong." in page and "100.00%" in page


@pytest.mark.parametrize(
    ("number", "confidence", "words"),
    [
        (3, 0.75, "no difference beyond chance, since the accuracy has the 95 % interval 43.85% to 100.00%"),
        (300, 0.75, "the network is more cautious than it needs to be"),
        (300, 0.9999, "no difference beyond chance"),
    ],
)
def test_a_network_is_called_too_cautious_beyond_chance_only(number: int, confidence: float, words: str) -> None:
    probabilities = np.tile([confidence, 1 - confidence], (number, 1))
    own = Answers(probabilities, probabilities, np.zeros(number, np.int64), ("a", "b"))
    page = make_report(evaluation(own)).html()
    assert words in page and ("They are too few to rely on it" in page) == (number < 100)


def test_a_network_that_is_often_surely_wrong_is_too_sure_of_itself() -> None:
    probabilities = np.tile([0.9, 0.1], (300, 1))
    own = Answers(probabilities, probabilities, np.arange(300) % 2, ("a", "b"))
    assert "the network is too sure of itself" in make_report(evaluation(own)).html()
