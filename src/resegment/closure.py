"""Which source files a piece of the package is made of: what a stage depends on as code."""

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from resegment.errors import UserError

PACKAGE = Path(__file__).parent
# Plumbing cannot change a number: what it yields (parameters, paths) is tracked by its value.
PLUMBING = {"resegment", *(f"resegment.{m}" for m in (
    "errors", "files", "paths", "schema", "config", "dialects", "closure", "devices"))}  # fmt: skip


def _file(module: str) -> Path | None:
    path = PACKAGE.parent / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def module(name: str) -> Path:
    """The file of a module, or the folder of a package."""
    file = _file(name)
    return file.parent if file.name == "__init__.py" else file


def load(name: str) -> ModuleType:
    """Import a module of the package. Raises UserError where it imports what is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not _file(name):
            raise
        raise UserError(
            f"{module(name)} imports {error.name}, which is not installed: install it in this "
            "environment"
        ) from None


@cache
def _imports(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(_file(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    ours = {m for m in found if m.split(".")[0] == "resegment"}
    return frozenset(m for m in ours | {m.rpartition(".")[0] for m in ours} if m and _file(m))


def modules(*roots: str) -> list[str]:
    """Everything that `roots` import, directly or not, and themselves; sorted, without plumbing."""
    seen, todo = set(), list(roots)
    while todo:
        module = todo.pop()
        if module not in seen and module not in PLUMBING:
            seen.add(module)
            todo += _imports(module)
    return sorted(seen)


def files(*roots: str) -> dict[str, Path]:
    """{path inside the package: file} of `modules(*roots)` and of the C++ beside them."""
    found = (f for m in modules(*roots) for f in (_file(m), _file(m).with_suffix(".cpp")))
    return {f.relative_to(PACKAGE).as_posix(): f for f in found if f.exists()}
