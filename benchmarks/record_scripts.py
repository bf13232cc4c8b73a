"""Record scripts as racers: their own text, of which all is run but the loop over runs.

Where a script says `torch.cuda.Event`, it gets a `Stopwatch`, which adds up what the script measures.
"""

import ast
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from race_clock import Stopwatch, wait
from recipe_files import Values

Run = Callable[[int], tuple[float, float]]
"""Number of the run -> seconds and accuracy."""


def record_script(wishes: Values) -> Run:
    """Return a run of the script at wishes["record"]: what its loop over runs calls, with the loop itself left out.

    Everything before the loop is executed as if the script were started, in a scratch folder that holds the data in the
    form in which the script would have stored them.
    """
    path = Path(wishes["record"]).absolute()
    scratch = tempfile.mkdtemp(prefix="race_")
    _store_data(torch.load(wishes["data"], weights_only=True), Path(scratch))
    os.chdir(scratch)
    sys.argv = [str(path)]  # scripts read their own text
    module = ModuleType(f"record_{path.stem}")
    sys.modules[module.__name__] = module  # torch.compile looks names up in the module that a function is from
    namespace = module.__dict__
    namespace.update(__file__=str(path), Stopwatch=Stopwatch)
    before, call, counter = split_at_loop(path.read_text())
    exec(compile(before, str(path), "exec"), namespace)
    lap = compile(call, str(path), "eval")

    def run(number: int) -> tuple[float, float]:
        Stopwatch.total_ms = 0.0
        result = eval(lap, namespace, {counter: number + 1})
        wait(wishes["device"])
        return Stopwatch.total_ms / 1000, accuracy_in(result, wishes["plain"])

    return run


class OwnClock(ast.NodeTransformer):
    """Puts `Stopwatch` where a script says `torch.cuda.Event`; PyTorch's own uses of it are left alone."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) == "torch.cuda.Event":
            return ast.copy_location(ast.Name("Stopwatch", ast.Load()), node)
        return self.generic_visit(node)


def split_at_loop(text: str) -> tuple[ast.Module, ast.Expression, str]:
    """Split a record script where its `if __name__ == "__main__":`, or the function it calls, begins to loop over runs.

    Returns:
        All before that loop, the call inside it that gets the loop's counter, and the name of the counter.
    """
    tree = OwnClock().visit(ast.parse(text))
    guard = next(
        (node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)), None
    )
    if guard is None:
        raise ValueError("the script has no `if __name__ == ...` block, so its loop over runs cannot be found")
    body = _called_body(tree, guard.body)
    for index, statement in enumerate(body):
        for node in ast.walk(statement):
            loop = node.generators[0] if isinstance(node, ast.ListComp) else node
            if isinstance(loop, ast.For | ast.comprehension) and "range(" in ast.unparse(loop.iter):
                call = _first_call(loop.body if isinstance(loop, ast.For) else [node], ast.unparse(loop.target))
                if call is not None:
                    before = [*tree.body[: tree.body.index(guard)], *body[:index]]
                    return ast.Module(before, []), ast.Expression(call), ast.unparse(loop.target)
    raise ValueError("the script has no loop over range(...) that calls a function with its counter")


def _called_body(tree: ast.Module, body: list[ast.stmt]) -> list[ast.stmt]:
    """Return `body`, or if it only calls a function of `tree` without arguments, the body of that function."""
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and [ast.unparse(node) for node in body] == [f"{function.name}()"]:
            return function.body
    return body


def _first_call(nodes: Sequence[ast.AST], counter: str) -> ast.Call | None:
    """Return the first call in `nodes` with `counter` in an argument."""
    for call in (inner for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Call)):
        words = [inner for argument in call.args for inner in ast.walk(argument) if isinstance(inner, ast.Name)]
        if counter in [word.id for word in words]:
            return call
    return None


def accuracy_in(result: Any, plain: bool) -> float:
    """Return the accuracy in what `main` returned: one with augmentation, or (plain, with augmentation, ...)."""
    return float(result[0 if plain else 1]) if isinstance(result, tuple | list) else float(result)


def _store_data(data: dict[str, Any], folder: Path) -> None:
    """Write train.pt and test.pt as the record scripts' loaders do: uint8 (N, H, W, 3)."""
    for name in ("cifar10", "cifar100"):
        (folder / name).mkdir()
        for split in ("train", "test"):
            images = data[f"{split}_images"].permute(0, 2, 3, 1).contiguous()
            content = {"images": images, "labels": data[f"{split}_labels"], "classes": data["class_names"]}
            torch.save(content, folder / name / f"{split}.pt")
