"""The audit of locked packages: what it fails for, what waivers excuse, and what counts as not done."""

import datetime
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documented import ROOT
from tests.supply_chain.osv_server import Advisory, serve

SCRIPT = ROOT / "scripts" / "check_vulnerabilities"
HASH = f"--hash=sha256:{'1' * 64}"
UNFIXED: Advisory = ("six", "1.17.0", "GHSA-aaaa", ("CVE-2030-1",), "")
FIXED: Advisory = ("six", "1.17.0", "GHSA-bbbb", ("CVE-2030-2",), "1.18.0")
SOON = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30)


def waiver(identifier: str = "CVE-2030-1", package: str = "six", expires: object = SOON, **more: str) -> str:
    """Return one table of a file of waivers."""
    texts = {"id": identifier, "package": package, "reason": "it is not called", **more}
    return "\n".join(["[[waiver]]", *(f'{key} = "{text}"' for key, text in texts.items()), f"expires = {expires}\n"])


def audited(folder: Path, service: str, waivers: str = "", packages: str = f"six==1.17.0 {HASH}\n") -> Any:
    """Run the audit for a project that requires `packages`."""
    (folder / "scripts").mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(packages)
    (folder / "scripts" / "audit_waivers.toml").write_text(waivers)
    variables = {**os.environ, "OSV_URL": service}
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_vulnerability_without_a_waiver_fails_with_the_version_that_mends_it(tmp_path: Path) -> None:
    with serve(UNFIXED, FIXED) as service:
        done = audited(tmp_path, service.url)
    assert done.returncode == 1, done.stderr
    unfixed, fixed, counts = sorted(done.stderr.splitlines(), key=lambda line: ("packages" in line, line))
    assert "six 1.17.0: CVE-2030-1, GHSA-aaaa; there is no fixed version" in unfixed
    assert "six 1.17.0: CVE-2030-2, GHSA-bbbb; fixed in 1.18.0" in fixed and "audit_waivers.toml" in fixed
    assert counts == "audit: 1 packages, 2 known vulnerabilities, 0 waivers"


@pytest.mark.slow
@pytest.mark.parametrize("identifier", ["GHSA-aaaa", "CVE-2030-1"])
def test_a_waiver_by_any_of_its_names_excuses_a_vulnerability(tmp_path: Path, identifier: str) -> None:
    with serve(UNFIXED) as service:
        done = audited(tmp_path, service.url, waiver(identifier))
    assert (done.returncode, done.stderr) == (0, "audit: 1 packages, 1 known vulnerabilities, 1 waivers\n")


@pytest.mark.slow
def test_a_waiver_that_has_expired_or_is_not_needed_fails_the_audit(tmp_path: Path) -> None:
    with serve(UNFIXED) as service:
        done = audited(tmp_path, service.url, waiver(expires="2026-01-31") + waiver("CVE-2030-9"))
    assert done.returncode == 1, done.stderr
    expired, needless, _ = done.stderr.splitlines()
    assert "waiver CVE-2030-1 for six has expired on 2026-01-31" in expired
    assert "waiver CVE-2030-9 for six is not needed any more" in needless


@pytest.mark.parametrize(
    ("advisory", "waivers", "reason"),
    [
        (UNFIXED, waiver(expires="2099-01-31"), "at most 366 days ahead"),
        (UNFIXED, waiver(expires='"2030-01-31"'), "needs a date without quotes"),
        (UNFIXED, waiver(expires="2030-01-31T12:00:00"), "needs a date without quotes"),
        (UNFIXED, waiver(reason=" "), "needs id, package and reason"),
        (UNFIXED, waiver(severity="low"), "unexpected keyword argument 'severity'"),
        (UNFIXED, '[[waiver]]\nid = "CVE-2030-1"\n', "missing 3 required"),
        (UNFIXED, waiver(package="seven"), "six 1.17.0: GHSA-aaaa, CVE-2030-1; there is no fixed version. Upgrade it"),
        (FIXED, waiver("CVE-2030-2"), "must say not_upgraded_because"),
    ],
)
def test_a_waiver_that_is_wrong_is_named(tmp_path: Path, advisory: Advisory, waivers: str, reason: str) -> None:
    check = runpy.run_path(str(SCRIPT))
    package, version, identifier, others, fixed = advisory
    found = [check["Vulnerability"](package, version, (identifier, *others), (fixed,) if fixed else ())]
    (tmp_path / "waivers.toml").write_text(waivers)
    read, problems = check["read_waivers"](tmp_path / "waivers.toml")
    today = datetime.datetime.now(datetime.UTC).date()
    problems += [*check["wrong_waivers"](read, today), *check["judge"](found, read, today)]
    assert reason in "\n".join(problems)


@pytest.mark.slow
def test_a_waiver_of_what_has_a_fixed_version_says_why_that_is_not_taken(tmp_path: Path) -> None:
    with serve(FIXED) as service:
        done = audited(tmp_path, service.url, waiver("CVE-2030-2", not_upgraded_because="1.18.0 does not start"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "behaviour",
    [
        {"knows_the_old": False},
        {"answers_until_request": 0},
        {"answers_until_request": 1},
        {"page": b"<html>Log in to this network</html>"},
        {"page": b"{}"},
    ],
    ids=str,
)
def test_a_service_that_does_not_answer_as_it_should_is_told_in_one_line_and_nothing_passes(
    tmp_path: Path, behaviour: dict[str, Any]
) -> None:
    with serve(**behaviour) as service:
        done = audited(tmp_path, service.url)
    assert done.returncode == 75, done.stderr
    assert len(done.stderr.splitlines()) == 1 and f"NOT DONE, {service.url} cannot be asked" in done.stderr


def test_a_service_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    done = audited(tmp_path, "http://127.0.0.1:9/v1/query")
    assert done.returncode == 75 and len(done.stderr.splitlines()) == 1 and "NOT DONE" in done.stderr, done.stderr


def test_a_waiver_that_has_expired_is_told_without_the_service(tmp_path: Path) -> None:
    done = audited(tmp_path, "http://127.0.0.1:9/v1/query", waiver(expires="2026-01-31"))
    expired, away = done.stderr.splitlines()
    assert done.returncode == 1 and "has expired on 2026-01-31" in expired and "NOT DONE" in away


def test_a_file_of_waivers_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    done = audited(tmp_path, "http://127.0.0.1:9/v1/query", "[[waiver]\n")
    assert done.returncode == 1 and done.stderr.startswith("audit: audit_waivers.toml: ") and "line 1" in done.stderr


@pytest.mark.parametrize("line", ["six==1.17.0\n", "six\n", f"six>=1.17.0 {HASH}\n", ""])
def test_what_is_not_pinned_with_a_hash_is_refused_before_anything_is_asked(tmp_path: Path, line: str) -> None:
    with serve() as service:
        done = audited(tmp_path, service.url, packages=line)
        assert service.asked == []
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_every_locked_package_is_asked_about_also_those_of_other_systems() -> None:
    check = runpy.run_path(str(SCRIPT))
    with serve() as service:
        found = check["look_up"](check["pinned"](ROOT), service.url)
    lock = check["CHECK"]["read_lock"](ROOT / "poetry.lock")
    names = {name for name, _ in service.asked}
    assert found == []
    assert names == {package["name"] for package in lock}
    assert {"pywin32", "appnope"} <= names


def test_the_waivers_here_are_valid_and_name_locked_packages() -> None:
    check = runpy.run_path(str(SCRIPT))
    waivers, problems = check["read_waivers"](ROOT / "scripts" / "audit_waivers.toml")
    assert problems == []
    names = {name for name, _ in check["pinned"](ROOT)}
    for each in waivers:
        assert each.package in names
        assert each.problem(each.expires) == "", each  # whether it has expired is for the audit to say


@pytest.mark.parametrize(
    ("codes", "expected", "last"),
    [((0, 0), 0, "passed"), ((0, 75), 0, "passed, without: second"), ((75, 2), 1, "FAILED, without: first")],
)
def test_ci_names_what_was_not_done_and_does_not_count_it_as_passed(
    codes: tuple[int, int], expected: int, last: str
) -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    stages = [index for index, line in enumerate(lines) if line.startswith('stage "')]
    made = [f'stage {name} sh -c "exit {code}"' for name, code in zip(("first", "second"), codes, strict=True)]
    begin = lines.index("summary=()")
    script = "\n".join([*lines[begin : stages[0]], *made, *lines[stages[-1] + 1 :]])
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-uc", script], env=threads, capture_output=True, text=True, check=False)
    assert done.returncode == expected
    *_, first, second, total = done.stdout.splitlines()
    words = {0: "passed", 75: "NOT DONE", 2: "FAILED"}
    assert [first.split("  ")[0].strip(), second.split("  ")[0].strip()] == [words[code] for code in codes]
    assert "".join(re.fullmatch(r"(\w+) +\d+ s  in all(.*)", total).groups()) == last  # type: ignore[union-attr]
