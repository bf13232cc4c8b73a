"""How much do pixels and predictions change if a JPEG is decoded at reduced size, and how much time does that save?

    python benchmarks/reduced_jpeg.py --photos FOLDER --checkpoint models/NAME/best.ckpt --squeezenet WEIGHTS

libjpeg decodes at 1/2, 1/4 or 1/8 of the size for less work. A reduced image is then resized to S x S, as a full one
is. The table states, by the least size of the short side over S at which that is done, how far pixels are from those of
the full image, in levels of 0 to 255. Photos are enlarged to 12 megapixels; "as they are" are those of FOLDER, of about
500 pixels. Probabilities are those of a checkpoint, and of torchvision's squeezenet1_1.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from folder_inference import write_photos
from measuring import table, write_results
from numpy.typing import NDArray

from cifar10.images import decode
from cifar10.images.decode import EncodedImage

_FACTORS = (1, 2, 4, 8, 16)
Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--squeezenet", type=Path)
    arguments = parser.parse_args()
    networks: dict[int, Probabilities] = {32: of_checkpoint(arguments.checkpoint)}
    if arguments.squeezenet:
        networks[224] = of_squeezenet(arguments.squeezenet)
    rows = []
    with tempfile.TemporaryDirectory(prefix="reduced_jpeg_") as scratch:
        large = sorted(write_photos(arguments.photos, Path(scratch) / "large", 10).iterdir())
        originals = sorted(arguments.photos.glob("*.jpg"))
        for title, files in {"12 megapixels": large, "as they are": originals}.items():
            for size, probabilities in networks.items():
                rows += [compare(title, files, size, factor, probabilities) for factor in _FACTORS]
    head = ["photos", "S", "least short side / S", "reduced", "mean", "99.9 %", "largest", "probabilities", "time"]
    body = [
        "Differences of pixels in levels: mean, 99.9th percentile and largest. Of probabilities: the largest. Time: of "
        "decoding and resizing, over that of full images, median.",
        "",
        *table(head, [list(row.values()) for row in rows]),
    ]
    write_results("reduced_jpeg", "JPEG decoded at reduced size", body, {"rows": rows})


def compare(title: str, files: list[Path], size: int, factor: int, probabilities: Probabilities) -> dict[str, object]:
    """Return the differences between reduced and full images of `size`, for the least `factor`."""
    differences, changes, ratios, num_reduced = [], [], [], 0
    for file in files:
        data = file.read_bytes()
        with mock.patch.object(decode, "REDUCED_SIDE", factor):
            reduced, fast = timed(data, size, True)
        full, slow = timed(data, size, False)
        differences.append(np.abs(reduced.astype(int) - full))
        changes.append(float(np.abs(probabilities(reduced[None]) - probabilities(full[None])).max()))
        ratios.append(fast / slow)
        num_reduced += bool(differences[-1].any())
    levels = np.stack(differences)
    return {
        "photos": title,
        "size": size,
        "factor": factor,
        "reduced": f"{num_reduced} of {len(files)}",
        "mean": f"{levels.mean():.3f}",
        "99.9": f"{np.percentile(levels, 99.9):.0f}",
        "largest": int(levels.max()),
        "probabilities": f"{max(changes):.4f}",
        "time": f"{statistics.median(ratios):.2f}",
    }


def timed(data: bytes, size: int, reduced: bool) -> tuple[NDArray[np.uint8], float]:
    """Return the pixels, (size, size, 3), and the seconds of processor time that they took."""
    started = time.process_time()
    pixels = EncodedImage(data).decode_square(size, reduced)
    return pixels, time.process_time() - started


def of_checkpoint(checkpoint: str) -> Probabilities:
    from cifar10.inference.predictor import Predictor

    return Predictor.from_checkpoint(checkpoint, device="cpu", tta="none").probabilities


def of_squeezenet(weights: Path) -> Probabilities:
    import torch
    from torchvision.models import squeezenet1_1

    network = squeezenet1_1().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's weights

    def probabilities(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
            found: NDArray[np.float32] = network(images).softmax(dim=1).numpy()
        return found

    return probabilities


if __name__ == "__main__":
    main()
