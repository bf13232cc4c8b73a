"""What a training step costs, held by exact numbers: FLOPs, operator calls, new memory. No clock.

After a change that is meant, write the new numbers here: the failing test shows them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from counting import Calls, count_calls, count_flops, count_recipe
from plain_port import Network
from torch import Tensor

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset
from cifar10.kernels import is_available
from cifar10.runs.run import open_run
from cifar10.trainer import prepare_cpu
from cifar10.training.fitting import fit, make_network

# The default network on 32-pixel images: each of its layers as side of the output, channels out, channels in, side of
# the filter. A multiplication and an addition are two operations.
WHITENING = (31, 24, 3, 2)
CONVOLUTIONS = [
    (31, 64, 24, 3),
    (15, 64, 64, 3),
    (15, 256, 64, 3),
    (7, 256, 256, 3),
    (7, 256, 256, 3),
    (3, 256, 256, 3),
]
HEAD = (1, 10, 256, 1)
FORWARD = 236_294_720  # all of them
BACKWARD = 444_912_640  # twice, but for whitening, which learns nothing, and what the first filters take in
OPTIMIZER = 3_193_307_136  # a step; matrix products, worked out below

STEP = Calls(operators=342, allocations=254, allocated_bytes=144_123_676)
"""Of a step of the chunked loop on 32 images, batch, counting and optimizer included; the library's layers in fp32."""
STEP_OF_KERNELS = Calls(operators=644, allocations=420, allocated_bytes=529_526_556)
"""The same with our own kernels and two threads, whose memory does not grow with the images; what they compute is not
an operator."""


def flops_of(side: int, channels_out: int, channels_in: int, filter_side: int) -> int:
    return 2 * side**2 * channels_out * channels_in * filter_side**2


def test_a_training_step_of_the_default_network_costs_what_its_layers_add_up_to() -> None:
    learnt = sum(flops_of(*layer) for layer in [*CONVOLUTIONS, HEAD])
    assert (learnt + flops_of(*WHITENING), 2 * learnt - flops_of(*CONVOLUTIONS[0])) == (FORWARD, BACKWARD)
    cost = count_recipe(load_config([]))
    assert (cost.forward_image, cost.backward_image) == (FORWARD, BACKWARD)


def test_an_optimizer_step_costs_two_long_products_a_filter_bank_and_nine_short_ones() -> None:
    # A bank as matrix (m, n): x x^T and (...) x are (m, m, n). Of products of (m, m), a round has one for its
    # polynomial, each but the first one to join it to those before, each but the last two for its Gram matrix.
    banks = [(channels_out, channels_in * side**2) for _, channels_out, channels_in, side in CONVOLUTIONS]
    assert all(n >= 2 * m for m, n in banks)
    assert sum(2 * (2 * m * m * n + 9 * m**3) for m, n in banks) == OPTIMIZER
    assert count_recipe(load_config([])).optimizer_step == OPTIMIZER


def test_the_port_of_the_public_recipe_computes_as_much_an_image_as_that_recipe() -> None:
    network = Network().to("meta")
    images = torch.empty(1, 3, 32, 32, device="meta")
    assert count_flops(lambda: network(images)) == FORWARD  # ours has the layers of the public one
    whole = count_flops(network(images).sum().backward)
    without_shift = count_flops(network(images, learns_shift=False).sum().backward)
    assert (without_shift, whole - without_shift) == (BACKWARD, flops_of(*CONVOLUTIONS[0]))


def test_a_whole_run_is_the_sum_of_its_images() -> None:
    sizes = ["data_loading=shapes", "data_loading.train_size=250", "data_loading.validation_size=30"]
    words = [
        *sizes,
        "data_loading.test_size=40",
        "training.batch_size=100",
        "training.epochs=3",
        "training.resizing=[]",
    ]
    cost = count_recipe(load_config(words))
    steps = 3 * 2  # the 50 images beyond the last full batch wait
    assert cost.training == steps * (100 * (FORWARD + BACKWARD) + OPTIMIZER)
    assert cost.validation == 3 * 30 * FORWARD
    assert cost.test == 40 * 6 * FORWARD  # six views
    assert cost.whole_run == cost.training + cost.validation + cost.test


def test_smaller_images_are_counted_as_what_they_are() -> None:
    sizes = ["data_loading=shapes", "data_loading.train_size=200", "training.batch_size=100", "training.epochs=2"]
    small = ["data_loading.image_size=24", "training.resizing=[]"]
    whole, smaller = (count_recipe(load_config([*sizes, *more])) for more in (["training.resizing=[]"], small))
    mixed = count_recipe(load_config([*sizes, "training.resizing=[{until:0.5,scale:0.75}]"]))
    assert smaller.forward_image < 0.6 * whole.forward_image == 0.6 * mixed.forward_image
    assert mixed.training == (whole.training + smaller.training) / 2


@torch.library.custom_op("cifar10_tests::product", mutates_args=())
def product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices where PyTorch's table of costs does not look."""
    return torch.from_numpy(left.numpy() @ right.numpy())


def test_a_kernel_of_our_own_counts_what_it_is_said_to_cost() -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 5)

    def cost(left_shape: torch.Size, right_shape: torch.Size, **_: Any) -> int:
        return 2 * left_shape.numel() * right_shape[1]

    operator = torch.ops.cifar10_tests.product
    assert count_flops(lambda: product(left, right)) == 0
    assert count_flops(lambda: product(left, right), {operator: cost}) == 2 * 2 * 3 * 5


def test_calls_and_new_memory_are_told_from_views_and_work_in_place() -> None:
    weights = torch.ones(10, 4, requires_grad=True)
    assert count_calls(lambda: weights.detach().view(40).add_(1)) == Calls(3, 0, 0)
    assert count_calls(lambda: torch.ones(4).to(torch.float64)) == Calls(2, 2, 4 * 4 + 4 * 8)
    product = weights @ weights.T
    backward = count_calls(product.sum().backward)
    assert backward.allocations >= 2 and backward.allocated_bytes >= 2 * weights.nbytes


@pytest.fixture
def chunked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function: number of steps, and whether kernels are used -> calls of a whole fit in one chunk."""
    monkeypatch.chdir(tmp_path)

    def run(num_steps: int, kernels: bool) -> Calls:
        words = ["data_loading=shapes", f"data_loading.train_size={32 * num_steps}", "data_loading.validation_size=0"]
        words += ["training.epochs=1", "training.batch_size=32", "training.chunk_seconds=1000", "tracking=none"]
        words += ["training.precision=fp32", "training.accelerator=cpu", "training.resizing=[]"]
        words += ["training.threads=2"]  # kernels take memory for each
        config = load_config([*words, f"training.kernels={kernels}", f"run_name=s{num_steps}{kernels}"])
        data: ImageDataset = build(DATA, config.data_loading)
        network, num_threads = make_network(config, data), torch.get_num_threads()
        prepare_cpu(config.training)
        try:
            return count_calls(lambda: fit(network, config, data, open_run(config, data, "fp32")))
        finally:
            torch.set_num_threads(num_threads)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True])
def test_a_step_of_the_chunked_loop_makes_so_many_calls_and_takes_so_much_memory(
    kernels: bool, chunked_run: Any
) -> None:
    if kernels and not is_available():
        pytest.skip("needs llvmlite and GNU's OpenMP")
    chunked_run(1, kernels)  # what is made once a process is made
    runs = [chunked_run(num_steps, kernels) for num_steps in (2, 3, 4)]
    assert runs[1] - runs[0] == runs[2] - runs[1], "what a step costs depends on how many there are"
    assert runs[1] - runs[0] == (STEP_OF_KERNELS if kernels else STEP)
