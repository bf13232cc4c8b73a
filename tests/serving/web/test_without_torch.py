"""The page where PyTorch is not installed: exported models only."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_CODE = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "pytorch_lightning", "lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import os
from streamlit.testing.v1 import AppTest
from tests.serving.web.picture import png
for page in ("classify", "model", "runs", "data", "drift", "cats_and_dogs"):
    os.environ["CIFAR10_WEB_PAGE"] = page
    at = AppTest.from_file(sys.argv[1], default_timeout=60).run()
    assert not at.exception, (page, at.exception)
    if page == "classify":
        at.file_uploader[0].upload("a.png", png()).run()
        assert not at.exception and not at.error, (at.exception, at.error)
        assert any("class=\\"answer\\"" in str(each.proto.body) for each in at.get("html"))
    if page == "data":
        assert "PyTorch" in at.error[0].value
    if page == "cats_and_dogs":
        at.file_uploader[0].upload("a.png", png()).run()
        assert "PyTorch" in at.error[0].value
print(sorted(name for name in sys.modules if name in ("torch", "pytorch_lightning")))
"""


@pytest.mark.slow
def test_exported_models_work_and_the_rest_says_what_it_needs(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "models", tmp_path / "models")
    command = [sys.executable, "-c", _CODE, str(ROOT / "streamlit_app.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "[]"
