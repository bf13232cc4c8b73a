"""What users of comparable programs have reported in public, tried on this one; each address says where."""

import errno
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sqlalchemy import create_engine

from cifar10.analysis.figures import save_figures
from cifar10.cli.command_line import main
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.mlflow_uri import absolute_uri
from cifar10.config.schema import Config
from cifar10.config.targets import DATA
from cifar10.data.folder import folder
from cifar10.data.image_dataset import DataError, ImageDataset
from cifar10.errors import UsageError, UserError
from cifar10.evaluate import evaluate
from cifar10.images.parallel import decode_files
from cifar10.images.search import ImageSearch
from cifar10.inference.destination import choose_destination
from cifar10.runs.folder import FolderError, claim_new
from cifar10.runs.record import RunRecord
from cifar10.runs.tracking import open_tracker
from cifar10.system.limits import available_memory, num_cpus, total_memory
from cifar10.train import train
from cifar10.training.preflight import refuse_unfit, tell_batches
from commands import COMMANDS
from tests.malformed import picture
from tests.tiny_run import TINY

PROGRAM = Path(__file__).parents[1] / "commands.py"
SMALL = (*TINY, "model.width=4")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code of a command line and its output on stderr."""
    return main(COMMANDS, "", words), capsys.readouterr().err


# -- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "advised"),
    [
        ("training.epochs=“5”", "training.epochs=5"),  # https://github.com/RhetTbull/osxphotos/issues/1437
        ("run_name=‘first’", "run_name=first"),
        ("data_loading.classes=[“a”,“b”]", 'data_loading.classes=["a","b"]'),
        ("optimizer.lr=1e–3", "optimizer.lr=1e-3"),
        ("training.epochs=5;", "training.epochs=5"),
        ("training.epochs=5,", "training.epochs=5"),
        ('training.resizing=[{"until":0.5,"scale":0.75}]', "training.resizing=[{until:0.5,scale:0.75}]"),
        ("data_loading.root=my,folder", 'data_loading.root="my,folder"'),  # hydra-ecosystem/hydra/issues/573
        ("optimizer.lr=0,01", "optimizer.lr=0.01"),  # https://github.com/hydra-ecosystem/hydra/issues/126
    ],
)
def test_what_is_advised_for_characters_of_another_origin_is_accepted(
    line: str, advised: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(["config", "data_loading=folder", line], capsys)
    assert code == 2 and told.count("\n") == 1
    assert advised in shlex.split(told.replace(";", " ").replace(",  ", " "))
    assert answer(["config", "data_loading=folder", advised], capsys)[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["infer", "--test_dir=photos\r"],  # https://github.com/kivy/python-for-android/pull/1712
        ["train", "training.epochs=5\r"],
        ["train", "\r"],  # https://github.com/NeuSpeech/EEG-To-Text/issues/2
        ["train\r"],
    ],
)
def test_the_line_ends_of_windows_are_named_and_not_printed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = answer(words, capsys)
    assert code == 2 and "carriage return" in told and "\r" not in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        # https://github.com/pytorch/torchtitan/issues/746
        ("data_loading.seed=99999999999999999999", "data_loading.seed: must be less than 9223372036854775808"),
        # https://github.com/mlflow/mlflow/issues/4199
        ("tracking.experiment='flowers '", 'tracking.experiment: "flowers " begins or ends with a space'),
    ],
)
def test_a_value_that_would_be_another_or_none_is_refused(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, complaint = answer(["train", "data_loading=folder", line], capsys)
    assert code == 2 and told in complaint


@pytest.mark.parametrize("name", ["cat.png", "CAT.JPG", "best.ckpt", "model.onnx"])
def test_results_do_not_replace_a_picture_or_a_checkpoint(name: str) -> None:
    """https://github.com/tsurumeso/waifu2x-chainer/issues/13, https://github.com/mapequation/infomap/issues/907."""
    Path(name).write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already, and its suffix is not that of a result"):
        choose_destination(name, "csv")
    assert Path(name).read_bytes() == b"mine"


# -- batches and images --------------------------------------------------------------------------------------------


def shapes_of(config: Config) -> ImageDataset:
    data: ImageDataset = build(DATA, config.data_loading)
    return data


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        # https://github.com/pytorch/pytorch/issues/18413
        (["augmentation.crop_padding=16"], "images of 16 pixels have 15 at most; lower it"),
        (["training.batch_size=100", "training.accumulate=100"], "60 training images cannot be shared by 100 parts"),
    ],
)
def test_what_these_images_cannot_do_is_refused_before_the_first_step(settings: list[str], told: str) -> None:
    config = load_config([*SMALL, *settings])
    with pytest.raises(UsageError, match=told):
        refuse_unfit(config, shapes_of(config))


@pytest.mark.parametrize(
    ("batch_size", "told"),
    [
        # https://github.com/fastai/fastai/issues/2416
        (2000, "note: the training split has 60 images, so each step trains on 60 of them"),
        # https://github.com/fastai/fastai/issues/1557
        (40, "trains on 40 of the 60 training images, in whole batches of 40, .* training.batch_size=30 it would "),
        (20, ""),
        (11, ""),  # five images of sixty wait for another epoch
    ],
)
def test_smaller_batches_and_images_left_out_are_told(
    batch_size: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config([*SMALL, f"training.batch_size={batch_size}"])
    tell_batches(config, shapes_of(config))
    assert re.search(told, complaint := capsys.readouterr().err)
    assert bool(complaint) == bool(told)


def write(root: Path, counts: dict[str, int], first: int = 0) -> None:
    """Write `counts[FOLDER]` pictures into each folder below `root`, all different."""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(picture(first + 1000 * position + number, 16)).save(root / name / f"{number}.png")


def load(root: Path, classes: list[str | int] | None = None) -> ImageDataset:
    return folder(str(root), 16, classes, validation_fraction=0.25, test_fraction=0.25, seed=0)


def test_images_that_are_tested_on_and_learnt_from_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """https://github.com/pratikkayal/PlantDoc-Dataset/issues/4."""
    write(Path("set"), {"train/a": 8, "train/b": 8, "test/a": 2, "test/b": 2})
    load(Path("set"))
    assert caplog.text == ""
    Image.open("set/test/a/1.png").save("set/train/a/under another name.bmp")
    Image.open("set/test/b/1.png").save("set/train/a/of another class.png")
    load(Path("set"))
    assert "2 of 4 test images are also training images, pixel for pixel" in caplog.text
    assert "in several classes at once, pixel for pixel: 1 image, such as one of a, b" in caplog.text


def test_classes_told_apart_by_spelling_alone_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """https://github.com/roboflow/supervision/issues/1641."""
    write(Path("set"), {"train/Cat": 8, "train/cat": 8, "train/black dog": 8})
    assert load(Path("set")).class_names == ("Cat", "black dog", "cat")
    assert "Cat, cat are separate classes that differ only in spelling" in caplog.text


@pytest.mark.parametrize(
    ("made", "root", "told"),
    [
        # https://github.com/ultralytics/ultralytics/issues/753
        ("set/train", "set/train", "name the folder that contains train: data_loading.root=set"),
        ("zip/set/train", "zip", "it is in zip/set: data_loading.root=zip/set"),
        # https://github.com/python/cpython/issues/91036
        ("zip/train\\a", "zip", "backslashes, as in archives from Windows; unpack the archive again with unzip"),
    ],
)
def test_a_root_that_is_one_folder_off_is_told_with_the_right_one(made: str, root: str, told: str) -> None:
    write(Path(made), {"a": 1, "b": 1})
    with pytest.raises(DataError, match=re.escape(told)):
        load(Path(root))


def test_a_class_of_one_image_stays_in_training(caplog: pytest.LogCaptureFixture) -> None:
    """https://github.com/pycaret/pycaret/issues/311."""
    write(Path("set"), {"train/common": 30, "train/rare": 1, "test/common": 2})
    data = load(Path("set"))
    assert [int((split.labels == 1).sum()) for split in data.splits.values()] == [1, 0, 0]
    assert "1 of 2 classes have no test image, so no score: rare" in caplog.text


def _sixteen_bit() -> Image.Image:
    return Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))


def _save_turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(path.with_suffix(".jpg"), exif=exif)


PICTURES: dict[str, Callable[[Image.Image, Path], None]] = {
    "EXIF": _save_turned,
    "palette": lambda image, path: image.quantize(8).save(path.with_suffix(".png"), transparency=0),
    "CMYK": lambda image, path: image.convert("CMYK").save(path.with_suffix(".jpg")),
    "animated": lambda image, path: image.save(
        path.with_suffix(".gif"), save_all=True, append_images=[image.rotate(90)]
    ),
    "16-bit": lambda image, path: _sixteen_bit().save(path.with_suffix(".png")),
    "alpha": lambda image, path: image.convert("RGBA").rotate(45).save(path.with_suffix(".webp"), lossless=True),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_pictures_are_the_same_pixels_in_training_as_in_inference() -> None:
    """https://github.com/huggingface/diffusers/pull/3465, https://github.com/tensorflow/tensorflow/issues/49834."""
    write(Path("set"), {"test/plain": 1, "train/plain": 2, "test/odd": 1})
    Path("set/train/odd").mkdir()
    for name, save in PICTURES.items():
        save(Image.fromarray(picture(7, 24)).crop((0, 0, 24, 16)), Path("set/train/odd", name))
    data = folder("set", 16, None, validation_fraction=0.0, test_fraction=0.0, seed=0)
    learnt = data.train.images[data.train.labels == data.class_names.index("odd")].permute(0, 2, 3, 1).numpy()
    asked = [pixels for _, pixels in decode_files(ImageSearch("set/train/odd"), 16, look_ahead=4)]
    assert len(asked) == len(PICTURES)
    np.testing.assert_array_equal(learnt, np.stack(asked))  # type: ignore[arg-type]
    assert len({pixels.tobytes() for pixels in learnt}) == len(PICTURES)


# -- one run, on other machines, in other batches, at other times --------------------------------------------------


def change_checkpoints(run: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Let `change` have the configuration in the run's folder and checkpoints, as if another machine had made them."""
    for name in ("best.ckpt", "last.ckpt"):
        raw = torch.load(run / name, weights_only=True)
        change(raw["cifar10"]["config"])
        (run / name).unlink()  # two names of one file
        torch.save(raw, run / name)
    (run / "config.yaml").write_text(yaml.safe_dump(raw["cifar10"]["config"]))


def train_then_change(change: Callable[[dict[str, object]], None]) -> dict[str, float]:
    """Train a small run `a` that can go on to more epochs, and return its scores on the test images."""
    scores = train(load_config([*SMALL, "schedule=constant", "evaluation.tta=none", "run_name=a"]))
    change_checkpoints(Path("models/a"), change)
    return {name: value for name, value in scores.items() if name.startswith("test/")}


@pytest.mark.slow
def test_a_checkpoint_of_a_gpu_is_evaluated_and_goes_on_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/17974."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    scores = train_then_change(lambda config: config["training"].update(accelerator="gpu"))  # type: ignore[attr-defined]
    assert evaluate("a", report=False) == pytest.approx(scores)
    capsys.readouterr()
    resumed = ["train", "--resume=a", "training.epochs=3"]
    code, told = answer(resumed, capsys)
    assert code == 2 and "there are 0; set training.accelerator=cpu" in told
    code, told = answer([*resumed, "training.accelerator=cpu"], capsys)
    assert code == 0 and "epoch 3/3" in told
    assert json.loads(Path("models/a/scores.json").read_text())["epochs"] == 3


def test_scores_do_not_depend_on_the_batches_of_the_test() -> None:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/2924: a short last batch counts by its images."""
    scores = train_then_change(lambda config: config["evaluation"].update(batch_size=7))  # type: ignore[attr-defined]
    assert evaluate("a", report=False) == pytest.approx(scores, abs=1e-6)


def test_a_network_that_gives_no_numbers_is_not_scored(capsys: pytest.CaptureFixture[str]) -> None:
    """https://github.com/AI-SDC/SACRO-ML/issues/366, https://github.com/ludwig-ai/ludwig/pull/3129."""
    train(load_config([*SMALL, "run_name=a"]))
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    raw["state_dict"]["network.head.bias"][0] = torch.nan
    torch.save(raw, "models/a/best.ckpt")
    capsys.readouterr()
    refusal = re.compile("models/a/best.ckpt gives no numbers for 30 of 30 (test )?images: it has diverged")
    for command, made in {"evaluate": "evaluation", "export": "export", "benchmark": "benchmark"}.items():
        assert main(COMMANDS, "", [command, "a"]) == 1
        said = capsys.readouterr()
        assert said.out == "" and refusal.search(said.err)
        assert list(Path("models/a", made).iterdir()) == []


def test_a_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/thu-ml/tianshou/issues/1291."""
    began = time.time()
    monkeypatch.setattr("time.time", lambda: began - 1000 * (time.monotonic() % 3600))
    scores = train(load_config([*SMALL, "training.save_every_seconds=0.01"]))
    assert 0 <= scores["wall_seconds"] < 600
    (run,) = Path("models").iterdir()
    assert float((run / "history.csv").read_text().splitlines()[1].rpartition(",")[2]) >= 0
    record = json.loads((run / "run.json").read_text())
    assert record["started"] <= record["ended"]


def test_figures_do_not_depend_on_a_matplotlibrc(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/matplotlib/matplotlib/issues/17683: at the end of a run, LaTeX was needed and not there."""
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    entry = {"epoch": 0, "train/loss": 1.0, "train/accuracy": 0.5}
    save_figures([entry], np.eye(2, dtype=np.int64), ("$5", "a_$"), Path())
    assert Image.open("confusion.png").size > (100, 100) and Image.open("curves.png").size > (100, 100)


def test_the_backend_of_a_notebook_is_not_that_of_its_processes() -> None:
    """https://github.com/bmaltais/kohya_ss/issues/2521."""
    code = "import sys; sys.argv[1:] = ['--version']; import commands as c; c.main(c.COMMANDS, ''); import matplotlib"
    setting = {"MPLBACKEND": "no backend of this installation", "PYTHONUTF8": "1", "PYTHONPATH": str(PROGRAM.parent)}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=setting)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_told_in_one_line() -> None:
    """https://github.com/pytorch/pytorch/issues/116696."""
    line = [sys.executable, str(PROGRAM), "train", *SMALL, "training.compile=true", "training.accelerator=cpu"]
    done = subprocess.run(["env", "CXX=/bin/false", *line], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "or set training.compile=false" in done.stderr.splitlines()[-1]


def test_a_run_of_one_process_does_not_go_on_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    train_then_change(lambda config: None)
    code, told = answer(["train", "--resume=a", "training.devices=2", "training.accelerator=cpu"], capsys)
    assert code == 2 and "cannot resume with 2 processes" in told and "train weights=models/a/last.ckpt" in told


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_four() -> None:
    """https://github.com/huggingface/transformers/issues/23152."""
    begin, go_on = [*SMALL, "schedule=constant", "run_name=a"], ["--resume=a", "training.epochs=3"]
    for words in ([*begin, "training.devices=2"], [*go_on, "training.devices=4"]):
        line = [sys.executable, str(PROGRAM), "train", *words, "training.accelerator=cpu"]
        subprocess.run(line, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    rows = Path("models/a/history.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["0", "3"], ["1", "6"], ["2", "9"]]


# -- where runs are kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/huggingface/datasets/issues/2618, https://github.com/DataBiosphere/toil/issues/4846."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FolderError, match=r"on a file system that cannot lock files .* choose another with models_dir"):
        claim_new(Path("models"), "a", may_be_renamed=False)


def test_a_copied_run_has_a_record_of_its_own_and_a_renamed_one_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    """https://github.com/wandb/wandb/issues/6164, https://github.com/wandb/wandb/issues/6216."""
    tracking = load_config(SMALL).tracking
    for name in ("original", "copy"):
        Path("models", name).mkdir(parents=True)
    open_tracker(tracking, Path("models/original")).start({}, {}, {})
    Path("models/original/run_id").write_text("0" * 32)
    for name in ("run.json", "run_id"):
        Path("models/copy", name).write_bytes(Path("models/original", name).read_bytes())
    open_tracker(tracking, Path("models/copy"), run_id="0" * 32).start({}, {}, {})
    assert capsys.readouterr().err == "models/copy is a copy of original; it continues as a separate run\n"
    Path("models/original").rename("models/renamed")
    open_tracker(tracking, Path("models/renamed")).start({}, {}, {})
    assert capsys.readouterr().err == ""
    copy, renamed = RunRecord.of(Path("models/copy")), RunRecord.of(Path("models/renamed"))
    assert copy is not None and renamed is not None and copy.key != renamed.key
    assert copy.run_id is None and renamed.run_id == "0" * 32


@pytest.mark.parametrize("name", ["what?", "100%", "a%20b", "#1", "a b", "ü"])
def test_mlflows_database_is_in_this_folder_whatever_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/mlflow/mlflow/issues/1487: percent signs; a question mark would begin a query."""
    Path(name).mkdir()
    monkeypatch.chdir(name)
    create_engine(absolute_uri("sqlite:///mlflow.db")).connect().close()
    assert [path.name for path in Path().iterdir()] == ["mlflow.db"]


# -- containers and jobs -------------------------------------------------------------------------------------------


def in_group(files: dict[str, str], own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be in the control group that `own` says, the groups having `files`."""
    for name, text in files.items():
        (path := Path("cgroup", name)).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    Path("own").write_text(own)
    monkeypatch.setattr("cifar10.system.limits._ROOT", Path("cgroup"))
    monkeypatch.setattr("cifar10.system.limits._OWN_GROUPS", Path("own"))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("files", "own", "number"),
    [
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 2),  # docker run --cpus=2.5
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 64),
        ({"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n"}, "0::/job/step\n", 4),
        ({"cpu/j/cpu.cfs_quota_us": "300000\n", "cpu/j/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/j\n", 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/docker/f00\n", 64),
        ({}, "", 64),
    ],
)
def test_processors_are_those_of_the_container_or_job(
    files: dict[str, str], own: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/vllm-project/vllm/pull/34462, https://github.com/uxlfoundation/oneTBB/issues/190."""
    in_group(files, own, monkeypatch)
    assert num_cpus() == number


@pytest.mark.parametrize(
    ("files", "own"),
    [
        (
            {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 200\n"},
            "0::/\n",
        ),
        (
            {
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.usage_in_bytes": "700\n",
                "memory/memory.stat": "rss 500\ntotal_inactive_file 200\n",
            },
            "9:memory:/docker/f00\n",
        ),
    ],
)
def test_memory_is_that_of_the_container_or_job(
    files: dict[str, str], own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/Comfy-Org/ComfyUI/issues/14938."""
    in_group(files, own, monkeypatch)
    assert (total_memory(), available_memory()) == (1000, 500)
    write(Path("set"), {"train/a": 8, "train/b": 8})
    with pytest.raises(UserError, match=r"only 0.0 GB are free; choose a smaller data_loading.image_size"):
        folder("set", 16, None, validation_fraction=0.25, test_fraction=0.25, seed=0, cache=None)
