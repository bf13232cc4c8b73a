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
# # Three ways to shrink feature maps
#
# A convolutional network makes its feature maps smaller from layer to layer. It can compute every second position
# only (stride), keep the largest of 2 x 2 numbers (max pooling), or their mean (average pooling). Here the same small
# network is trained with each of them, several times, with everything else equal: weights at the start, order of the
# images, optimizer.
#
# The command `python commands.py compare_pooling` does the same.

# %% [markdown]
# ## Settings
#
# They change those of `conf/experiment/pooling.yaml`, as on the command line: `"data_loading.classes=[cattle,camel]"`,
# `"training.epochs=500"`, `"training.early_stopping=30"`. The images are those of six classes of CIFAR-100, which is
# downloaded once, 170 MB. With `"data_loading=shapes"`, drawn shapes are made on the spot instead.

# %% tags=["parameters"]
settings = ["training.epochs=60", "pooling.seeds=[0,1,2]"]

# %% [markdown]
# Files go to the folders `data` and `models` of the project, which is the folder above this notebook.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")

# %%
from IPython.display import HTML, Image, display

from cifar10.compare_pooling import compare_pooling
from cifar10.config.compose import load_config

config = load_config(["experiment=pooling", *settings])
assert config.pooling is not None
print("ways  ", ", ".join(config.pooling.ways))
print("seeds ", config.pooling.seeds)
print("epochs", config.training.epochs)

# %% [markdown]
# Train. The picture below is drawn again while the networks learn: left the cross-entropy, right the accuracy, a row
# for each way. A line is the median over the batches of an epoch, a band their middle half. Interrupt the kernel to
# stop; run the cell again to go on.

# %%
picture = display(display_id=True)
assert picture is not None
results = compare_pooling(config, show=lambda png: picture.update(Image(data=png)))

# %% [markdown]
# ## The verdict

# %%
print("\n".join(results.verdict))

# %% [markdown]
# The report has everything: intervals, time, overfitting, the scores of each class, the networks layer by layer.

# %%
assert config.run_name is not None
report = Path(config.models_dir) / config.run_name / "laboratory" / "report.html"
display(HTML(f'<a href="{report}" target="_blank">{report}</a>'))

# %% [markdown]
# The winner is an ordinary run: `python commands.py infer --checkpoint_name=pooling --test_dir=DIR` classifies images
# with it.

# %%
from cifar10.runs.checkpoints import load_checkpoint

winner = load_checkpoint(report.parents[1] / "best.ckpt")
print(winner.config.model.target.rpartition(".")[2], "learned", ", ".join(winner.class_names))
