"""The best public recipe for 94 % on CIFAR-10 in one plain PyTorch loop: the peer that ours is measured against.

    python benchmarks/plain_port.py [--root data] [--seed 0]    # a whole run, for its accuracy
    python benchmarks/plain_port.py --steps 3                   # its rates, as one line of JSON; see race_cpu.py

The recipe is airbench94_muon (https://github.com/KellerJordan/cifar10-airbench, at 94.01 % over 200 runs): its network,
numbers, schedules and augmentation, written anew for a CPU. What its GPU wants is left out, which helps or changes
nothing here: torch.compile (slower on the CPUs measured), float16 weights (here float32, computing in bfloat16 under
autocast where asked for), and a look at the test images after each epoch, which its clock leaves out too.

Nothing of the package's own ways to be fast is in here: the allocator, the convolutions and the loop are PyTorch's.

Shapes: N images, B = 2000 in a batch.
"""

import argparse
import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from measuring import wall_and_cpu, write_results
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, BATCH_SIZE = 8, 2000
SHIFT_EPOCHS = 3  # for so long the first layer learns what to add; then gradients need not go that far down
_WIDTHS, _WHITEN_SIZE, _WHITEN_IMAGES, _WHITEN_EPSILON = (64, 256, 256), 2, 5000, 5e-4
_FILTER_LR, _FILTER_MOMENTUM = 0.24, 0.6
_SHIFT_LR, _HEAD_LR, _MOMENTUM, _WEIGHT_DECAY = 0.053, 0.67, 0.85, 2e-6 * BATCH_SIZE
_LABEL_SMOOTHING, _PADDING = 0.2, 2
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of pixels in 0..1
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_SIZE = 32  # pixels

Precision = Literal["fp32", "bf16"]
Seconds = dict[str, float]
"""wall and cpu."""


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    port = Port(arguments)
    if arguments.steps:
        print(json.dumps(port.rates(arguments.steps)))
        return
    port.train(arguments.epochs)
    scores = {**port.scores(), **since_start()}
    kept = {"seed": arguments.seed, "epochs": arguments.epochs, "precision": arguments.precision, **port.sizes()}
    if arguments.json:
        print(json.dumps({**kept, **scores}))
        return
    write_results("plain_port", "The plain port of airbench94_muon", report(scores, kept), {**kept, **scores})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="holds cifar-10-batches-py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    parser.add_argument("--steps", type=int, default=0, help="measure this many steps of each kind, and do not train")
    parser.add_argument(
        "--json", action="store_true", help="print a whole run as one line of JSON, without a result file"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--train-images", type=int, default=50_000, help="the first of them; fewer for a trial")
    parser.add_argument("--test-images", type=int, default=10_000)
    return parser.parse_args()


def report(scores: dict[str, float], kept: dict[str, Any]) -> list[str]:
    return [
        f"{kept['epochs']} epochs of {kept['train_images']:,} images, batch {BATCH_SIZE}, {kept['precision']}, seed "
        f"{kept['seed']}; {kept['test_images']:,} test images.",
        "",
        f"- test accuracy with six views: {scores['accuracy_tta']:.2%}; of the image alone: {scores['accuracy']:.2%}",
        f"- the whole process: {scores['wall']:.0f} s wall, {scores['cpu']:.0f} s cpu",
    ]


def project(rates: dict[str, Any], train_images: int = 50_000, test_images: int = 10_000) -> Seconds:
    """Return the wall and cpu seconds of a whole run at `rates`: start-up, eight epochs, six views of each test image.

    Args:
        rates: As `Port.rates` returns them.
        train_images: N of a whole run, whatever the rates were measured on.
        test_images: N to be tested.
    """
    steps = train_images // BATCH_SIZE
    counts = {
        "start_up": 1.0,
        "augment_image": EPOCHS * train_images,
        "early_step": SHIFT_EPOCHS * steps,
        "late_step": (EPOCHS - SHIFT_EPOCHS) * steps,
        "tta_image": test_images,
    }
    return {clock: sum(count * rates[name][clock] for name, count in counts.items()) for clock in ("wall", "cpu")}


class Port:
    """The recipe on its data, ready for the first step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        root = arguments.root / "cifar-10-batches-py"
        train, self.labels = load(root, [f"data_batch_{n}" for n in range(1, 6)], arguments.train_images)
        self.test_images, self.test_labels = load(root, ["test_batch"], arguments.test_images)
        self.network = Network().to(memory_format=torch.channels_last)
        self.network.fit_whitening(train[:_WHITEN_IMAGES])
        coins = torch.rand(len(train)) < 0.5
        mirrored = torch.where(coins.view(-1, 1, 1, 1), train.flip(3), train)
        self.padded = functional.pad(mirrored, (_PADDING,) * 4, mode="reflect")  # (N, 3, 36, 36)
        self.steps_per_epoch = len(train) // BATCH_SIZE
        self.precision: Precision = arguments.precision
        self.optimizers = make_optimizers(self.network, self.precision)

    def sizes(self) -> dict[str, int]:
        return {"train_images": len(self.labels), "test_images": len(self.test_labels)}

    def train(self, epochs: int) -> None:
        """Learn from all images `epochs` times, the rates falling in straight lines to zero."""
        step, num_steps = 0, epochs * self.steps_per_epoch
        for epoch in range(epochs):
            for images, labels in self.batches(self.augment(epoch)):
                self.step(images, labels, step, num_steps)
                step += 1
            print(f"epoch {epoch + 1} of {epochs}", file=sys.stderr, flush=True)

    def augment(self, epoch: int) -> Tensor:
        """Return all images shifted at random by up to two pixels, mirrored every second epoch: (N, 3, 32, 32)."""
        shifts = torch.randint(0, 2 * _PADDING + 1, (2, len(self.padded)))
        size = self.padded.shape[3] - 2 * _PADDING
        images = torch.empty(len(self.padded), 3, size, size).to(memory_format=torch.channels_last)
        for row in range(2 * _PADDING + 1):
            for column in range(2 * _PADDING + 1):
                chosen = ((shifts[0] == row) & (shifts[1] == column)).nonzero().flatten()
                images[chosen] = self.padded[chosen, :, row : row + size, column : column + size]
        return images.flip(3) if epoch % 2 else images

    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut the full batches of an epoch from `images`, in random order."""
        order = torch.randperm(len(images))
        for chosen in order[: self.steps_per_epoch * BATCH_SIZE].split(BATCH_SIZE):
            yield images[chosen].to(memory_format=torch.channels_last), self.labels[chosen]

    def step(self, images: Tensor, labels: Tensor, step: int, num_steps: int) -> None:
        """Learn from one batch, as number `step` of `num_steps`."""
        shift_steps = SHIFT_EPOCHS * self.steps_per_epoch
        with self.autocast():
            logits = self.network(images, learns_shift=step < shift_steps)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=_LABEL_SMOOTHING, reduction="sum")
        loss.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                length = shift_steps if group.get("is_shift") else num_steps
                group["lr"] = group["initial_lr"] * max(1 - step / length, 0.0)
            optimizer.step()
            optimizer.zero_grad()

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    @torch.no_grad()
    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of `images` alone and as the weighted mean of six views, both (B, K)."""
        padded = functional.pad(images, (1,) * 4, mode="reflect")
        shifted = [padded[:, :, place : place + _SIZE, place : place + _SIZE] for place in (0, 2)]
        plain = self.ask(images)
        centred = (plain + self.ask(images.flip(3))) / 2
        aside = [self.ask(view) + self.ask(view.flip(3)) for view in shifted]
        return plain, centred / 2 + sum(aside, torch.zeros_like(plain)) / 8

    def ask(self, images: Tensor) -> Tensor:
        with self.autocast():
            return self.network(images.contiguous(memory_format=torch.channels_last)).float()  # type: ignore[no-any-return]

    def scores(self) -> dict[str, float]:
        """Return the part of the test images that is right: alone, and with six views."""
        self.network.eval()
        pairs = [self.answers(images) for images in self.test_images.split(BATCH_SIZE)]
        plain, augmented = (torch.cat(logits).argmax(dim=1) for logits in zip(*pairs, strict=True))
        return {
            "accuracy": (plain == self.test_labels).double().mean().item(),
            "accuracy_tta": (augmented == self.test_labels).double().mean().item(),
        }

    def rates(self, num_steps: int) -> dict[str, Any]:
        """Return what each part of the run costs, in seconds of wall and cpu, the steps as medians of `num_steps`."""
        start_up = since_start()
        augmentation = measured(lambda: self.augment(0))
        stream = self.endless(self.augment(1))
        self.timed_step(stream, 0)  # the first one chooses and packs: it is not typical
        early = [self.timed_step(stream, 0) for _ in range(num_steps)]
        late = [self.timed_step(stream, SHIFT_EPOCHS * self.steps_per_epoch) for _ in range(num_steps)]
        self.network.eval()
        images = self.test_images[:BATCH_SIZE]
        plain, tta = measured(lambda: no_grad(self.ask, images)), measured(lambda: self.answers(images))
        return {
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "start_up": start_up,
            "augment_image": per(len(self.padded), augmentation),
            "early_step": median(early),
            "late_step": median(late),
            "plain_image": per(len(images), plain),
            "tta_image": per(len(images), tta),
            "steps": {"early": early, "late": late},
        }

    def timed_step(self, stream: Iterator[tuple[Tensor, Tensor]], number: int) -> Seconds:
        """Learn from the next batch of `stream` as the run's step `number`, the cutting of the batch included."""
        return measured(lambda: self.step(*next(stream), number, EPOCHS * self.steps_per_epoch))

    def endless(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.batches(images)


class Network(nn.Module):
    """Whitened patches, three groups of two convolutions, maximum over what is left, scaled linear head."""

    def __init__(self) -> None:
        super().__init__()
        patches = 2 * 3 * _WHITEN_SIZE**2
        self.whiten = nn.Conv2d(3, patches, _WHITEN_SIZE)
        self.whiten.weight.requires_grad = False
        self.groups = nn.Sequential(nn.GELU(), *map(make_group, (patches, *_WIDTHS), _WIDTHS), nn.MaxPool2d(3))
        self.head = nn.Linear(_WIDTHS[-1], 10, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, images: Tensor, learns_shift: bool = True) -> Tensor:  # (B, 3, 32, 32) -> (B, 10)
        assert self.whiten.bias is not None
        shift = self.whiten.bias if learns_shift else self.whiten.bias.detach()
        features = self.groups(functional.conv2d(images, self.whiten.weight, shift)).flatten(1)  # (B, 256)
        logits: Tensor = self.head(features) / features.shape[1]
        return logits

    @torch.no_grad()
    def fit_whitening(self, images: Tensor) -> None:
        """Set the first filters to the principal directions of patches of `images`, and their opposites."""
        patches = functional.unfold(images, _WHITEN_SIZE).transpose(1, 2).flatten(0, 1)  # (N * 31 * 31, 12)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + _WHITEN_EPSILON).sqrt()).T.reshape(-1, 3, _WHITEN_SIZE, _WHITEN_SIZE)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


def make_group(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        make_convolution(channels_in, channels_out),
        nn.MaxPool2d(2),
        make_norm(channels_out),
        nn.GELU(),
        make_convolution(channels_out, channels_out),
        make_norm(channels_out),
        nn.GELU(),
    )


def make_convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a convolution whose first filters pass its inputs on."""
    layer = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding="same", bias=False)
    nn.init.dirac_(layer.weight.data[:channels_in])
    return layer


def make_norm(channels: int) -> nn.BatchNorm2d:
    """Return a normalisation that learns what to add only, and remembers the newest batch at 0.4."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


def make_optimizers(network: Network, precision: Precision) -> list[torch.optim.Optimizer]:
    """Return SGD for what is added and for the head, and Muon for the filters."""
    filters = [p for p in network.parameters() if p.ndim == 4 and p.requires_grad]
    shifts = [module.bias for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    groups = [
        {"params": [network.whiten.bias], "lr": _SHIFT_LR, "weight_decay": _WEIGHT_DECAY / _SHIFT_LR, "is_shift": True},
        {"params": shifts, "lr": _SHIFT_LR, "weight_decay": _WEIGHT_DECAY / _SHIFT_LR},
        {"params": [network.head.weight], "lr": _HEAD_LR, "weight_decay": _WEIGHT_DECAY / _HEAD_LR},
    ]
    plain = torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=True, fused=True)
    optimizers = [plain, Muon(filters, precision)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is made nearly orthogonal, of filters that are rescaled before it."""

    def __init__(self, filters: list[nn.Parameter], precision: Precision) -> None:
        super().__init__(filters, {"lr": _FILTER_LR})
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if "memory" not in state:
                    state["memory"] = torch.zeros_like(weight)
                memory = state["memory"].mul_(_FILTER_MOMENTUM).add_(weight.grad)
                direction = weight.grad.add(memory, alpha=_FILTER_MOMENTUM).flatten(1)
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(self.orthogonal(direction).view_as(weight), alpha=-group["lr"])

    def orthogonal(self, matrix: Tensor) -> Tensor:  # (M, N), M <= N for every layer of this network
        """Bring the singular values of `matrix` near 1 by three rounds of Newton and Schulz's iteration."""
        a, b, c = _POLYNOMIAL
        x = matrix.to(self.dtype)
        x = x / (x.norm() + 1e-7)
        for _ in range(3):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        orthogonal: Tensor = x.to(matrix.dtype)
        return orthogonal


def load(folder: Path, names: list[str], limit: int) -> tuple[Tensor, Tensor]:
    """Return the first `limit` images of the batches `names`, normalised, float (N, 3, 32, 32), and labels (N,)."""
    batches = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names]
    pixels = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])[:limit])
    labels = torch.tensor([label for batch in batches for label in batch["labels"]][:limit])
    images = pixels.view(-1, 3, 32, 32).float().div_(255)
    images.sub_(torch.tensor(_MEAN).view(3, 1, 1)).div_(torch.tensor(_STD).view(3, 1, 1))
    return images.to(memory_format=torch.channels_last), labels


def since_start() -> Seconds:
    """Return wall and processor seconds since this process was started, imports included."""
    return {"wall": time.time() - psutil.Process().create_time(), "cpu": time.process_time()}


def measured(work: Callable[[], object]) -> Seconds:
    return dict(zip(("wall", "cpu"), wall_and_cpu(work), strict=True))


def median(seconds: list[Seconds]) -> Seconds:
    return {clock: statistics.median(each[clock] for each in seconds) for clock in ("wall", "cpu")}


def per(count: int, seconds: Seconds) -> Seconds:
    return {clock: value / count for clock, value in seconds.items()}


def no_grad(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return function(images)


if __name__ == "__main__":
    main()
