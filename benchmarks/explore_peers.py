"""Which test images have a near-duplicate in training, by a package of others? Started by `exploring.py`.

    PYTHON benchmarks/explore_peers.py imagededup-phash|cleanvision FOLDER

Reads the PNG files in the folders train and test; prints JSON.
"""

import json
import resource
import sys
from pathlib import Path


def main() -> None:
    peer, folder = sys.argv[1], Path(sys.argv[2])
    images = {"imagededup-phash": by_imagededup, "cleanvision": by_cleanvision}[peer](folder)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    print(json.dumps({"images": sorted(images), "cpu_seconds": cpu}))


def by_imagededup(folder: Path) -> set[int]:
    """Return the numbers of the test images; perceptual hashes that differ in up to 10 bits, the default."""
    from imagededup.methods import PHash

    method = PHash(verbose=False)
    encodings = {}
    for split in ("train", "test"):
        for image in (folder / split).glob("*/*.png"):
            encodings[f"{split}/{image.stem}"] = method.encode_image(image_file=image)
    found = method.find_duplicates(encoding_map=encodings)
    return {number for name, others in found.items() if (number := _test_number(name, others)) is not None}


def by_cleanvision(folder: Path) -> set[int]:
    """Return the numbers of the test images in sets of near-duplicates or copies with training images."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues({"near_duplicates": {}, "exact_duplicates": {}}, verbose=False)
    numbers = set()
    for kind in ("near_duplicates", "exact_duplicates"):
        for group in lab.info[kind]["sets"]:
            names = [f"{Path(name).parent.parent.name}/{Path(name).stem}" for name in group]
            numbers |= {number for name in names if (number := _test_number(name, names)) is not None}
    return numbers


def _test_number(name: str, others: list[str]) -> int | None:
    split, _, number = name.partition("/")
    return int(number) if split == "test" and any(other.startswith("train/") for other in others) else None


if __name__ == "__main__":
    main()
