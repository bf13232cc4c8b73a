"""Parameters of a component, parsed from its source file, because importing it would import PyTorch.

They are available only if they depend on literals, on assignments in the same file, and on modules that are loaded
already. In any other case the component itself has to be imported.
"""

import ast
import builtins
import contextlib
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cifar10.config.conf_folder import PROJECT

_PARSING = threading.Lock()
"""`ast.parse` fails at times where another thread parses: https://github.com/python/cpython/issues/106905."""
_declarations: dict[tuple[Any, ...], Callable[..., Any]] = {}
"""What has been read; a configuration needs each of its components three times."""


def read_declaration(dotted: str, without: Collection[str] = ()) -> Callable[..., Any] | None:
    """Return a function or class with the parameters, type hints and defaults of `dotted`, without its body.

    Args:
        dotted: MODULE.NAME, below the project's folder.
        without: Parameters whose type hints are left out.

    Returns:
        None if the source cannot be read, or does not define all parameters.
    """
    module, _, name = dotted.rpartition(".")
    file = PROJECT.joinpath(*module.split(".")).with_suffix(".py")
    try:
        state = file.stat()
        key = file, name, frozenset(without), state.st_mtime_ns, state.st_size
        with _PARSING:
            found = _declarations.get(key) or _read(file, module, name, without)
    except (OSError, ValueError, SyntaxError):
        return None
    if found is not None:
        _declarations[key] = found
    return found


def _read(file: Path, module: str, name: str, without: Collection[str]) -> Callable[..., Any] | None:
    statements = ast.parse(file.read_bytes()).body
    declaration = _without_bodies(_defined(statements, name))
    if declaration is None:
        return None
    for node in ast.walk(declaration):
        if isinstance(node, ast.arg) and node.arg in without:
            node.annotation = None
    namespace: dict[str, Any] = {"__name__": __name__, "__builtins__": {**vars(builtins), "__import__": _loaded}}
    for statement in [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom | ast.Assign)] + [declaration]:
        program = ast.fix_missing_locations(ast.Module([statement], type_ignores=[]))
        with contextlib.suppress(Exception):  # needs a module that is not loaded, or a name defined in another way
            exec(compile(program, f"{module}.{name}", "exec"), namespace)
    return namespace.get(name)


def _loaded(name: str, _globals: Any = None, _locals: Any = None, names: Collection[str] = (), level: int = 0) -> Any:
    """Import a module as `__import__` does, but only if it is loaded already."""
    if level or name not in sys.modules:
        raise ImportError(f"{name} is not loaded")
    return sys.modules[name if names else name.partition(".")[0]]


def _defined(statements: list[ast.stmt], name: str) -> ast.stmt | None:
    """Return the definition of the function or class `name`; None if there is not exactly one."""
    found = [s for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef) and s.name == name]
    return found[0] if len(found) == 1 else None


def _without_bodies(definition: ast.stmt | None) -> ast.stmt | None:
    """Return the part of `definition` that declares its parameters; None if a base class or decorator may add some."""
    if isinstance(definition, ast.FunctionDef) and not definition.decorator_list:
        definition.body, definition.returns = [ast.Pass()], None
        return definition
    if isinstance(definition, ast.ClassDef):
        decorators = {ast.unparse(decorator).partition("(")[0] for decorator in definition.decorator_list}
        init = _without_bodies(_defined(definition.body, "__init__"))
        if init is not None and not decorators:
            definition.bases, definition.keywords, definition.body = [], [], [init]
            return definition
        if not definition.bases and decorators <= {"dataclass"}:
            fields = [statement for statement in definition.body if isinstance(statement, ast.AnnAssign)]
            definition.body = [*(fields if decorators else []), ast.Pass()]
            return definition
    return None
