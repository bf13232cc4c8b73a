"""The precision of a run: as configured, or the fastest on this machine for this network."""

import pytest

from cifar10 import devices, kernels
from cifar10.config.compose import load_config
from cifar10.kernels import bfloat16_units
from cifar10.trainer import resolve_precision

LABORATORY = "model._target_=cifar10.networks.pooling.stride.StrideCNN"
ON_CPU = ["training.accelerator=cpu", "training.compile=false"]


@pytest.mark.parametrize(
    ("words", "capabilities", "expected"),
    [
        (["model=speed"], {"amx_bf16", "avx512_bf16"}, "bf16"),
        (["model=speed"], {"avx512_bf16"}, "bf16"),
        (["model=speed"], set(), "fp32"),
        (["model=simple_cnn"], {"avx512_bf16"}, "fp32"),  # our kernels in float32 are faster
        (["model=speed", "training.kernels=false"], {"avx512_bf16"}, "bf16"),
        (["model=speed", "training.kernels=false"], set(), "fp32"),
        (["model=pooling_cnn"], {"avx512_bf16"}, "bf16"),
        (["model=pooling_cnn", LABORATORY], {"avx512_bf16"}, "bf16"),
        (["model=pooling_cnn"], set(), "fp32"),
        (["model=pooling_cnn", "training.precision=fp32"], {"avx512_bf16"}, "fp32"),
        (["model=speed", "training.precision=bf16"], set(), "bf16"),
    ],
)
def test_the_precision_is_the_fastest_for_cpu_and_network_unless_it_is_configured(
    words: list[str], capabilities: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu_capabilities", lambda: dict.fromkeys(capabilities, True))
    monkeypatch.setattr(bfloat16_units, "is_available", lambda: "avx512_bf16" in capabilities)
    monkeypatch.setattr(kernels, "is_available", lambda: True)
    assert resolve_precision(load_config([*words, *ON_CPU])) == expected
