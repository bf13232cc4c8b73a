"""What is tried before a training begins takes little time, and still finds what cannot work."""

import subprocess
import sys

import pytest
from torch import nn

from cifar10.config.compose import load_config
from cifar10.data.shapes import shapes
from cifar10.errors import UsageError
from cifar10.training import preflight
from cifar10.training.preflight import refuse_unfit

TRY = """
import sys
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.system.lazy_compiler import put_off_compiler
put_off_compiler()
from cifar10.training.preflight import refuse_unfit
config = load_config(["experiment=demo", *sys.argv[1:]])
refuse_unfit(config, build(DATA, config.data_loading))
print([name for name in ("sympy", "torch._dynamo.eval_frame") if name in sys.modules])
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["speed", "simple_cnn"])
def test_neither_sympy_nor_the_compiler_is_imported(model: str) -> None:
    command = [sys.executable, "-c", TRY, f"model={model}"]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout == "[]\n"


@pytest.mark.parametrize("most", [0, 10**9], ids=["shapes only", "filled with zeros"])
def test_a_network_that_does_not_fit_is_found_both_ways(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_MOST_FILLED", most)
    data = shapes(image_size=16, train_size=40, validation_size=10, test_size=10)
    words = ["experiment=demo", "data_loading.image_size=16"]
    refuse_unfit(load_config(words), data)
    with pytest.raises(UsageError, match="training would need images of 4 pixels"):
        refuse_unfit(load_config([*words, "training.resizing=[{until: 0.5, scale: 0.25}]"]), data)


def test_large_images_are_tried_without_memory() -> None:
    config = load_config(["experiment=demo"])
    data = shapes(image_size=16, train_size=40, validation_size=10, test_size=10)
    preflight._try_network(config.model, data, 100_000)  # 240 GB of pixels


def test_weights_with_memory_are_left_alone() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    preflight._fill_if_small(network)
    assert bool((network.weight == before).all())
