"""The kinds of image corruptions that `evaluate` knows, by name; `analysis/corruptions.py` makes them."""

from cifar10.errors import UsageError
from cifar10.suggest import did_you_mean

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
STRENGTHS = (1, 2, 3, 4, 5)


def chosen_kinds(names: str) -> list[str]:
    """Return the kinds that `all`, or a list of kinds and groups with commas, names, in the order of `KINDS`.

    Raises:
        UsageError: A name is not known, or there is none.
    """
    kinds: list[str] = []
    for name in (name.strip().replace("-", "_") for name in names.strip("[]()").split(",") if name.strip()):
        known = ["all", *GROUPS, *KINDS]
        if name not in known:
            advice = did_you_mean(name, known) or f"; choose all, {', '.join(GROUPS)}, or of {', '.join(KINDS)}"
            raise UsageError(f"--corruptions={names[:80]}: there is no {name[:40]}{advice}")
        kinds += KINDS if name == "all" else GROUPS.get(name, (name,))
    if not kinds:
        raise UsageError(f"--corruptions={names} names none; choose all, {', '.join(GROUPS)}, or single kinds")
    return [kind for kind in KINDS if kind in kinds]
