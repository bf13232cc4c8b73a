"""The software bills of materials: complete, the same each time, and valid by their schema."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.documented import ROOT

pytestmark = pytest.mark.slow
CHECK = runpy.run_path(str(ROOT / "scripts" / "check_requirements"))


def export(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", str(project / "scripts" / "export_sbom"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the bill of each requirements file."""
    folder = tmp_path_factory.mktemp("bills")
    done = export(ROOT, str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of what the bills are made from."""
    (tmp_path / "scripts").mkdir()
    for name in ("export_sbom", "check_requirements", "licences.toml"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name in ("poetry.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def content(bills: Path, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bills / file.replace(".txt", ".cdx.json")).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("file", CHECK["GROUPS"])
def test_a_bill_has_each_package_of_its_file_with_version_hashes_and_licence(bills: Path, file: str) -> None:
    entries, _ = CHECK["read_requirements"]((ROOT / file).read_text(encoding="utf-8"))
    bill = content(bills, file)
    listed = {
        (
            part["name"],
            part["version"],
            frozenset(f"sha256:{digest['content']}" for ref in part["externalReferences"] for digest in ref["hashes"]),
        )
        for part in bill["components"]
    }
    assert listed == {(name, version, frozenset(hashes)) for name, version, hashes in entries}
    assert all(part["licenses"] for part in bill["components"])
    assert {part["purl"] for part in bill["components"]} == {
        f"pkg:pypi/{name}@{version}" for name, version, _ in entries
    }


def test_a_bill_tells_what_depends_on_what(bills: Path) -> None:
    bill = content(bills, "requirements.txt")
    depends = {each["ref"].partition("@")[0]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert any(name.startswith("pkg:pypi/nvidia-cublas@") for name in depends["pkg:pypi/cuda-toolkit"])
    reached, waiting = set(), ["cifar10"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [other.partition("@")[0] for other in depends[name]]
    assert reached == set(depends), "each package is there for a reason"


@pytest.mark.slow
def test_bills_are_the_same_each_time(bills: Path, tmp_path: Path) -> None:
    assert export(ROOT, str(tmp_path)).returncode == 0
    for file in bills.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
        assert not re.search(r'"timestamp"', file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_serial_number_changes_with_the_content(bills: Path, project: Path, tmp_path: Path) -> None:
    lock = project / "poetry.lock"
    lock.write_text(lock.read_text(encoding="utf-8").replace('description = "HTTP library', 'description = "A library'))
    assert export(project, str(tmp_path / "changed")).returncode == 0
    for file in ("requirements.txt", "requirements-postgres.txt"):
        is_changed = content(bills, file)["serialNumber"] != content(tmp_path / "changed", file)["serialNumber"]
        assert is_changed == (file == "requirements.txt")


def test_the_schema_that_checks_a_bill_can_fail(bills: Path) -> None:
    bill = content(bills, "requirements-postgres.txt")
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None
    for part in ({"version": 1}, {"name": "x", "type": "nonsense"}, {"name": "x", "type": "library", "more": 1}):
        assert validator.validate_str(json.dumps({**bill, "components": [part]})) is not None


def test_a_package_without_a_licence_is_named_with_the_way_out(project: Path, tmp_path: Path) -> None:
    licences = project / "scripts" / "licences.toml"
    text = licences.read_text(encoding="utf-8")
    licences.write_text(re.sub(r'^"(six|waitress) .*\n', "", text, flags=re.MULTILINE), encoding="utf-8")
    done = export(project, str(tmp_path / "bills"))
    assert done.returncode == 1 and "no licence of six" in done.stderr and "--licences" in done.stderr
    done = export(project, "--licences")  # waitress is for Windows
    assert done.returncode == 1 and "waitress" in done.stderr and len(done.stderr.splitlines()) == 1
    assert '"six 1.17.0" = "MIT"' in licences.read_text(encoding="utf-8")


def test_the_licences_are_those_of_the_locked_versions_and_no_others(project: Path) -> None:
    before = (project / "scripts" / "licences.toml").read_bytes()
    done = export(project, "--licences")
    assert done.returncode == 0, done.stderr
    assert (project / "scripts" / "licences.toml").read_bytes() == before
