# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is in the data
#
# A network learns what its images and labels say, right or wrong. So look at them first: how many there are of each
# class, how bright they are, which are odd, which are there twice, and which labels may be wrong.
#
# The command `python commands.py explore` writes all of this into one report. Here you have the numbers in your hands.

# %% [markdown]
# ## Settings
#
# The data set, as on the command line: `data_loading=cifar100`, or `data_loading=folder data_loading.root=photos` for
# your own class folders. CIFAR-10 is downloaded once, 170 MB; `data_loading=shapes` makes drawn shapes on the spot.
#
# Looking for wrong labels trains four networks, which takes a quarter of an hour for CIFAR-10 on two processors.

# %% tags=["parameters"]
settings = ["data_loading=cifar10", "data_loading.validation_size=0"]
look_for_wrong_labels = False

# %% [markdown]
# Files go to the folder `data` of the project, which is the folder above this notebook.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")

# %%
# %matplotlib inline
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.collection import of_data_set
from cifar10.data.image_dataset import ImageDataset

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which then prints text
config = load_config(["experiment=explore", *settings])
data: ImageDataset = build(DATA, config.data_loading)
images = of_data_set(data)
print(f"{data.name}: {len(images):,} images of {data.image_size} x {data.image_size} pixels")

# %% [markdown]
# ## Classes
#
# `images` numbers all images through, the splits one after the other. Here they are as a table with a row for each
# image.

# %%
table = pd.DataFrame(
    {
        "split": pd.Categorical.from_codes(images.split_ids, images.split_names),
        "class": pd.Categorical.from_codes(images.labels, list(images.class_names)),
    }
)
pd.crosstab(table["class"], table["split"])

# %%
from cifar10.analysis.explore_figures import class_balance, sample_grid

counts = {name: np.bincount(split.labels.numpy(), minlength=data.num_classes) for name, split in images.splits.items()}
class_balance(counts, data.class_names)

# %% [markdown]
# A class with few images is learned badly, and hardly counts in the accuracy. The dashed line is the mean.
#
# ## Samples
#
# Images at random, a row for each class:

# %%
random = np.random.default_rng(0)
samples = [
    [images.pixels(image) for image in random.permutation(np.flatnonzero(images.labels == label))[:12].tolist()]
    for label in range(data.num_classes)
]
sample_grid(samples, data.class_names)

# %% [markdown]
# The mean of all images of a class shows what they have in common, such as a bright sky, or an object in the middle.

# %%
from cifar10.analysis.appearance import find_odd, mean_images, measure

means = mean_images(images.parts(), images.labels, data.num_classes, data.image_size)
columns = min(10, data.num_classes)
rows = -(-data.num_classes // columns)
figure, grid = plt.subplots(rows, columns, figsize=(columns * 1.15, rows * 1.4), squeeze=False)
for axes in grid.flat:
    axes.axis("off")
for axes, mean, name in zip(grid.flat, means, data.class_names, strict=False):
    axes.imshow(mean)
    axes.set_title(name, fontsize=9)
figure.suptitle("Mean image of each class")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Pixels
#
# Mean and standard deviation of red, green and blue, scaled to [0, 1]: by these, networks normalise their images. The
# splits should be alike.

# %%
from cifar10.data.stored_images import parts_of
from cifar10.networks.normalize import channel_counts

levels = np.arange(256) / 255
histograms = {
    name: torch.stack([channel_counts(part) for part in parts_of(split.images)]).sum(dim=0).numpy()
    for name, split in images.splits.items()
}
statistics = {}
for name, histogram in histograms.items():
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    mean_levels = shares @ levels
    deviations = np.sqrt(shares @ levels**2 - mean_levels**2)
    statistics[name] = np.concatenate([mean_levels, deviations])
colours = ["red", "green", "blue"]
head = pd.MultiIndex.from_product([["mean", "deviation"], colours])
pd.DataFrame(statistics, index=head).T.round(4)

# %%
from cifar10.analysis.explore_figures import appearance_distributions, channel_histograms

channel_histograms(histograms)

# %% [markdown]
# A peak at 1 is from white backgrounds.
#
# ## Brightness, sharpness, and odd images
#
# Each image is measured: how bright it is, how much its pixels differ (contrast), how colourful it is, and how much of
# it is fine detail (sharpness).

# %%
appearance = measure(images.parts())
for measured in ("brightness", "contrast", "colourfulness", "sharpness"):
    table[measured] = getattr(appearance, measured)
appearance_distributions(appearance, images.split_ids, images.split_names)

# %% [markdown]
# Classes differ in these, too. What differs so much that a network could tell classes apart by it alone, without
# looking at any object, is worth a thought.

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 0.8 + 0.34 * min(30, data.num_classes)), sharey=True)
shown = list(data.class_names[:30])
for axes, measured in zip(panels, ("brightness", "sharpness"), strict=True):
    sns.boxplot(
        table[table["class"].isin(shown)], x=measured, y="class", order=shown, fliersize=0, color="#9bb8d3", ax=axes
    )
    axes.set(title=measured, xlabel="", ylabel="")
figure.suptitle("By class: the median, the middle half as a box")
figure.tight_layout()
plt.show()

# %% [markdown]
# Odd images are far from what is usual in these data: too dark, too bright, blurred, noisy, or of one colour.

# %%
table["oddity"], table["how odd"] = find_odd(appearance)
table["oddity"].replace("", "usual").value_counts()


# %%
def show(numbers: list[int], titles: list[str], heading: str) -> None:
    """Draw images by their numbers, with a title above each."""
    if not numbers:
        print(f"{heading}: none")
        return
    rows = -(-len(numbers) // 8)
    figure, grid = plt.subplots(rows, 8, figsize=(12, 0.5 + 1.9 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, numbers, titles, strict=False):
        axes.imshow(images.pixels(image))
        axes.set_title(title, fontsize=9)
    figure.suptitle(heading)
    figure.tight_layout()
    plt.show()


odd = table[table["oddity"] != ""].sort_values("how odd", ascending=False).groupby("oddity").head(8)
odd = odd.sort_values(["oddity", "how odd"], ascending=[True, False])
show(odd.index.tolist(), [f"{row['class']}\n{row['oddity']}" for _, row in odd.iterrows()], "The oddest images")

# %% [markdown]
# ## The same picture twice
#
# A picture that is in the training split and in the test split as well is learned by heart, and the test counts that
# as success. Some copies are exact, with equal pixels:

# %%
from cifar10.analysis.descriptors import thumbnails_of
from cifar10.analysis.near_duplicates import exact_copies, rank_near_duplicates

copies = exact_copies(images.digests())
print(f"pictures that are there more than once, with the same pixels: {len(copies)}")

# %% [markdown]
# Others were moved, cropped, mirrored, recoloured, or compressed in another way. They are found by comparing each
# image with all others, which takes a minute or two for 60,000. The result is a ranking; from a score of 1 on, most
# pairs are the same picture.

# %%
pairs = rank_near_duplicates(torch.cat([thumbnails_of(split.images) for split in images.splits.values()]))
ranking = pd.DataFrame(
    {
        "score": pairs.score,
        "first": pairs.first,
        "second": pairs.second,
        "across splits": images.split_ids[pairs.first] != images.split_ids[pairs.second],
        "labels differ": images.labels[pairs.first] != images.labels[pairs.second],
        "mirrored": pairs.is_mirrored,
    }
)
print(f"{int(pairs.is_likely.sum()):,} pairs have a score of 1 or more, of them")
ranking[pairs.is_likely][["across splits", "labels differ", "mirrored"]].sum().to_frame("pairs")


# %%
def show_pairs(chosen: pd.DataFrame, heading: str) -> None:
    """Draw pairs of images, one above the other."""
    if chosen.empty:
        print(f"{heading}: none")
        return
    figure, grid = plt.subplots(2, len(chosen), figsize=(1.5 * len(chosen), 4.2), squeeze=False)
    for column, (_, pair) in enumerate(chosen.iterrows()):
        for row, image in enumerate((int(pair["second"]), int(pair["first"]))):
            axes = grid[row, column]
            axes.imshow(images.pixels(image))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{images.place(image)[0]}: {images.class_of(image)}", fontsize=9)
        grid[1, column].set_xlabel(f"score {pair['score']:.2f}", fontsize=9)
    figure.suptitle(heading)
    figure.tight_layout()
    plt.show()


show_pairs(ranking[ranking["across splits"]].head(8), "Across splits: each column is a pair, the likeliest first")

# %% [markdown]
# If the same picture has two labels, at least one of them is wrong, or the picture is of both.

# %%
show_pairs(ranking[ranking["labels differ"]].head(8), "With different labels: each column is a pair")

# %% [markdown]
# ## Labels that may be wrong
#
# Four networks are trained, each without a quarter of the images, and judge the labels of that quarter. So no network
# has seen the image that it judges. Many suspects are merely hard; look for yourself. Set `look_for_wrong_labels =
# True` above.

# %%
from cifar10.analysis.label_issues import find_label_issues
from cifar10.data.image_dataset import Split
from cifar10.training.out_of_fold import out_of_fold_probabilities

if look_for_wrong_labels:
    pool = Split(torch.cat([split.images[:] for split in images.splits.values()]), torch.from_numpy(images.labels))
    issues = find_label_issues(images.labels, out_of_fold_probabilities(config, pool, images.class_names, num_folds=4))
    print(f"{int(issues.is_suspected.sum()):,} labels are suspected")
    first = issues.ranking()[:24].tolist()
    names = np.array(images.class_names)
    titles = [f"label {images.class_of(image)},\nrather {names[issues.suggested[image]]}?" for image in first]
    show(first, titles, "The most suspect labels")
