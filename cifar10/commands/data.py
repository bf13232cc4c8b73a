"""Commands about data and settings, and the demonstration."""

from pathlib import Path
from typing import Literal

from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    require_checkpoint,
    require_folder,
    require_images,
    require_place,
)
from cifar10.errors import UsageError
from cifar10.system.signals import if_stopped


def data(*overrides: str, export_images: bool = False) -> None:
    """Download and verify the data set, and report its splits and classes.

    KEY=VALUE         choose the data set, as for train: data_loading=cifar100
    --export_images   also write the images as PNG files into class folders: data/train and data/test for
                      CIFAR-10 and CIFAR-100, data/shapes/train and data/shapes/test for generated shapes

    python commands.py data
    python commands.py data 'data_loading.sources=[/mnt/archives]'
    """
    note_place()
    from cifar10.config.compose import load_config

    config = load_config(overrides)
    from cifar10.prepare_data import prepare_data

    with if_stopped("while the data were downloaded; repeat the command to continue"):
        prepare_data(config, export_images=export_images)


def explore(
    *overrides: str,
    photos: str | None = None,
    labels: bool = False,
    checkpoint_name: str | None = None,
    output: str = "explored",
    most: int = 500,
    track: bool = False,
) -> int:
    """Look at the data: classes, pixels, odd images, duplicates, and labels that may be wrong.

    KEY=VALUE                choose the data set, as for train: data_loading=cifar100
    --photos=DIR             instead: images without classes, from a folder or anything else that infer reads
    --labels                 also look for wrong labels, by four short trainings; with experiment=probe, by linear
                             classifiers on what a pretrained network says
    --checkpoint_name=NAME   also compare images by the embeddings of this network, to find more near-duplicates
    --output=DIR             the folder of report.html, its tables and summary.json  (explored)
    --most=N                 images in the largest gallery  (500)
    --track                  also log numbers and files in MLflow

    A summary is printed as JSON. If files cannot be read, they are listed, and the exit code is 3.

    python commands.py explore
    python commands.py explore data_loading=cifar100 --labels --output=explored/cifar100
    python commands.py explore data_loading=folder data_loading.root=photos --labels experiment=probe
    python commands.py explore --photos=holiday
    """
    note_place()
    require_folder(output, make_parents=True)
    if photos is not None and (labels or overrides):
        refused = "--labels" if labels else overrides[0]
        raise UsageError(f"{refused}: the images of --photos have no classes; for class folders: data_loading.root=DIR")
    source = None if photos is None else require_images(photos, "--photos")
    if checkpoint_name is not None:
        require_checkpoint(checkpoint_name)
        checkpoint_name = pin_checkpoint(checkpoint_name)
    from cifar10.config.compose import load_config

    chosen = () if any(word.lstrip("+").startswith("experiment=") for word in overrides) else ("experiment=explore",)
    config = load_config([*chosen, *overrides])
    with if_stopped("while images were explored; nothing was written"):
        from cifar10.explore import ExploreRequest, explore

        request = ExploreRequest(config, source, Path(output), labels, checkpoint_name, most, track)
        return 3 if explore(request) else 0


def config(*overrides: str) -> None:
    """Print the configuration of a run, and the origin of each value.

    KEY=VALUE   change it, as for train

    python commands.py config model=resnet18 training.epochs=5
    """
    require_place()
    from cifar10.config.explain import explain

    print(explain(overrides))


def doctor(*overrides: str) -> int:
    """Look at Python, packages, processors, memory, disk, data, tracking and ports, and say how to mend what is wrong.

    KEY=VALUE   what is to be looked at, as for train: data_loading=cifar100, tracking.uri=http://HOST:PORT

    The data are read and verified, and nothing is downloaded. The exit code is 1 if something is wrong.

    python commands.py doctor
    python commands.py doctor data_loading=folder data_loading.root=photos
    """
    try:
        from cifar10.config.compose import load_config

        config = load_config(overrides)
    except ModuleNotFoundError:
        config = None  # what is missing is among the findings
    with if_stopped("while this machine was looked at"):
        from cifar10.doctor import doctor

        return 0 if doctor(config, overrides) else 1


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script with which a shell completes commands, flags, settings and their values at the Tab key.

    --shell=SHELL   bash, zsh or fish

    source <(python commands.py completion bash)
    python commands.py completion fish | source
    """
    from cifar10.cli.completion import SCRIPTS

    print(SCRIPTS[shell].strip())


def demo() -> None:
    """Train, test, save, track and infer on a small generated data set, in about a minute."""
    from cifar10.demo import demo

    demo()
