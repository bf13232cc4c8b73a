"""The schema of the configuration: every setting with its type, range and unit. `compose.py` fills it from `conf/`.

Values and defaults live in the YAML files; nothing here has a default, so what a run does can be read there.
"""

import json
import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_serializer, model_validator

from cifar10.config.mlflow_uri import uri_problem
from cifar10.config.run_name import refusal_of_run_name
from cifar10.types import Fraction, NonNegativeFloat, Part, PositiveFloat, PositiveInt

TYPED = {"typed": True}
"""Context of a validation that also applies the rules from which older checkpoints are exempt."""


MetricName = Annotated[str, Field(pattern=r"^[a-z]\w*$")]
"""Name of a metric, after `val/` and `test/`."""
TTAMode = Literal["none", "mirror", "mirror_translate", "mirror_translate_selective"]
"""Test-time augmentation: the views whose probabilities are averaged. none: the image alone. mirror: with its mirror
image. mirror_translate: both, also shifted along a diagonal by one pixel, six in all. mirror_translate_selective: six
views of the images whose largest probability is low, one view of the others."""

BatchSize = Annotated[int, Field(gt=0, le=10_000_000)]
"""Number of images. The limit is above any data set; whether they fit into memory is checked when training begins."""

_MOST_PIXELS = 2**24
"""In a forward pass of an evaluation: 16,384 images of CIFAR-10 or 334 of 224 x 224 pixels, 200 MB in float32."""


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


_MINING = "cifar10.training.hard_example_mining"
RENAMED_TARGETS = {
    "cifar10.selection.All": f"{_MINING}.AllExamples",
    "cifar10.selection.Hardest": f"{_MINING}.HardExampleMining",
}
"""Name of a target in older checkpoints and YAML files -> its current name."""


class Component(BaseModel):
    """A replaceable part: `_target_` names the function or class, the other keys are its arguments.

    `build.py` checks the arguments against the target's signature and creates the object.
    """

    model_config = ConfigDict(frozen=True)

    target: str
    arguments: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _split_target(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("_target_"), str):
            raise ValueError("needs a _target_: the dotted path of the function or class to build")
        target = RENAMED_TARGETS.get(values["_target_"], values["_target_"])
        return {"target": target, "arguments": {k: v for k, v in values.items() if k != "_target_"}}

    @model_serializer
    def _join_target(self) -> dict[str, Any]:
        return {"_target_": self.target, **self.arguments}


class AugmentationConfig(Section):
    """Augmentation of a training batch on the device. Zero or `none` disables a step."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)]
    """Pixels of reflected border from which a crop of the original size is cut at random."""
    flip: Literal["none", "random", "alternating"]
    """Mirror images left to right: at random, or each image every second epoch."""
    cutout: Annotated[int, Field(ge=0, le=1024)]
    """Side in pixels of a square set to the mean colour, at a random place."""
    mixup: Annotated[float, Field(ge=0, le=1000)]
    """Alpha of the Beta distribution that blends two images and their labels."""
    cutmix: Annotated[float, Field(ge=0, le=1000)]
    """Alpha of the Beta distribution for the area of a rectangle pasted from another image."""
    brightness: Fraction
    """Each image is multiplied by a factor from [1 - x, 1 + x]."""
    contrast: Fraction
    """Each image's distance from its mean grey is multiplied likewise."""
    saturation: Fraction
    """Each pixel's distance from its own grey is multiplied likewise."""

    @model_validator(mode="after")
    def _one_mixing(self) -> "AugmentationConfig":
        if self.mixup and self.cutmix:
            raise ValueError("mixup and cutmix exclude each other; set one of them to 0")
        return self


class ResizingStage(Section):
    """A part of training in which images are smaller."""

    until: Annotated[float, Field(gt=0, lt=1)]
    """Progress of training at which it ends, as a fraction of all steps."""
    scale: Annotated[float, Field(gt=0, lt=1)]
    """Side of the images, as a fraction of the original one."""


class TrainingConfig(Section):
    """Training length, hardware and numerics. Settings with a default are newer than some checkpoints."""

    epochs: Annotated[int, Field(gt=0, le=40_000)]
    """Passes over the training images. A checkpoint holds the scores of each, and the size that is read is limited."""
    batch_size: BatchSize
    """Images per optimizer step, over all devices and accumulated parts together."""
    accumulate: BatchSize
    """Micro-batches per optimizer step, to save memory. Divides batch_size."""
    label_smoothing: Fraction
    resizing: list[ResizingStage] = []
    """Train on smaller images first, which is faster: one stage after the other, then images of the original size."""
    freeze_until: Fraction = 0.0
    """Train only the head, the last layer, until this fraction of all steps: for networks with pretrained weights."""
    gradient_clip: PositiveFloat | None
    """Largest allowed 2-norm of the whole gradient."""
    ema_decay: Fraction | None
    """Decay per step of an exponential moving average of the weights, which is tested and saved."""
    monitor: str | None
    """Metric of the best epoch: val/loss, val/accuracy or val/NAME of a metric in `metric`. null: the last is best."""
    early_stopping: PositiveInt | None
    """Stop after this many epochs without a better `monitor`."""
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Field(gt=0, le=1024)]
    """Processes on each machine, each with its own device; on CPU they share the cores."""
    num_nodes: Annotated[int, Field(gt=0, le=100_000)] = 1
    """Machines. More than one are started by torchrun, and share the same `models_dir`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """auto: the fastest. bf16 on a GPU that supports it, and on a CPU with matrix units (AMX); on a CPU with other bf16
    instructions for `model=speed`, the networks of the pooling laboratory, and without our kernels; else fp32."""
    threads: Annotated[int, Field(gt=0, le=65_536)] | None
    """CPU threads of each process. null: PyTorch's choice, divided by the processes on CPU."""
    channels_last: bool
    """Use the memory layout (B, H, W, C); faster for convolutions on nearly all hardware."""
    compile: bool | Literal["graphs"]
    """torch.compile the network; slower on the CPUs measured. graphs: on a GPU, replay each optimizer step as one CUDA
    graph. It needs Muon, no `accumulate` or `freeze_until`, and one device; else only the forward and the backward
    pass of the network are graphs."""
    save_every_seconds: PositiveFloat | None
    """Save `last.ckpt` when this much time has passed since the last save, within an epoch or at its end. null: at the
    end of each epoch. The best epoch by `monitor` and the last one are saved in any case."""
    chunk_seconds: NonNegativeFloat = 0.0
    """Run optimizer steps for about this long between two calls of Lightning's callbacks, which take about a
    millisecond. 0: they are called at every step, as they also are with several devices, ema_decay or fp16."""
    kernels: bool = False
    """On a CPU in fp32, or in bf16 without AMX: convolve, normalise and activate with our own machine code. On a GPU in
    bf16, with compile=graphs and model=speed: all between the convolutions, in Triton. Results differ by rounding."""
    batch_quartiles: bool = False
    """Record the quartiles of loss and accuracy over the batches of each epoch, of training and validation."""

    @property
    def num_processes(self) -> int:
        """Processes on all machines together."""
        return self.devices * self.num_nodes

    @property
    def chunked(self) -> bool:
        """Whether one call of Lightning runs many optimizer steps."""
        every_step_needs_lightning = self.num_processes > 1 or self.ema_decay is not None or self.precision == "fp16"
        return self.chunk_seconds > 0 and not every_step_needs_lightning

    @model_validator(mode="after")
    def _rules_between_settings(self) -> "TrainingConfig":
        num_shares = self.accumulate * self.num_processes
        if self.batch_size % num_shares:
            factors = "accumulate * devices" + (" * num_nodes" if self.num_nodes > 1 else "")
            raise ValueError(f"batch_size={self.batch_size} must be divisible by {factors} = {num_shares}")
        ends = [stage.until for stage in self.resizing]
        if ends != sorted(set(ends)):
            raise ValueError(f"resizing: each stage must end after the one before it, not until={ends}")
        if self.freeze_until and self.num_processes > 1:
            raise ValueError("freeze_until needs one process; set training.devices=1 or training.freeze_until=0")
        if self.early_stopping is not None and self.monitor is None:
            raise ValueError("early_stopping needs a monitor: set training.monitor=val/accuracy or val/loss")
        return self


class EvaluationConfig(Section):
    """Inference settings of the test pass, and of `infer` unless its flags override them."""

    batch_size: BatchSize
    """Images per forward pass, over all devices; fewer if images are large, see `images_at_once`."""
    tta: TTAMode
    """Test-time augmentation: views whose probabilities are averaged (1, 2, 6, or 6 where one is not enough)."""
    tta_confidence: Part = 0.7  # older checkpoints lack it
    """mirror_translate_selective computes all views of an image whose largest probability is below this. A fixed bound,
    not a share of the batch: a prediction must not depend on the other images of the batch."""

    def images_at_once(self, image_size: int) -> int:
        """Return the number of images per forward pass, at least 1, for `image_size` x `image_size` pixels."""
        return max(1, min(self.batch_size, _MOST_PIXELS // image_size**2))


class TrackingConfig(Section):
    """Experiment tracking."""

    backend: Literal["mlflow", "none"]
    uri: str
    """MLflow's store: `sqlite:///FILE` or `http(s)://HOST:PORT`."""
    artifacts: Annotated[str, Field(min_length=1)] | None
    """Folder for files, with a SQLite store. null: `artifacts` next to the database. A server has its own."""
    experiment: Annotated[str, Field(min_length=1)]
    required: bool
    """Whether an unavailable store is an error. false: it is a warning, and the store is updated later."""
    system_metrics: bool
    """Record CPU, memory and GPU use every ten seconds."""
    tensorboard: bool
    """Also write TensorBoard event files into the run's folder."""

    @field_validator("uri", "experiment")
    @classmethod
    def _usable(cls, text: str, info: ValidationInfo) -> str:
        if info.context == TYPED and info.data.get("backend") == "mlflow":
            if info.field_name == "uri" and (problem := uri_problem(text)) is not None:
                raise ValueError(problem)
            if info.field_name == "experiment" and text != text.strip():
                given = f"{json.dumps(text, ensure_ascii=False)} begins or ends with a space, and would be"
                raise ValueError(f"{given} another experiment than {text.strip()}; leave it out")
        return text


class ProbeConfig(Section):
    """A linear probe: the head is fitted to embeddings of the frozen network, which is not trained otherwise."""

    strengths: Annotated[list[PositiveFloat], Field(min_length=1, max_length=100)]
    """Weight of the losses against the squared norm of the head's weights; cross-validation chooses one of these."""
    folds: Annotated[int, Field(ge=2, le=100)]
    """Of the cross-validation."""
    cache: Annotated[str, Field(min_length=1)] | None
    """Folder in which embeddings are kept, found by the content of image and weights. null: computed in each run."""


class PoolingConfig(Section):
    """A comparison of ways to shrink feature maps: each is trained with each seed, everything else equal."""

    ways: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)], str], Field(min_length=2)]
    """Name of a way -> its network: a target that takes the arguments of `model`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1000)]
    """Each replaces `seed` in one run of each way: of the weights, the order of images, and augmentation."""
    redraw_every: PositiveInt
    """Epochs, of all runs together, between two drawings of the learning curves."""
    workers: Annotated[int, Field(gt=0, le=1024)] | None
    """Processes that train, each one run at a time. null: one for each processor, as `training.threads` allow."""

    @field_validator("seeds")
    @classmethod
    def _all_different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each seed must occur once, not {seeds}")
        return seeds


class Config(Section):
    """A whole run."""

    data_loading: Component
    model: Component
    augmentation: AugmentationConfig
    selection: Component = Component.model_validate({"_target_": f"{_MINING}.AllExamples"})  # older checkpoints lack it
    optimizer: Component
    schedule: Component
    training: TrainingConfig
    metric: dict[MetricName, Component] = {}  # older checkpoints lack it
    """Metrics of the validation and test images, in addition to loss and accuracy, which are always computed."""
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Every random choice is derived from it."""
    run_name: Annotated[str, Field(max_length=120)] | None
    """Folder in `models_dir`, of letters, digits and . _ + - only. null: named after data, model and time of day."""
    models_dir: Annotated[str, Field(min_length=1)]
    """Parent of the run folders."""
    probe: ProbeConfig | None = None  # older checkpoints lack it
    """Fit the head only, as a linear probe. null: train."""
    pooling: PoolingConfig | None = None  # older checkpoints lack it
    """What `compare_pooling` trains. null: nothing is compared."""
    weights: Annotated[str, Field(min_length=1)] | None = None  # older checkpoints lack it
    """A checkpoint whose weights initialise the network: any value of `--checkpoint_name`."""

    @field_validator("run_name")
    @classmethod
    def _usable_name(cls, name: str | None, info: ValidationInfo) -> str | None:
        name = name and unicodedata.normalize("NFC", name)
        if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(f"must be a plain folder name, of letters, digits and . _ + - only, not {name}")
        if name is not None and info.context == TYPED and (refusal := refusal_of_run_name(name)) is not None:
            raise ValueError(refusal)
        return name

    @model_validator(mode="after")
    def _monitored_metric_is_computed(self) -> "Config":
        known = ["val/loss", "val/accuracy", *(f"val/{name}" for name in self.metric)]
        if "loss" in self.metric:
            raise ValueError("metric.loss: the loss is always computed; give the metric another name")
        monitor = self.training.monitor
        if f"val/{monitor}" in known:
            raise ValueError(
                f"training.monitor={monitor}: metrics are of the validation split; did you mean val/{monitor}?"
            )
        if monitor is not None and monitor not in known:
            raise ValueError(
                f"training.monitor={monitor} is not computed; choose one of {', '.join(known)}, or add it: "
                f"metric=[{monitor.removeprefix('val/')}]"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain dicts, lists, strings and numbers."""
        return self.model_dump(mode="json")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, keys joined by dots; an empty dict stays as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return flat
