"""Those who race: our recipe or a record script, each in a process of its own that runs whenever it is told to.

`gpu_race.py` starts it with its wishes as JSON and talks to it: a line on stdin is one run, and is answered by a line
of JSON on stdout with seconds and accuracy. A process of its own, because record scripts compile at import, set global
flags and keep what they compiled for the next run; so nobody is disturbed by what another has set or cached.

The clock is one for all: device events around what the record scripts time themselves, which is measuring the first
layer, training, and the last evaluation with test-time augmentation. Networks are made and compiled before, on a
throwaway run, and the data set is on the device already. Where a script says `torch.cuda.Event`, it gets a `Stopwatch`,
which adds up what the script measures.
"""

import ast
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import measuring  # noqa: F401  (puts the package on the path)
import torch
from recipe_files import Values, make
from torch import Tensor, nn

from cifar10.data.image_dataset import Split
from cifar10.devices import has_gpu_kernels, prepare_network
from cifar10.inference.tta import predict_probabilities
from cifar10.system.memory import keep_memory_warm
from cifar10.training.batches import TrainingBatches
from cifar10.training.captured_step import CapturedStep, can_capture
from cifar10.training.hard_example_mining import ExampleSelection
from cifar10.training.step import TrainingStep, make_scheduler, update

Run = Callable[[int], tuple[float, float]]
"""Number of the run -> seconds and accuracy."""


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


class Stopwatch:
    """A device event, or a clock reading where there is no GPU; adds up all that is measured with it."""

    total_ms: ClassVar[float] = 0.0

    def __init__(self, **_: Any) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        self._seconds = 0.0

    def record(self, *_: Any) -> None:
        if self._event is not None:
            self._event.record()
        self._seconds = time.perf_counter()

    def elapsed_time(self, end: "Stopwatch") -> float:
        """Return milliseconds from this to `end`; the device must be through with both."""
        if self._event is not None and end._event is not None:
            ms = float(self._event.elapsed_time(end._event))
        else:
            ms = 1000 * (end._seconds - self._seconds)
        Stopwatch.total_ms += ms
        return ms


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# -- ours ------------------------------------------------------------------------------------------------------------


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


# -- records ---------------------------------------------------------------------------------------------------------


def record_script(wishes: Values) -> Run:
    """Return a run of the script at wishes["record"]: what its loop over runs calls, with the loop itself left out.

    Everything before the loop is executed as if the script were started, in a scratch folder that holds the data in the
    form in which the script would have stored them.
    """
    path = Path(wishes["record"]).absolute()
    scratch = tempfile.mkdtemp(prefix="race_")
    _store_data(torch.load(wishes["data"], weights_only=True), Path(scratch))
    os.chdir(scratch)
    sys.argv = [str(path)]  # scripts read their own text
    module = ModuleType(f"record_{path.stem}")
    sys.modules[module.__name__] = module  # torch.compile looks names up in the module that a function is from
    namespace = module.__dict__
    namespace.update(__file__=str(path), Stopwatch=Stopwatch)
    before, call, counter = split_at_loop(path.read_text())
    exec(compile(before, str(path), "exec"), namespace)
    lap = compile(call, str(path), "eval")

    def run(number: int) -> tuple[float, float]:
        Stopwatch.total_ms = 0.0
        result = eval(lap, namespace, {counter: number + 1})
        wait(wishes["device"])
        return Stopwatch.total_ms / 1000, accuracy_in(result, wishes["plain"])

    return run


class OwnClock(ast.NodeTransformer):
    """Puts `Stopwatch` where a script says `torch.cuda.Event`; PyTorch's own uses of it are left alone."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) == "torch.cuda.Event":
            return ast.copy_location(ast.Name("Stopwatch", ast.Load()), node)
        return self.generic_visit(node)


def split_at_loop(text: str) -> tuple[ast.Module, ast.Expression, str]:
    """Split a record script where its `if __name__ == "__main__":`, or the function it calls, begins to loop over runs.

    Returns:
        All before that loop, the call inside it that gets the loop's counter, and the name of the counter.
    """
    tree = OwnClock().visit(ast.parse(text))
    guard = next(
        (node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)), None
    )
    if guard is None:
        raise ValueError("the script has no `if __name__ == ...` block, so its loop over runs cannot be found")
    body = _called_body(tree, guard.body)
    for index, statement in enumerate(body):
        for node in ast.walk(statement):
            loop = node.generators[0] if isinstance(node, ast.ListComp) else node
            if isinstance(loop, ast.For | ast.comprehension) and "range(" in ast.unparse(loop.iter):
                call = _first_call(loop.body if isinstance(loop, ast.For) else [node], ast.unparse(loop.target))
                if call is not None:
                    before = [*tree.body[: tree.body.index(guard)], *body[:index]]
                    return ast.Module(before, []), ast.Expression(call), ast.unparse(loop.target)
    raise ValueError("the script has no loop over range(...) that calls a function with its counter")


def _called_body(tree: ast.Module, body: list[ast.stmt]) -> list[ast.stmt]:
    """Return `body`, or if it only calls a function of `tree` without arguments, the body of that function."""
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and [ast.unparse(node) for node in body] == [f"{function.name}()"]:
            return function.body
    return body


def _first_call(nodes: Sequence[ast.AST], counter: str) -> ast.Call | None:
    """Return the first call in `nodes` with `counter` in an argument."""
    for call in (inner for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Call)):
        words = [inner for argument in call.args for inner in ast.walk(argument) if isinstance(inner, ast.Name)]
        if counter in [word.id for word in words]:
            return call
    return None


def accuracy_in(result: Any, plain: bool) -> float:
    """Return the accuracy in what `main` returned: one with augmentation, or (plain, with augmentation, ...)."""
    return float(result[0 if plain else 1]) if isinstance(result, tuple | list) else float(result)


def _store_data(data: dict[str, Any], folder: Path) -> None:
    """Write train.pt and test.pt as the record scripts' loaders do: uint8 (N, H, W, 3)."""
    for name in ("cifar10", "cifar100"):
        (folder / name).mkdir()
        for split in ("train", "test"):
            images = data[f"{split}_images"].permute(0, 2, 3, 1).contiguous()
            content = {"images": images, "labels": data[f"{split}_labels"], "classes": data["class_names"]}
            torch.save(content, folder / name / f"{split}.pt")


if __name__ == "__main__":
    main()
