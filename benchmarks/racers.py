"""Those who race: our recipe or a record script, each in a process of its own that runs whenever it is told to.

`gpu_race.py` starts it with its wishes as JSON and talks to it: a line on stdin is one run, and is answered by a line
of JSON on stdout with seconds and accuracy. A process of its own, because record scripts compile at import, set global
flags and keep what they compiled for the next run; so nobody is disturbed by what another has set or cached.

The clock is one for all: device events around what the record scripts time themselves, which is measuring the first
layer, training, and the last evaluation with test-time augmentation. Networks are made and compiled before, on a
throwaway run, and the data set is on the device already.
"""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import measuring  # noqa: F401  (puts the package on the path)
import torch
from race_clock import Stopwatch, wait
from recipe_files import Values, make
from record_scripts import record_script
from torch import Tensor, nn

from cifar10.data.image_dataset import Split
from cifar10.devices import has_gpu_kernels, prepare_network
from cifar10.inference.tta import predict_probabilities
from cifar10.system.memory import keep_memory_warm
from cifar10.training.batches import TrainingBatches
from cifar10.training.captured_step import CapturedStep, can_capture
from cifar10.training.hard_example_mining import ExampleSelection
from cifar10.training.step import TrainingStep, make_scheduler, update


def main() -> None:
    wishes: Values = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a script prints must not be taken for an answer
    keep_memory_warm()
    run = record_script(wishes) if wishes.get("record") else OurRecipe(wishes).run
    run(-1)  # a throwaway run: whatever is compiled or allocated only once
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for number, _ in enumerate(sys.stdin):
        seconds, accuracy = run(number)
        print(json.dumps({"seconds": seconds, "accuracy": accuracy}), file=answers, flush=True)


class OurRecipe:
    """The recipe as `train` computes it, in a plain loop, as the record scripts are.

    Args:
        wishes: recipe (a configuration), device, data (a file), compile (None, "graphs" as in `training.compile`, or a
            mode of torch.compile, without a graph of the whole step).
    """

    def __init__(self, wishes: Values) -> None:
        self.recipe, self.device = wishes["recipe"], wishes["device"]
        self.training = SimpleNamespace(**self.recipe["training"])
        self.precision = torch.bfloat16 if self.device == "cuda" else torch.float32
        prepare(self.device)
        data = torch.load(wishes["data"], weights_only=True)
        place = torch.device(self.device)
        self.train_images, self.test_images, self.test_labels = (
            data[key].to(place) for key in ("train_images", "test_images", "test_labels")
        )
        self.num_classes = len(data["class_names"])
        self.split = Split(data["train_images"], data["train_labels"])
        self.with_programs = wishes["compile"] == "graphs"
        self.network, self.selection = self._fresh(seed=0)
        self.optimizer = self._optimizer_for(self.network)
        self.selection.begin(place, self._optimizer_for, make(self.recipe["schedule"]))
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        stages: Any = [SimpleNamespace(**stage) for stage in self.training.resizing]
        self.step = TrainingStep(self.network, self.selection, stages, self.training.label_smoothing)
        mode = wishes["compile"]
        if mode and not (mode == "graphs" and has_gpu_kernels(self.network)):
            for network in (self.network, *self.selection.networks):
                # Code for each size of images, not for any.
                network.compile(mode="default" if mode == "graphs" else mode, dynamic=False)
        self.captured: CapturedStep | None = None
        if (
            mode == "graphs"
            and self.device == "cuda"
            and can_capture(self.step, self.optimizer, self.training.accumulate)
        ):
            clip = self.training.gradient_clip
            self.captured = CapturedStep(self.step, self.network, self.optimizer, self._autocast, clip)

    def _fresh(self, seed: int) -> tuple[nn.Module, ExampleSelection]:
        """Return a network that has learnt nothing, and what chooses the images that it will learn from."""
        torch.manual_seed(seed)
        shapes = {"num_classes": self.num_classes, "image_size": self.train_images.shape[-1]}
        network: nn.Module = make(self.recipe["model"], **shapes)
        selection: ExampleSelection = make(self.recipe["selection"], **shapes)
        for each in (network, *selection.networks):
            layout, kernels = self.training.channels_last, self.training.kernels
            prepare_network(each.to(self.device), layout, kernels, with_programs=self.with_programs)
        return network, selection

    def run(self, number: int) -> tuple[float, float]:
        """Train and test once, from weights of its own; return seconds and accuracy."""
        # Into the same tensors: a graph that was captured reads from where it was captured.
        fresh, fresh_selection = self._fresh(seed=number + 1)
        networks = [self.network, *self.selection.networks]
        for old, new in zip(networks, [fresh, *fresh_selection.networks], strict=True):
            old.load_state_dict(new.state_dict())
        self._reset_optimizers()
        batches = self._batches(seed=number + 1)
        start, end = Stopwatch(), Stopwatch()
        wait(self.device)
        start.record()
        for network in networks:
            network.calibrate(self.train_images)  # type: ignore[operator]
        self._learn(batches)
        answers = self._answer()
        end.record()
        wait(self.device)
        accuracy = (answers.argmax(dim=1) == self.test_labels).double().mean().item()
        return start.elapsed_time(end) / 1000, accuracy

    def _optimizer_for(self, network: nn.Module) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = make(self.recipe["optimizer"], network=network, params=network.parameters())
        return optimizer

    def _reset_optimizers(self) -> None:
        """Make the optimizers as if they had done nothing, with their state in the same tensors."""
        for group, rate in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = rate
        for optimizer in (self.optimizer, *self.selection.optimizers):
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _batches(self, seed: int) -> TrainingBatches:
        augmentation: Any = SimpleNamespace(**self.recipe["augmentation"])
        place = torch.device(self.device)
        return TrainingBatches(
            self.split, self.num_classes, augmentation, self.training.batch_size, seed, place, self.training.accumulate
        )

    def _learn(self, batches: TrainingBatches) -> None:
        """Make every step; nothing here waits for the device."""
        micro_batches = self.training.accumulate
        num_steps, done = self.training.epochs * batches.steps_per_epoch, 0
        scheduler = make_scheduler(self.optimizer, make(self.recipe["schedule"]), num_steps)
        self.network.train()
        for epoch in range(self.training.epochs):
            batches.seek(epoch, batch=0)
            for number, batch in enumerate(batches):
                if self.captured is not None:
                    self.captured(batch, number, done / num_steps)
                    scheduler.step()
                    done += 1
                    continue
                with self._autocast():
                    self.step.set_progress(done / num_steps)
                    loss = self.step.forward(batch, number, done / num_steps).loss
                (loss / micro_batches).backward()
                if (number + 1) % micro_batches == 0:
                    update(self.optimizer, scheduler, self.training.gradient_clip)
                    done += 1

    @torch.no_grad()
    def _answer(self) -> Tensor:
        """Return the probabilities of the test images."""
        evaluation = SimpleNamespace(**self.recipe["evaluation"])
        self.network.eval()
        mode, confidence = evaluation.tta, evaluation.tta_confidence
        answers: Tensor = predict_probabilities(self._probabilities, self.test_images, mode, confidence)
        return answers

    def _probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities of `images` in batches of one size, the last one filled up: a size is compiled."""
        size = min(self.recipe["evaluation"]["batch_size"], len(self.test_images))
        filled = torch.cat([images, images[:1].expand(-len(images) % size, -1, -1, -1)])
        with self._autocast():
            parts = [self.network(part).float().softmax(dim=1) for part in filled.split(size)]
        return torch.cat(parts)[: len(images)]

    def _autocast(self) -> torch.autocast:
        """Return the context of a forward pass; weights are converted again each time, as a graph needs."""
        is_enabled = self.precision == torch.bfloat16
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=is_enabled, cache_enabled=False)


def prepare(device: str) -> None:
    """Let cuDNN try its kernels once a shape, and float32 products use tensor cores."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


if __name__ == "__main__":
    main()
