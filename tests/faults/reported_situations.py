"""U1: situations that users have reported or got into, as docs/what_can_go_wrong.md lists them, each with its test."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.documented import DOCS, ROOT
from tests.faults.experiment import Experiment, Trial, sample

_ROW = re.compile(r"^\| (.+?) \| .+ \| `(\w+)::(\w+)` \|$", re.MULTILINE)
_OF_THE_BENCH = "faults"


class Situation(NamedTuple):
    words: str
    file: Path
    test: str


def situations() -> list[Situation]:
    """Return what the page lists, without the rows that refer to the fault bench itself."""
    files = {path.stem.removeprefix("test_"): path for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    rows = _ROW.findall((DOCS / "what_can_go_wrong.md").read_text(encoding="utf-8"))
    return [Situation(words, files[file], f"test_{test}") for words, file, test in rows if file != _OF_THE_BENCH]


def run_their_tests(number: int, folder: Path) -> Iterator[Trial]:
    """Run the tests of `number` situations: a test that failed, was skipped or was not found is a problem."""
    listed = situations()
    words = sample([situation.words for situation in listed], number)
    chosen = [situation for situation in listed if situation.words in words]
    nodes = sorted({f"{situation.file}::{situation.test}" for situation in chosen})
    report = folder / "report.xml"
    options = ["-q", "-m", "", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    subprocess.run([sys.executable, "-m", "pytest", *options, *nodes], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    for situation in chosen:
        yield Trial(situation.words, _problem(situation, cases))


def _problem(situation: Situation, cases: list[ElementTree.Element]) -> str:
    file = str(situation.file.relative_to(ROOT))
    own = [case for case in cases if case.get("file") == file and case.get("name", "").split("[")[0] == situation.test]
    if not own:
        return f"its test {situation.test} did not run"
    bad = [child for case in own for child in case if child.tag in ("failure", "error", "skipped")]
    return f"{situation.test}: {bad[0].tag}: {bad[0].get('message', '')[:200]}" if bad else ""


REPORTED_SITUATIONS = Experiment(
    row="U1",
    name="reported_situations",
    claim="what the page of situations says happens: no wrong result, nothing lost in silence, advice that works",
    run=run_their_tests,
    short=2,
    full=len({situation.words for situation in situations()}),
)
