"""A small network says which images of a batch are hard, learns to say so, and a resumed run goes on with it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import count_flops, count_recipe
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cifar10.model
from cifar10.config.build import build
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.schema import Config
from cifar10.config.targets import OPTIMIZER
from cifar10.errors import UserError
from cifar10.optimizers.muon import muon
from cifar10.optimizers.schedules import Linear
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.batches import Batch
from cifar10.training.hard_example_mining import AllExamples, HardExampleMining
from cifar10.training.metrics import RunningMetrics
from tests.data.test_folder import fill
from tests.tiny_run import TINY

SMOOTHING = 0.1
SELECTING = ("selection=hardest", "selection.widths=[4,8,8]", "selection.every=2")


def make_batch(seed: int = 0, num_images: int = 24, size: int = 16) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 3, size, size), generator=random, dtype=torch.uint8)
    return images, torch.randint(0, 10, (num_images,), generator=random)


def make_hardest(**arguments: Any) -> HardExampleMining:
    torch.manual_seed(0)
    selection = HardExampleMining(10, 16, **{"part": 0.25, "every": 3, "widths": [4, 8, 8], **arguments})
    selection.network.calibrate(make_batch()[0])

    def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)

    selection.begin(torch.device("cpu"), make_optimizer, Linear())
    return selection


def losses(selection: HardExampleMining, batch: Batch) -> Tensor:
    with torch.no_grad():
        return cross_entropy(selection.network(batch[0]), batch[1], reduction="none", label_smoothing=SMOOTHING)


def weights(selection: HardExampleMining) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in selection.network.parameters() if parameter.requires_grad]


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_all_chooses_all() -> None:
    batch = make_batch()
    assert AllExamples().choose(batch, 0, SMOOTHING) is batch


@pytest.mark.parametrize(("part", "num_chosen"), [(0.25, 6), (0.5, 12), (0.01, 1)])
def test_the_images_with_the_largest_losses_are_chosen_in_their_order(part: float, num_chosen: int) -> None:
    selection, (images, labels) = make_hardest(part=part), make_batch()
    expected = sorted(losses(selection, (images, labels)).argsort(descending=True)[:num_chosen].tolist())
    chosen, targets = selection.choose((images, labels), 1, SMOOTHING)
    assert torch.equal(chosen, images[expected]) and torch.equal(targets, labels[expected])


def test_blended_labels_choose_as_well() -> None:
    selection, (images, labels) = make_hardest(), make_batch()
    plain, _ = selection.choose((images, labels), 1, SMOOTHING)
    blended, rows = selection.choose((images, nn.functional.one_hot(labels, 10).float()), 1, SMOOTHING)
    assert torch.equal(plain, blended) and rows.shape == (6, 10)


def test_the_small_network_learns_from_what_was_chosen_of_every_third_batch() -> None:
    selection = make_hardest()
    before = weights(selection)
    selection.set_progress(0.25)
    for number in (1, 2, 4, 5):
        selection.choose(make_batch(number), number, SMOOTHING)
        assert are_equal(weights(selection), before)
    images, labels = make_batch(3)
    hardest = losses(selection, (images, labels)).topk(6).indices.sort().values
    loss = cross_entropy(selection.network(images[hardest]), labels[hardest], label_smoothing=SMOOTHING)
    learnable = [parameter for parameter in selection.network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, learnable)
    selection.choose((images, labels), 3, SMOOTHING)
    rate = 0.5 * (1 - 0.25)  # a first step of SGD has no momentum
    for old, gradient, new in zip(before, gradients, weights(selection), strict=True):
        torch.testing.assert_close(new, old - rate * gradient)


def test_what_was_hard_becomes_easier_the_more_often_it_is_learnt_from() -> None:
    selection, batch = make_hardest(every=1, part=0.9), make_batch()
    selection.begin(torch.device("cpu"), lambda network: muon(network, lr=0.1), Linear())
    selection.set_progress(0.5)
    before = losses(selection, batch).mean()
    for _ in range(30):
        selection.choose(batch, 0, SMOOTHING)
    assert losses(selection, batch).mean() < 0.9 * before


def test_a_selection_that_goes_on_from_a_state_chooses_and_learns_the_same() -> None:
    first, second = make_hardest(every=1), make_hardest(every=1)
    first.set_progress(0.1)
    for number in range(3):
        first.choose(make_batch(number), number, SMOOTHING)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for selection in (first, second):
        selection.set_progress(0.5)
    for number in range(3, 6):
        one, other = (each.choose(make_batch(number), number, SMOOTHING) for each in (first, second))
        assert torch.equal(one[0], other[0])
    assert are_equal(weights(first), weights(second))


# -- in whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def make_config(name: str, *overrides: str) -> Config:
    model = ["model=speed", "model.widths=[8,8,8]", "optimizer=muon", "schedule=linear"]
    return load_config([*TINY, *model, *SELECTING, "training.monitor=null", f"run_name={name}", *overrides])


def facts_of(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["training.accumulate=2"], ["training.precision=bf16"]], ids=" ".join)
def test_chunks_teach_bitwise_what_lightnings_own_loop_does(options: list[str], in_empty_folder: None) -> None:
    for name, seconds in (("steps", 0), ("chunks", 60)):
        train(make_config(name, *options, f"training.chunk_seconds={seconds}"))
    raw = [torch.load(f"models/{name}/last.ckpt", weights_only=True) for name in ("steps", "chunks")]
    assert facts_of("steps")["weights_digest"] == facts_of("chunks")["weights_digest"]
    small = [list(entry["cifar10_selection"]["network"].values()) for entry in raw]
    assert are_equal(*small)


def test_the_main_network_learns_from_the_chosen_images_only(
    in_empty_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    add = RunningMetrics.add

    def note(self: RunningMetrics, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        seen.append(len(logits))
        add(self, loss, logits, targets)

    monkeypatch.setattr(RunningMetrics, "add", note)
    train(make_config("few", "selection.part=0.2", "training.epochs=1"))
    assert seen[:3] == [4, 4, 4]  # of batches of 20


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 60])
def test_a_resumed_run_chooses_what_the_uninterrupted_one_does(
    seconds: int, in_empty_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = f"training.chunk_seconds={seconds}"
    train(make_config("whole", chunks))
    compute_loss = cifar10.model.Classifier._loss

    def stop_in_step_one(self: Any, batch: Any, number: int) -> Any:
        if self.global_step == 1:
            os.kill(os.getpid(), 15)
        return compute_loss(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(cifar10.model.Classifier, "_loss", stop_in_step_one)
        with pytest.raises(SystemExit):
            train(make_config("cut", chunks))
    for lossy in (True, False):
        shutil.copytree("models/cut", "models/again")
        raw = torch.load("models/cut/last.ckpt", weights_only=True)
        if lossy:
            raw["cifar10_selection"] = {}
        torch.save(raw, "models/again/last.ckpt")
        train(make_config("again"), resume="again")
        same = facts_of("again")["weights_digest"] == facts_of("whole")["weights_digest"]
        assert same != lossy
        Path("models/again").rename(f"models/lossy{lossy}")


def test_the_checkpoint_answers_without_the_small_network(in_empty_folder: None) -> None:
    train(make_config("mine"))
    checkpoint = load_checkpoint(Path("models/mine/best.ckpt"))
    assert checkpoint.config.selection.arguments["widths"] == [4, 8, 8]
    assert set(checkpoint.weights) == set(checkpoint.network().state_dict())


def test_a_checkpoint_older_than_the_setting_learns_from_all() -> None:
    older = load_config(TINY).plain()
    del older["selection"]
    assert Config.model_validate(older).selection == load_config(TINY).selection


@pytest.mark.slow
@pytest.mark.parametrize("part", ["0", "1", "1.5"])
def test_a_part_that_is_none_or_all_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=r"selection\.part"):
        load_config(["selection=hardest", f"selection.part={part}"])


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["model=simple_cnn", "data_loading=folder", "data_loading.image_size=8"], "selection=all"),
        (["model=simple_cnn", "training.resizing=[{until:0.5,scale:0.3}]"], r"training\.resizing=\[\]"),
    ],
)
def test_images_too_small_for_the_small_network_are_refused_before_anything_is_made(
    options: list[str], advice: str, in_empty_folder: None
) -> None:
    fill(Path("data"), {"train/a": 8, "train/b": 8})
    shapes = [] if "data_loading=folder" in options else ["data_loading=shapes"]
    config = load_config([*shapes, "tracking=none", *SELECTING, *options])
    with pytest.raises(UserError, match=rf"images of \d+ pixels.*too small.*{advice}"):
        train(config)
    assert not Path("models").exists()


def test_choosing_is_counted() -> None:
    words = ["data_loading=shapes", "data_loading.train_size=400", "training.batch_size=100", "training.epochs=2"]
    words += ["training.resizing=[]", "training.accumulate=1"]
    whole, chosen = (count_recipe(load_config([*words, *more])) for more in ([], ["selection=hardest"]))
    selection = HardExampleMining(10, 32)
    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    result: list[Tensor] = []
    forward = count_flops(lambda: result.append(selection.network(images)))
    backward = count_flops(result[0].sum().backward)
    optimizer = build(
        OPTIMIZER, load_config(words).optimizer, network=selection.network, params=selection.network.parameters()
    )
    own_step = count_flops(optimizer.step)
    main_image = whole.forward_image + whole.backward_image
    # Of eight batches, the first and the fifth are learnt from.
    expected = 8 * (50 * main_image + whole.optimizer_step + 2 * forward) + 2 * (forward + backward + own_step)
    assert chosen.training == expected
    assert chosen.training < 0.6 * whole.training


SHARE = """
from pathlib import Path
import torch
from cifar10.training.hard_example_mining import HardExampleMining
from cifar10.optimizers.schedules import Constant
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
selection = HardExampleMining(10, 16, widths=[4, 8, 8], every=1)
selection.begin(torch.device("cpu"), lambda network: torch.optim.SGD(network.parameters(), lr=0.1), Constant())
before = selection.network.head.weight.detach().clone()
random = torch.Generator().manual_seed(rank)
for number in range(3):
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=random, dtype=torch.uint8)
    selection.choose((images, torch.randint(0, 10, (20,), generator=random)), number, 0.0)
own = torch.cat([parameter.detach().flatten() for parameter in selection.network.parameters()])
both = [torch.empty_like(own) for _ in range(2)]
torch.distributed.all_gather(both, own)
assert not torch.equal(before, selection.network.head.weight)
# A file each: lines of two processes may meet on one standard output.
Path(f"rank_{rank}").write_text("alike" if torch.equal(*both) else "apart")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_that_see_other_images_share_one_small_network(tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(SHARE)
    variables = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    said = {file.name: file.read_text() for file in tmp_path.glob("rank_*")}
    assert said == {"rank_0": "alike", "rank_1": "alike"}, done.stderr
