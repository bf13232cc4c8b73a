"""A figure of images with their predicted and true classes.

Shapes: N images of S x S pixels, K classes.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar10.analysis.figures import drawable_names
from cifar10.data.image_dataset import Split

_COLUMNS = 4  # TensorBoard shows pictures 350 pixels wide until one clicks on them
_WRONG = "#b3261e"


def predictions_figure(
    split: Split, probabilities: NDArray[np.float32], class_names: Sequence[str], title: str
) -> Figure:
    """Return the images with the predicted class and its probability above; the true class below if that is wrong.

    Args:
        split: N images, N >= 1.
        probabilities: (N, K).
        class_names: K names.
        title: Of the figure.
    """
    names = drawable_names(class_names)
    rows = -(-len(split) // _COLUMNS)
    figure = Figure(figsize=(1.5 * _COLUMNS, 0.8 + 1.85 * rows), layout="constrained")
    figure.suptitle(f"{title}\nabove: predicted; below, if that is wrong: true class", fontsize=11, parse_math=False)
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    pixels, labels = split.arrays()
    for axes, image, label, row in zip(grid, pixels, labels.tolist(), probabilities, strict=False):
        answer = int(row.argmax())
        text, font = names[answer]
        is_right = answer == label
        axes.imshow(image, interpolation="nearest")
        axes.set_title(
            f"{text} {row[answer]:.0%}",
            fontproperties=font,
            color="black" if is_right else _WRONG,
            parse_math=False,
        )
        if not is_right:
            text, font = names[label]
            axes.text(
                0.5, -0.06, text, fontproperties=font, ha="center", va="top", transform=axes.transAxes, parse_math=False
            )
    return figure
