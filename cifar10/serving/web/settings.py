"""Settings that `app` passes to the page: environment variables, which `streamlit run` leaves at their defaults."""

import os
from dataclasses import dataclass
from pathlib import Path

PAGES = ("classify", "cats_and_dogs", "model", "runs", "data", "drift")
"""In the order of the navigation; each is the last part of its page's address."""

_MODELS_DIR, _CHECKPOINT, _PAGE = "CIFAR10_WEB_MODELS_DIR", "CIFAR10_WEB_CHECKPOINT", "CIFAR10_WEB_PAGE"
_CATS_MODEL, _CATS_GROUPING = "CIFAR10_WEB_CATS_MODEL", "CIFAR10_WEB_CATS_GROUPING"


@dataclass(frozen=True)
class WebSettings:
    """What the page starts with."""

    models_dir: Path = Path("models")
    checkpoint_name: str | None = None
    """The model that is chosen at first; None: the newest."""
    page: str = "classify"
    """One of `PAGES`."""
    cats_model: tuple[str, ...] = ("model=resnet152_imagenet",)
    """Overrides that choose the pretrained network of *Cats and dogs*."""

    cats_grouping: str = "cats_vs_dogs"
    """A file of `conf/grouping/`, or the path of one."""

    def environment(self) -> dict[str, str]:
        """Return the variables from which `read_settings` makes the same settings."""
        given = {
            _MODELS_DIR: str(self.models_dir),
            _PAGE: self.page,
            _CATS_MODEL: "\n".join(self.cats_model),
            _CATS_GROUPING: self.cats_grouping,
        }
        return given | ({} if self.checkpoint_name is None else {_CHECKPOINT: self.checkpoint_name})


def read_settings() -> WebSettings:
    """Return the settings in the environment."""
    defaults, page = WebSettings(), os.environ.get(_PAGE, "")
    overrides = os.environ.get(_CATS_MODEL, "")
    return WebSettings(
        models_dir=Path(os.environ.get(_MODELS_DIR) or defaults.models_dir),
        checkpoint_name=os.environ.get(_CHECKPOINT) or None,
        page=page if page in PAGES else defaults.page,
        cats_model=tuple(overrides.split("\n")) if overrides else defaults.cats_model,
        cats_grouping=os.environ.get(_CATS_GROUPING) or defaults.cats_grouping,
    )
