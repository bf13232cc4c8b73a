"""Parameters of a component, parsed from its source file, because importing it would import PyTorch.

They are read only if all that they mention is in plain sight: literals, assignments in the same file, and imports of
modules that are loaded already. For anything else the component itself has to be imported.
"""

import ast
import sys
from collections.abc import Callable, Collection
from typing import Any

from cifar10.config.conf_folder import PROJECT


def read_declaration(dotted: str, without: Collection[str] = ()) -> Callable[..., Any] | None:
    """Return a function or class with the parameters, type hints and defaults of `dotted`, and nothing else of it.

    Args:
        dotted: MODULE.NAME, below the project's folder.
        without: Parameters whose type hints are left out.

    Returns:
        None if the source does not say it all, or cannot be read.
    """
    module, _, name = dotted.rpartition(".")
    try:
        statements = ast.parse(PROJECT.joinpath(*module.split(".")).with_suffix(".py").read_bytes()).body
    except (OSError, ValueError, SyntaxError):
        return None
    declaration = _without_bodies(_defined(statements, name))
    if declaration is None:
        return None
    for node in ast.walk(declaration):
        if isinstance(node, ast.arg) and node.arg in without:
            node.annotation = None
    needed = _needed_by(declaration, statements)
    if not all(map(_is_loaded, needed)):
        return None
    program = ast.fix_missing_locations(ast.Module([*needed, declaration], type_ignores=[]))
    namespace: dict[str, Any] = {"__name__": __name__}
    try:
        exec(compile(program, dotted, "exec"), namespace)
    except Exception:  # a name that is defined in another way, such as by a loop
        return None
    found: Callable[..., Any] = namespace[name]
    return found


def _defined(statements: list[ast.stmt], name: str) -> ast.stmt | None:
    """Return the definition of the function or class `name`; None if there is none, or several."""
    found = [s for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef) and s.name == name]
    return found[0] if len(found) == 1 else None


def _without_bodies(definition: ast.stmt | None) -> ast.stmt | None:
    """Return `definition` with what says its parameters; None if a base class or a decorator may say more."""
    if isinstance(definition, ast.FunctionDef) and not definition.decorator_list:
        definition.body, definition.returns = [ast.Pass()], None
        return definition
    if isinstance(definition, ast.ClassDef):
        init = _without_bodies(_defined(definition.body, "__init__"))
        fields = [statement for statement in definition.body if isinstance(statement, ast.AnnAssign)]
        if init is not None and not definition.decorator_list:
            definition.bases, definition.keywords, definition.body = [], [], [init]
            return definition
        if not definition.bases and all(map(_is_dataclass, definition.decorator_list)):
            definition.body = [*(fields if definition.decorator_list else []), ast.Pass()]
            return definition
    return None


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "dataclass"


def _needed_by(declaration: ast.stmt, statements: list[ast.stmt]) -> list[ast.stmt]:
    """Return the imports and assignments that `declaration` depends on, in the order of the file."""
    names = _names(declaration)
    needed: list[ast.stmt] = []
    for statement in reversed(statements):
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assign) and _bound_by(statement) & names:
            needed.append(statement)
            names |= _names(statement)
    return needed[::-1]


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _bound_by(statement: ast.Import | ast.ImportFrom | ast.Assign) -> set[str]:
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}


def _is_loaded(statement: ast.stmt) -> bool:
    """Return whether `statement` imports nothing but what is loaded already."""
    if isinstance(statement, ast.ImportFrom):
        module = None if statement.level else sys.modules.get(statement.module or "")
        return all(hasattr(module, alias.name) for alias in statement.names)
    return not isinstance(statement, ast.Import) or all(alias.name in sys.modules for alias in statement.names)
