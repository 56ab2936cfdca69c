"""The reference: public modules of cmf as reStructuredText. Sources are read, never imported.

Docstrings are prose that no one wrote for a typesetter: what could be taken for markup is escaped, indented lines
keep their shape, names in backticks become links where the reference knows them.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

GROUPS = {  # page: (title, parts of cmf), as data flows
    "data": ("Data", ("catalogue", "simulate", "datasets")),
    "encoders": ("Encoders", ("encoders", "weights")),
    "blocks": ("Blocks and copula", ("blocks", "copula")),
    "methods": ("Methods and losses", ("methods", "losses", "fusion_losses", "segmentation_losses", "baselines",
                                       "detection")),
    "training": ("Training", ("training", "training_processes", "training_state", "processes", "runs", "cache")),
    "measures": ("Measures", ("metrics",)),
    "studies": ("Experiments", ("studies", "results")),
    "work": ("Figures, notebooks, command line", ()),      # every other part
}
_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note):\s*(.*)")
_ITEM = re.compile(r"(\*{0,2}\w[^:]{0,80}?):\s+(.*)")


def modules(root: Path) -> list[str]:
    """Dotted names of the public modules and packages, sorted; names that begin with _ are left out."""
    names = []
    for path in sorted((root / "cmf").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if len(parts) > 1 and not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return sorted(names)


def group(name: str) -> str:
    """The page of GROUPS to which a module belongs."""
    part = name.split(".")[1]
    return next((key for key, (_, parts) in GROUPS.items() if part in parts), "work")


def source(root: Path, name: str) -> Path:
    """The file of a module or package."""
    path = root.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def write(root: Path, folder: Path) -> None:
    """A page a module and a page a group into `folder`, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = modules(root)
    for name in names:
        (folder / f"{name}.rst").write_text(module(source(root, name), name, root), encoding="utf-8")
    for key, (title, _) in GROUPS.items():
        found = [name for name in names if group(name) == key]
        lines = [title, "=" * len(title), "", ".. list-table::", "   :widths: 40 60", "   :class: modules", ""]
        for name in found:
            told = ast.get_docstring(ast.parse(source(root, name).read_text(encoding="utf-8"))) or ""
            lines += [f"   * - :doc:`{name} <{name}>`", f"     - {inline(told.split(chr(10))[0])}"]
        (folder / f"{key}.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")


def module(path: Path, name: str, root: Path) -> str:
    """The page of one module: its docstring, then its public functions and classes.

    It stands in no table of contents, which the browser would have to carry on every page; its group names it.
    """
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    page = group(name)
    lines = [":orphan:", "", name, "=" * len(name), "", f".. py:module:: {name}", "",
             f":doc:`{GROUPS[page][0]} <{page}>`: ``{path.relative_to(root).as_posix()}``", ""]
    lines += rst(ast.get_docstring(tree) or "")
    exported = [f":py:obj:`~{name}.{node.module}.{item.name}`" for node in tree.body
                if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module for item in node.names]
    if path.name == "__init__.py" and exported:
        lines += ["", f"To be imported from ``{name}``: {', '.join(exported)}.", ""]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            lines += ["", *(_class(node, text) if isinstance(node, ast.ClassDef) else _function(node))]
    return "\n".join(lines) + "\n"


def _function(node: ast.FunctionDef, kind: str = "function") -> list[str]:
    decorators = {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}
    if kind == "method" and decorators & {"property", "cached_property"}:
        lines = [f".. py:property:: {node.name}"]
        lines += [f"   :type: {ast.unparse(node.returns)}"] if node.returns else []
    else:
        given = inspect.cleandoc(ast.unparse(node.args))
        if kind == "method" and "staticmethod" not in decorators:
            given = re.sub(r"^\w+(: [^,]+)?(, /)?(, )?", "", given)     # self, cls
        lines = [f".. py:{kind}:: {node.name}({given})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")]
        lines += [f"   :{word}:" for word in ("classmethod", "staticmethod") if kind == "method" and word in decorators]
    return lines + ["", *_indented(rst(ast.get_docstring(node) or ""))]


def _class(node: ast.ClassDef, text: str) -> list[str]:
    """A class: a record shows its fields with their comments, any other what it is made with."""
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    made = next((item for item in methods if item.name == "__init__"), None)
    given = re.sub(r"^self(, )?", "", ast.unparse(made.args)) if made else ""
    body = rst(ast.get_docstring(node) or "")
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
              and not item.target.id.startswith("_")]
    for item in fields:
        last = text.splitlines()[item.end_lineno - 1]
        said = last[item.end_col_offset:].partition("#")[2].strip()
        body += [f".. py:attribute:: {item.target.id}", "   :no-contents-entry:"]
        body += [f"   :type: {ast.unparse(item.annotation)}"]
        body += [f"   :value: {ast.unparse(item.value)}"] if item.value is not None else []
        body += ["", f"   {inline(said)}" if said else "", ""]
    for item in methods:
        if not item.name.startswith("_") and (ast.get_docstring(item) or item.name == "forward"):
            body += ["", *_function(item, "method")]
    return [f".. py:class:: {node.name}" + (f"({given})" if given else ""), "", *_indented(body)]


def _indented(lines: list[str]) -> list[str]:
    return [f"   {line}" if line else "" for line in lines]


def escaped(text: str) -> str:
    """Prose in which nothing is markup."""
    return re.sub(r"([\\*|_`<>\[\]:])", r"\\\1", text)


def inline(text: str) -> str:
    """One piece of prose, escaped; `name` becomes a link where the reference has it, other backticks code."""
    done = []
    for k, piece in enumerate(re.split(r"``?([^`]+)``?", text)):
        if k % 2 == 0:
            done.append(escaped(piece))
        elif re.fullmatch(r"[A-Za-z_][\w.]*", piece):
            done.append(rf"\ :py:obj:`{piece}`\ ")
        else:
            done.append(rf"\ ``{piece.strip()}``\ ")
    return r"\ " + "".join(done)         # what begins with an escape cannot begin a list, a title, a directive


def rst(text: str) -> list[str]:
    """A docstring as lines of reStructuredText."""
    lines, section = [], None
    for kind, block in _blocks(text.splitlines()):
        if kind == "section":
            section, rest = _SECTION.fullmatch(block[0]).groups()
            lines += [f"**{section}**", ""] + ([inline(rest), ""] if rest else [])
        elif kind == "doctest":
            lines += [".. code-block:: pycon", "", *_indented(block), ""]
        elif kind == "indented" and section:
            body = inspect.cleandoc("\n".join(block))
            lines += [*(rst(body) if section.startswith(("Ex", "Ret", "Not")) else _items(body.splitlines())), ""]
        elif kind == "indented":
            lines += [".. code-block:: text", "", *_indented(inspect.cleandoc("\n".join(block)).splitlines()), ""]
        else:
            lines += [inline(" ".join(line.strip() for line in block)), ""]
        section = section if kind in ("section", "indented") else None
    return lines


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(kind, lines): section (its heading), indented, doctest, or prose."""
    block, kind = [], None
    for line in [*lines, ""]:
        if line.startswith(" "):
            now = "doctest" if kind == "doctest" else "indented"
        elif line.startswith(">>>") or (kind == "doctest" and line):
            now = "doctest"
        else:
            now = "section" if _SECTION.fullmatch(line) else "prose" if line else None
        if kind == "indented" and not line:
            now = "indented"                       # blank lines belong to it, until prose begins
        if block and (now != kind or now == "section"):
            yield kind, block
            block = []
        if now and (line or block):
            block.append(line)
        kind = now
    if kind == "indented" and any(block):
        yield kind, block


def _items(lines: list[str]) -> list[str]:
    """`name: text` with indented continuations as a list; what has no name stays prose."""
    items = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        elif line.strip():
            items.append(line)
    found = [_ITEM.fullmatch(item) for item in items]
    return [f"* **{escaped(m[1])}** {inline(m[2])}" if m else f"* {inline(item)}"
            for m, item in zip(found, items, strict=True)]
