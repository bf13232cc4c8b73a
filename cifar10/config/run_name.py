"""Valid names of runs."""

import re

MLFLOW_RUN_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST = 120  # bytes; file systems allow 255, of which temporary names and MLflow's paths need some


def refusal_of_run_name(name: str) -> str | None:
    """Return why a new run cannot have this name, which is valid for a folder, or None if it can."""
    if name.casefold() in ("best", "last", "auto"):
        return f"cannot be {name}, which has a meaning of its own beside --resume and --checkpoint_name; choose another"
    if MLFLOW_RUN_ID.fullmatch(name.lower()):
        return "cannot be 32 hexadecimal digits, as an MLflow run id is; choose another"
    if name.casefold().endswith(".ckpt"):
        return f"cannot end with {name[-5:]}, as a checkpoint file does; leave it out"
    if name.endswith("."):
        return "cannot end with a dot; leave it out"
    if len(name.encode(errors="surrogatepass")) > _LONGEST:
        return f"must have at most {_LONGEST} bytes in UTF-8, not {len(name.encode())}"
    return None
