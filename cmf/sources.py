"""What a Python file rests on, found by reading imports, and hashes of it. Standard library only.

Imports are read statically, anywhere in a file, also inside functions. A module loaded by a computed name
(importlib with a variable) is not seen.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path


def sha256(path: Path | str) -> str:
    """sha256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reach(path: Path | str, root: Path | str, package: str = "cmf") -> list[Path]:
    """Files of `package` that the Python file `path` reaches through imports, sorted; `path` is not among them
    unless it is reached.

    Importing a.b.c reaches a/__init__.py, a/b/__init__.py and a/b/c.py; importing a name from a package
    reaches the submodule of that name where there is one.

    Args:
        path: a module or a percent notebook.
        root: folder that holds the package.
        package: name of the package to follow.

    Raises:
        SyntaxError: a file that does not parse, with its name.
    """
    root = Path(root).resolve()
    found: set[Path] = set()
    todo = [Path(path).resolve()]
    while todo:
        for name in imports(todo.pop(), root):
            parts = name.split(".")
            if parts[0] != package:
                continue
            for k in range(1, len(parts) + 1):
                stem = root.joinpath(*parts[:k])
                for file in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if file not in found and file.is_file():
                        found.add(file)
                        todo.append(file)
    return sorted(found)


def code_hash(path: Path | str) -> str:
    """sha256 of what a module does: its syntax tree without docstrings, comments and layout."""
    stat = Path(path).stat()
    return _code_hash(Path(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _code_hash(path: Path, size: int, changed: int) -> str:
    return tree_hash(path.read_text(encoding="utf-8"), str(path))


def tree_hash(text: str, name: str = "<source>") -> str:
    """`code_hash` of source text.

    >>> tree_hash("x = 1  # one") == tree_hash("x  =  1")
    True
    """
    tree = ast.parse(text, name)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and not isinstance(node, ast.Lambda) and _is_text(body[0]):
            node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@lru_cache(maxsize=1024)
def _read(path: Path, size: int, changed: int) -> tuple[ast.Import | ast.ImportFrom, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return tuple(n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)))


def imports(path: Path, root: Path) -> Iterator[str]:
    """Dotted names that a file imports itself; `from a import b` gives a and a.b, whatever b is."""
    stat = path.stat()
    for node in _read(path, stat.st_size, stat.st_mtime_ns):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:  # relative: counted from the package that holds the file
            here = path.parent
            for _ in range(node.level - 1):
                here = here.parent
            base = ".".join((*here.relative_to(root).parts, *filter(None, [node.module])))
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
