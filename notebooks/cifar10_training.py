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
# # Train an image classifier, step by step
#
# A classifier looks at a picture and names what is on it. In this notebook you build one from PyTorch's parts: data,
# network, loss, optimizer, and a loop that brings them together. You measure how often it is right, save it, and load
# it again. At the end this package does the same in one line, and you see what it adds.
#
# You need some Python. You need no knowledge of neural networks, and no GPU.

# %% [markdown]
# ## Settings
#
# CIFAR-10 has 60,000 small photos of ten kinds of things. They are downloaded once, 170 MB. With `data_loading=shapes`
# instead, ten kinds of drawn shapes are made on the spot: nothing is downloaded, and everything below takes a minute
# or two. Other settings can be changed here as on the command line.

# %% tags=["parameters"]
settings = ["data_loading=cifar10", "training.epochs=5"]

# %% [markdown]
# Files go to the folders `data` and `models` of the project, which is the folder above this notebook.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset, Split

config = load_config(["experiment=teaching", *settings])
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)  # the same random numbers each time
print("computing on", device)

# %% [markdown]
# ## The data
#
# The images come in three groups, called splits:
#
# - the network learns from the **training** images;
# - **validation** images are kept apart. They show while you work whether it also knows images that it has not learned
#   from;
# - **test** images are looked at once, at the end. Whoever looks at them earlier and improves the network with what
#   they say has learned from them too.

# %%
data: ImageDataset = build(DATA, config.data_loading)
for name, split in data.splits.items():
    print(f"{name:<10}  {len(split):>6,} images, numbers {tuple(split.images.shape)}")
print("classes   ", ", ".join(data.class_names))

# %% [markdown]
# An image is an array of whole numbers from 0 (dark) to 255 (bright): one for red, green and blue in each row and
# column. With it comes a label, the number of its class. Here are eight training images of each class.

# %%
columns = 8
figure, grid = plt.subplots(data.num_classes, columns, figsize=(columns * 0.95, data.num_classes * 0.95))
for label, row in enumerate(grid):
    members = (data.train.labels == label).nonzero().flatten()
    for axes, index in zip(row, members[:columns].tolist(), strict=False):
        axes.imshow(data.train.images[index].permute(1, 2, 0))
    for axes in row:
        axes.axis("off")
    row[0].set_title(data.class_names[label], loc="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Transforms
#
# Before an image enters the network, its numbers are normalised: each channel gets mean 0 and standard deviation 1,
# since networks learn best from numbers of that size. Mean and deviation are those of the training images.
#
# For training, each image is also moved by a few pixels, and every second one is mirrored, at random and each time
# anew. A cat that has moved is still a cat. So the network sees more different images than there are, and learns what
# does not depend on the place.

# %%
pixels = data.train.images[:].float() / 255
mean, deviation = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
del pixels
print("mean      ", mean.numpy().round(3))
print("deviation ", deviation.numpy().round(3))

move = v2.Compose([v2.RandomCrop(data.image_size, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()])
normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean.tolist(), deviation.tolist())])

# %%
image = data.train.images[0]
figure, grid = plt.subplots(1, 7, figsize=(10, 1.9))
for number, axes in enumerate(grid):
    axes.imshow((move(image) if number else image).permute(1, 2, 0))
    axes.set_title(f"in epoch {number}" if number else "original", fontsize=10)
    axes.axis("off")
figure.suptitle("One image, moved and mirrored at random")
plt.show()


# %% [markdown]
# A `Dataset` answers how many images there are, and returns one of them. A `DataLoader` shuffles the images and puts
# them together in batches. A network learns from one batch at a time.


# %%
class Images(Dataset[tuple[Tensor, int]]):
    """The images of a split, transformed whenever they are taken."""

    def __init__(self, split: Split, transform: v2.Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.split.images[index]), int(self.split.labels[index])


batch_size = config.training.batch_size
train_loader = DataLoader(Images(data.train, v2.Compose([move, normalise])), batch_size, shuffle=True, drop_last=True)
validation_loader = DataLoader(Images(data.validation, normalise), 500)
test_loader = DataLoader(Images(data.test, normalise), 500)

images, labels = next(iter(train_loader))
print("a batch:", tuple(images.shape), images.dtype, "and", tuple(labels.shape), labels.dtype)


# %% [markdown]
# ## The network
#
# A **convolution** moves a window of 3 x 3 pixels over the image and computes, at each place, a weighted sum of what
# is in it. The weights are what is learned: one set of them may find edges, another one spots of some colour.
# `BatchNorm2d` keeps the numbers at a useful size, and `ReLU` replaces negative ones by 0; without such a bend,
# several layers could do no more than one. `MaxPool2d` keeps the largest of 2 x 2 neighbours, so the image becomes
# half as high and wide.
#
# After three such blocks, each of the 128 channels says how much of something was found in each part of the image.
# Their means over the whole image enter a linear layer, which returns one number for each class: the larger, the more
# likely.


# %%
def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return layers that find patterns and halve the image."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Net(nn.Module):
    """Three blocks and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(3, 32), block(32, 64), block(64, 128))
        self.classify = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.blocks(images)  # 3 channels of 32 x 32 -> 128 channels of 4 x 4
        scores: Tensor = self.classify(found.mean(dim=(2, 3)))  # 128 means -> one number for each class
        return scores


# %%
net = Net(data.num_classes).to(device)
print(net)
print(f"{sum(weights.numel() for weights in net.parameters()):,} weights to learn")

# %% [markdown]
# ## Loss and optimizer
#
# The **loss** says in one number how wrong the network is. Cross-entropy is small if the network gives the right class
# a high probability. A network that guesses among ten classes has a loss of 2.3, the logarithm of 10.
#
# The **optimizer** changes the weights so that the loss falls. PyTorch computes in which direction each weight has to
# change; the learning rate says how far. It rises at first and then falls to almost nothing: large steps in the
# beginning, small ones at the end.

# %%
criterion = nn.CrossEntropyLoss()
epochs = config.training.epochs
optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * len(train_loader))


# %% [markdown]
# ## Training
#
# An epoch is one pass over all training images. For each batch:
#
# 1. `zero_grad`: forget the directions of the last batch;
# 2. compute what the network says, and the loss;
# 3. `backward`: compute the direction of each weight;
# 4. `step`: change the weights.
#
# After each epoch the validation images are classified, without learning from them. `eval()` and `train()` tell the
# network which of the two is going on, because batch normalisation needs to know.


# %%
@torch.no_grad()
def predict(network: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return the probabilities of all classes, and the labels, of all images."""
    network.eval()
    parts = [(network(images.to(device)).softmax(dim=1).cpu(), labels) for images, labels in loader]
    probabilities, labels = zip(*parts, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return which part of the images is classified correctly."""
    return (probabilities.argmax(dim=1) == labels).double().mean().item()


history: list[tuple[float, float, float]] = []  # of each epoch: loss, accuracy on training and on validation images
for epoch in range(epochs):
    started = time.monotonic()
    losses, right = [], []
    net.train()
    for images, labels in train_loader:
        truth = labels.to(device)
        optimizer.zero_grad()
        outputs = net(images.to(device))
        loss = criterion(outputs, truth)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        right.append((outputs.argmax(dim=1) == truth).double().mean().item())
    history.append((float(np.mean(losses)), float(np.mean(right)), accuracy(*predict(net, validation_loader))))
    print(
        "epoch {}: loss {:.3f}, accuracy {:.1%}, validation {:.1%}, {:.0f} s".format(
            epoch + 1, *history[-1], time.monotonic() - started
        )
    )

# %%
loss_by_epoch, learned, validated = zip(*history, strict=True)
numbers = np.arange(1, epochs + 1)
figure, (left, right_side) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(numbers, loss_by_epoch, marker="o", label="training")
left.axhline(np.log(data.num_classes), color="grey", linestyle="--", label="guessing")
left.set(title="Loss: how wrong the network is", xlabel="epoch")
right_side.plot(numbers, 100 * np.array(learned), marker="o", label="training images")
right_side.plot(numbers, 100 * np.array(validated), marker="o", label="validation images")
right_side.axhline(100 / data.num_classes, color="grey", linestyle="--", label="guessing")
right_side.set(title="Accuracy: right answers, %", xlabel="epoch", ylim=(0, 100))
for axes in (left, right_side):
    axes.legend()
    axes.set_xticks(numbers)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## The test
#
# Now, and only now, the test images. Overall, and for each class: some are harder than others.

# %%
probabilities, labels = predict(net, test_loader)
answers = probabilities.argmax(dim=1)
by_hand = accuracy(probabilities, labels)
of_class = [float((answers[labels == label] == label).double().mean()) for label in range(data.num_classes)]
print(f"accuracy on {len(labels):,} test images: {by_hand:.1%}")

figure, axes = plt.subplots(figsize=(8, 0.9 + 0.3 * data.num_classes))
places = np.arange(data.num_classes)
axes.barh(places, 100 * np.array(of_class), color="#3a6ea5")
axes.set_yticks(places, data.class_names)
axes.invert_yaxis()
axes.axvline(100 * by_hand, color="black", label=f"all classes: {by_hand:.0%}")
axes.axvline(100 / data.num_classes, color="grey", linestyle="--", label="guessing")
for place, share in enumerate(of_class):
    axes.text(100 * share - 1, place, f"{share:.0%}", ha="right", va="center", color="white")
axes.set(title="Test images of each class that are classified correctly, %", xlim=(0, 100))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# Some test images with the answer of the network, and how sure it is of it:


# %%
def show_answers(split: Split, probabilities: Tensor, title: str) -> None:
    """Draw the first images of a split, with the most probable class of each."""
    figure, grid = plt.subplots(2, 8, figsize=(12, 4.4))
    for index, axes in enumerate(grid.flat):
        axes.imshow(split.images[index].permute(1, 2, 0))
        sureness, answer = probabilities[index].max(dim=0)
        truth = int(split.labels[index])
        is_right = int(answer) == truth
        axes.set_title(f"{data.class_names[int(answer)]}, {sureness:.0%}", color="black" if is_right else "#b3261e")
        axes.set_xlabel("right" if is_right else f"really: {data.class_names[truth]}")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"{title}. Above: what it says, and how sure it is; below: whether that is right")
    figure.tight_layout()
    plt.show()


show_answers(data.test, probabilities, "Test images and the network")

# %% [markdown]
# ## Save it, and load it
#
# The knowledge of a network is in its weights. `state_dict` returns them by name, and `torch.save` writes them into a
# file. The file has no code in it: to load it, first make a network of the same kind, then give it the weights.

# %%
torch.save(net.state_dict(), "cifar_net.pth")
print(f"cifar_net.pth: {Path('cifar_net.pth').stat().st_size / 1000:,.0f} kB")

loaded = Net(data.num_classes).to(device)
loaded.load_state_dict(torch.load("cifar_net.pth", weights_only=True))
again, labels = predict(loaded, test_loader)
print(f"loaded: {accuracy(again, labels):.1%}, the same answers: {torch.equal(again, probabilities)}")

# %% [markdown]
# ## The same in one line
#
# The package trains with the settings from above: same data, a network of the same kind, the same optimizer. On the
# command line it is `python commands.py train experiment=teaching`.

# %%
from cifar10.train import train

scores = train(config, data=data)

# %%
accuracies = {
    "by hand": by_hand,
    "in one line": scores["test/accuracy"],
    "in one line,\nmean of several views": scores["test/accuracy_tta"],
}
figure, axes = plt.subplots(figsize=(8, 2.2))
bars = axes.barh(list(accuracies), [100 * value for value in accuracies.values()], color="#3a6ea5")
axes.bar_label(bars, [f"{value:.1%}" for value in accuracies.values()], padding=4)
axes.invert_yaxis()
axes.set(title=f"Right answers on {len(data.test):,} test images, %", xlim=(0, 112))
axes.spines[["top", "right"]].set_visible(False)
figure.tight_layout()
plt.show()

# %% [markdown]
# What it adds:
#
# - batches are cut, moved and mirrored all at once, not image by image, which is why it is faster;
# - the best epoch is kept, by the validation images. A run that was stopped is continued with `train --resume`;
# - scores, curves, settings, versions and data are recorded in the run's folder and in MLflow, so that the run can be
#   repeated;
# - `experiment=speedrun` and other recipes in `conf/experiment` reach over 93 % on CIFAR-10.
#
# The folder of the run:

# %%
from cifar10.runs.checkpoint_names import resolve_checkpoint

folder = resolve_checkpoint("best", config.models_dir).parent
for file in sorted(folder.iterdir()):
    print(file)

# %% [markdown]
# Loading it takes a line too. The class names and the normalisation are in the file, and photos of any size and format
# may be given: `cifar10.load("best").predict("cat.jpg")`.

# %%
import cifar10

predictor = cifar10.load("best", models_dir=config.models_dir)
pixels_of_test, _ = data.test.arrays(most=16)
show_answers(data.test, torch.from_numpy(predictor.probabilities(pixels_of_test)), "The network of the package")

# %% [markdown]
# From here: `python commands.py evaluate` says where it fails, `infer` classifies a folder of photos, `export` makes
# files for other programs. The notebook `explore` looks at the data, `pooling` compares three kinds of networks.
