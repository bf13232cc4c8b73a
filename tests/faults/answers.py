"""Clients of the HTTP service that ask all the time, and compare each answer with that of the model it names."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

import cifar10
from tests.malformed import encode
from tests.tiny_onnx import coloured

PICTURES = [encode(coloured(channel, 16), "PNG") for channel in range(3)]
_CLIENTS = 3
_PAUSE_SECONDS = 0.01
_AGREEMENT = 1e-4

Expected = dict[str, list[dict[str, float]]]
"""Version -> for each of `PICTURES`, the probability of each class."""


def probabilities_of(model: Path) -> list[dict[str, float]]:
    """Return the predictions of a model for the pictures, computed without a service."""
    predictor = cifar10.load(model)
    results = predictor.predict(PICTURES, top_k=predictor.num_classes)
    return [{one.class_name: one.probability for one in result.top} for result in results]


@dataclass
class Answers:
    """What clients got: threads that ask again and again, until the end of the block of `asking`."""

    expected: Expected
    statuses: Counter[int] = field(default_factory=Counter)
    """0: the connection was closed or refused."""
    versions: list[str] = field(default_factory=list)
    """In the order of the answers."""
    problems: list[str] = field(default_factory=list)

    def ask(self, url: str, position: int) -> None:
        """Send a picture, and compare the answer with that of the model that it names."""
        try:
            headers = {"Content-Type": "image/png"}
            answer = requests.post(f"{url}/predict?top_k=100", PICTURES[position], headers=headers, timeout=20)
        except requests.Timeout:
            self.problems.append("no answer within 20 s")
            return
        except requests.RequestException:
            self.statuses[0] += 1
            return
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self._compare(answer, position)
        elif answer.status_code != 503:
            self.problems.append(f"status {answer.status_code}: {answer.text[:200]}")

    def _compare(self, answer: requests.Response, position: int) -> None:
        facts = answer.json()
        version = facts["model"]["version"]
        self.versions.append(version)
        if version not in self.expected:
            self.problems.append(f"an answer names the version {version}")
            return
        right = self.expected[version][position]
        given = {one["class_name"]: one["probability"] for one in facts["images"][0]["top"]}
        if given.keys() != right.keys() or any(abs(given[name] - right[name]) > _AGREEMENT for name in right):
            self.problems.append(f"an answer names {version}, and is not what that model computes")


@contextmanager
def asking(url: str, expected: Expected) -> Iterator[Answers]:
    answers, stop = Answers(expected), threading.Event()

    def work(position: int) -> None:
        while not stop.is_set():
            answers.ask(url, position % len(PICTURES))
            time.sleep(_PAUSE_SECONDS)

    threads = [threading.Thread(target=work, args=(position,)) for position in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
