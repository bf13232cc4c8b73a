"""Watches what PyTorch is asked to do, for tests that nothing makes a GPU wait for the host or the host for a GPU."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Notes the operations that make a GPU wait for the host, or the host for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(operation)
        moves = "_to_copy" in name and (options or {}).get("device") is not None
        if moves or any(part in name for part in ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select")):
            self.waits.append(name)
        return operation(*arguments, **(options or {}))
