"""Each test begins with an empty database: its tables take longest, and are made once."""

import tempfile
from pathlib import Path

import pytest

from cifar10.studies.storage import connect


@pytest.fixture(scope="session")
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        connect(f"sqlite:///{folder}/study.db").engine.dispose()
        return (Path(folder) / "study.db").read_bytes()


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, _empty_database: bytes) -> None:
    (tmp_path / "study.db").write_bytes(_empty_database)
