"""The image files of a folder, of a glob, or a single file."""

import os

from cifar10.images.named_image import ImageSource, image_file
from cifar10.images.search import ImageSearch


def search(given: str) -> ImageSource:
    """Return what `ImageSearch` finds, with names relative to its root.

    Raises:
        UserError: There is no such folder or file.
    """
    found = ImageSearch(given)
    root = str(found.root)
    prefix = "" if root == os.curdir else os.path.join(root, "")

    def name(path: str) -> str:
        if path == root:  # it could not be listed
            return os.curdir
        return path[len(prefix) :] if path.startswith(prefix) else path

    images = (image_file(path, name(str(path))) for path in found)
    return ImageSource(given, images, found.skipped, lambda: sum(1 for _ in ImageSearch(given)), found.root)
