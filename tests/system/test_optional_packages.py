"""torchmetrics is imported without packages that no metric of classification uses, and they stay usable."""

import json
import subprocess
import sys

import pytest

IMPORTED = """
import json, sys
if sys.argv[1] == "alone":
    from cifar10.system.optional_packages import import_torchmetrics_alone
    import_torchmetrics_alone()
import torch, torchmetrics
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score
optional = sorted({"matplotlib", "scipy", "torchvision"} & set(sys.modules))
generator = torch.Generator().manual_seed(0)
probabilities = torch.rand(200, 4, generator=generator).softmax(dim=1)
targets = torch.randint(0, 4, (200,), generator=generator)
metrics = MulticlassAccuracy(4), MulticlassCalibrationError(4), MulticlassF1Score(4)
values = [float(metric(probabilities, targets)) for metric in metrics]
import importlib.metadata, matplotlib, scipy.signal, torchvision.ops
print(json.dumps([optional, values, importlib.metadata.version("scipy")]))
"""


@pytest.mark.slow
def test_without_its_optional_packages_torchmetrics_gives_the_same_values_and_others_can_import_them() -> None:
    results = {
        way: json.loads(subprocess.run([sys.executable, "-c", IMPORTED, way], capture_output=True, check=True).stdout)
        for way in ("alone", "whole")
    }
    assert results["whole"][0] == ["matplotlib", "scipy", "torchvision"]  # else the test shows nothing
    assert results["alone"] == [[], *results["whole"][1:]]
