"""S1: requests from the service's own schema, damaged forms, and bytes that are hardly requests."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis.core.result import Ok

from tests.documented import ROOT
from tests.faults.experiment import Experiment, Trial
from tests.serving.http.malformed_requests import malformed_forms, malformed_requests
from tests.serving.http.serving_process import Served, serving
from tests.tiny_onnx import write_colour_model

_SECONDS = 5
_RAW_SECONDS = 10
"""For up to four requests on a connection, of which each may take two seconds until the service gives it up."""
_MOST_MEMORY = 50 * 2**20
_AT_ONCE = 16
_OF_ALL = 22
_FROM_SCHEMA, _FORMS = 10, 2
"""Of `_OF_ALL` requests; the others are raw bytes."""
_EXTENSIVE = ("/predict", "/v2/models/{name}/infer")
_ANSWERED = 0.05
"""Part of the requests from the schema that are at least answered with 200: others do not reach the network."""
_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
_OVERLOADED = 503


@contextmanager
def small_service(folder: Path, **environment: str) -> Iterator[Served]:
    """Yield a service that does not wait long for what clients leave out."""
    write_colour_model(folder / "colours" / "model.onnx")
    words = ("--checkpoint_name=colours/model.onnx", "serving.drift=null")
    limits = ("serving.header_seconds=2", "serving.idle_seconds=2")
    with serving(folder, *words, *limits, environment=environment) as served:
        yield served


def send_hostile_requests(number: int, folder: Path) -> Iterator[Trial]:
    """Send `number` requests: ten of 22 from the schema, two forms, ten raw."""
    num_schema, num_forms = number * _FROM_SCHEMA // _OF_ALL, number * _FORMS // _OF_ALL
    with small_service(folder) as served:
        before = memory(served)
        yield from watched(served, before, from_schema(served, num_schema))
        yield from watched(served, before, forms(served, num_forms))
        yield from watched(served, before, raw(served, number - num_schema - num_forms))


def memory(served: Served) -> int:
    """Return the bytes of the processes that answer."""
    return sum(int(child.memory_info().rss) for child in psutil.Process(served.process.pid).children())


def watched(served: Served, before: int, trials: Iterable[Trial]) -> Iterator[Trial]:
    """Yield the trials; the last one answers for the memory, the log and the readiness of the service as well."""
    last: Trial | None = None
    for trial in trials:
        if last is not None:
            yield last
        last = trial
    if last is not None:
        yield last if last.problem else Trial(last.fault, state_problem(served, before))


def state_problem(served: Served, before: int) -> str:
    """Return what is wrong with the service after its requests, or ""."""
    gained = memory(served) - before
    if gained > _MOST_MEMORY:
        return f"memory has grown by {gained / 2**20:.0f} MB since the start"
    if "Traceback" in served.messages():
        return f"the log has a traceback: {served.messages()[-500:]}"
    status = requests.get(f"{served.url}/readyz", timeout=_SECONDS).status_code
    return "" if status == requests.codes.ok else f"/readyz answers {status}"


def from_schema(served: Served, number: int) -> Iterator[Trial]:
    """Send requests that `schemathesis` makes from `/openapi.json`, most of them to the routes with bodies."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    operations.sort(key=lambda operation: operation.path in _EXTENSIVE)
    sent, num_answered = 0, 0
    for seed in count():
        for operation in operations:
            most = number // 3 if operation.path in _EXTENSIVE else max(number // 30, 1)
            for status, problem in answers(operation, min(most, number - sent), seed):
                sent, num_answered = sent + 1, num_answered + (status == requests.codes.ok)
                is_empty = sent == number and num_answered < _ANSWERED * number
                unanswered = f"only {num_answered} of {number} requests were answered with 200" if is_empty else ""
                fault = f"{operation.method.upper()} {operation.path}, request {sent} from the schema"
                yield Trial(fault, problem or unanswered)
        if sent == number:
            return


def answers(operation: Any, number: int, seed: int) -> list[tuple[int, str]]:
    """Send up to `number` requests to a route, and return the status and the problem of each."""
    found: list[tuple[int, str]] = []
    names = {"name": "colours", "version": "000000000000"}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(number, 1),
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def ask(case: "schemathesis.Case[Any]") -> None:
        for parameter in case.path_parameters or {}:
            case.path_parameters[parameter] = names[parameter]
        if len(found) < number:
            found.append(asked(case))

    ask()
    return found


def asked(case: "schemathesis.Case[Any]") -> tuple[int, str]:
    try:
        answer = case.call(timeout=_SECONDS)
    except requests.RequestException as error:
        return 0, f"no answer: {type(error).__name__}"
    return answer.status_code, "" if answer.status_code < requests.codes.server_error else f"status {answer.text[:200]}"


def forms(served: Served, number: int) -> Iterator[Trial]:
    """Send damaged forms one after the other."""
    for position, data in enumerate(malformed_forms(number), 1):
        fault, problem = f"damaged form {position}", raw_problem(served, data, _SECONDS)
        yield Trial(fault, problem)


def raw(served: Served, number: int) -> Iterator[Trial]:
    """Send bytes that are hardly requests, on several connections at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        problems = pool.map(lambda data: raw_problem(served, data, _RAW_SECONDS), malformed_requests(number))
        for position, problem in enumerate(problems):
            yield Trial(f"raw bytes of seed {position}", problem)


def raw_problem(served: Served, data: bytes, seconds: float) -> str:
    """Return what is wrong with the answers to `data`, or ""."""
    started = time.monotonic()
    answer = served.raw(data)
    took = time.monotonic() - started
    statuses = [int(text) for text in _STATUS.findall(answer)]
    wrong = [status for status in statuses if status >= requests.codes.server_error and status != _OVERLOADED]
    if took > seconds:
        return f"the connection was closed after {took:.0f} s"
    if answer and not statuses:
        return f"what comes is no HTTP: {answer[:100]!r}"
    return f"status {wrong[0]}" if wrong else ""


_FAULTY = """
from cifar10.serving.http import images_of_request

images_of_request.RequestError = lambda status, message: ValueError(message)
"""


def send_to_a_faulty_service(number: int, folder: Path) -> Iterator[Trial]:
    """Send damaged forms to a service that lets the exceptions of its parser out."""
    (folder / "sitecustomize.py").write_text(_FAULTY)
    with small_service(folder, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)])) as served:
        yield from forms(served, number)


FUZZED_REQUESTS = Experiment(
    row="S1",
    name="fuzzed_requests",
    claim="Each request is answered or refused in time, none with 5xx; memory grows by 50 MB at most.",
    run=send_hostile_requests,
    short=154,
    full=2200,
    control=send_to_a_faulty_service,
)
