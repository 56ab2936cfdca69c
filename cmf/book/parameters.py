"""Parameters of a percent notebook, read without running it; what is unknown or of a wrong kind is refused."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HEADER = re.compile(r"^# %%(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One assignment of the parameters cell."""

    name: str
    default: object
    meaning: str                 # its comment
    choices: tuple[str, ...]     # from "one of: a, b" in the comment; empty: any value of its type

    @property
    def kind(self) -> str:
        """Its type in words."""
        return "any" if self.default is None else type(self.default).__name__

    def accept(self, value: object, where: str) -> object:
        """`value` as this parameter takes it; an int becomes a float where the default is one.

        Raises:
            ValueError: a value of another type, or outside the stated choice.
        """
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        if self.default is None:
            fits = value is None or type(value) in (str, int, float)
        else:
            fits = type(value) is type(self.default)
        if not fits:
            raise ValueError(f"{where}: {self.name} takes {self.kind}, got {value!r} ({type(value).__name__})")
        if self.choices and str(value) not in self.choices:
            raise ValueError(f"{where}: {self.name} is one of {', '.join(self.choices)}, got {value!r}")
        return value


def cells(text: str) -> list[tuple[str, str, int]]:
    """Header, source and first line number of each cell of a percent notebook."""
    marks = list(HEADER.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark[1], text[mark.end():end].lstrip("\n"), text.count("\n", 0, mark.end()) + 2)
            for mark, end in zip(marks, ends, strict=True)]


def tags(header: str) -> list[str]:
    """Tags of a cell header such as ` tags=["parameters"]`."""
    found = re.search(r"tags=(\[.*?\])", header)
    return json.loads(found[1]) if found else []


def read(notebook: Path) -> dict[str, Parameter]:
    """Parameters of a percent notebook, in the order of its parameters cell.

    Raises:
        ValueError: no cell or several cells tagged "parameters", something in it that is no assignment of a
            literal, or a parameter without a comment.

    Example of a cell:
        # %% tags=["parameters"]
        epochs = 30        # passes over the training set
        arm = "full"       # one of: full, no_copula
    """
    found = [(source, line) for header, source, line in cells(notebook.read_text(encoding="utf-8"))
             if "parameters" in tags(header)]
    if len(found) != 1:
        raise ValueError(f"{notebook.name}: expected one cell tagged parameters, found {len(found)}; "
                         'start it with: # %% tags=["parameters"]')
    source, line = found[0]
    comments = {token.start[0]: token.string.lstrip("# ").strip()
                for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT}
    known = {}
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else \
            getattr(node, "target", None)
        try:
            default = ast.literal_eval(node.value)
        except (ValueError, AttributeError):
            default = target = None
        if not isinstance(target, ast.Name):
            raise ValueError(f"{notebook.name}, line {line + node.lineno - 1}: the parameters cell holds only "
                             f"assignments of literals, got {ast.unparse(node)!r}")
        if target.id == "INPUTS":
            continue
        meaning = next((comments[k] for k in range(node.end_lineno, node.lineno - 2, -1) if k in comments), "")
        if not meaning:
            raise ValueError(f"{notebook.name}, line {line + node.lineno - 1}: the parameter {target.id} needs a "
                             "comment that says what it is")
        choice = re.search(r"one of:\s*([^;]+)", meaning)
        choices = tuple(word.strip(" .\"'") for word in choice[1].split(",")) if choice else ()
        known[target.id] = Parameter(target.id, default, meaning, choices)
    return known


def table(known: Mapping[str, Parameter]) -> str:
    """The parameters as lines: name, type, default, meaning."""
    rows = [(p.name, p.kind, repr(p.default), p.meaning) for p in known.values()]
    widths = [max((len(row[k]) for row in rows), default=0) for k in range(3)]
    return "\n".join("  " + "  ".join([*(w.ljust(n) for w, n in zip(row, widths, strict=False)), row[3]])
                     for row in rows) or "  (none)"


def check(notebook: str, known: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, object]:
    """The given values as the notebook takes them.

    Raises:
        ValueError: an unknown name, a wrong type or a value outside a choice, with the list of what exists.
    """
    accepted = {}
    for name, value in given.items():
        try:
            if name not in known:
                raise ValueError(f"{notebook}: no parameter {name!r}")
            accepted[name] = known[name].accept(value, notebook)
        except ValueError as error:
            raise ValueError(f"{error}; {notebook} takes\n{table(known)}") from None
    return accepted


def spread(assignments: Iterable[str], books: Mapping[str, Mapping[str, Parameter]]) -> dict[str, dict]:
    """Command-line assignments `name=value` to the notebooks that have the parameter.

    Args:
        assignments: value is a Python literal, else a string; a string parameter takes the text as it is.
        books: parameters of each chosen notebook.

    Raises:
        ValueError: no "=" in it, or a name that none of the notebooks has.
    """
    given: dict[str, dict] = {name: {} for name in books}
    for text in assignments:
        name, sign, raw = text.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"a parameter is given as name=value, got {text!r}")
        try:
            literal = ast.literal_eval(raw)
        except (ValueError, SyntaxError):
            literal = raw
        having = [book for book, known in books.items() if name in known]
        if not having:
            lists = "\n".join(f" {book}\n{table(known)}" for book, known in books.items())
            raise ValueError(f"no notebook has a parameter {name!r}; there are\n{lists}")
        for book in having:
            given[book][name] = raw if isinstance(books[book][name].default, str) else literal
    return given


def profile(root: Path, name: str, books: Iterable[str]
            ) -> tuple[dict[str, dict], dict[str, list[str]], dict[str, str]]:
    """A profile from notebooks/profiles/<name>.yaml; "demo" is the notebooks' own defaults and has no file.

    The file maps notebook names to parameters; `skip: reason` among them leaves a notebook out, and
    `requires: [NAME]`, among them or at the top for all notebooks, lists what must be here: see `cmf.book.needs`.

    Returns:
        Parameters by notebook, needs by notebook, reasons of skipping by notebook.

    Raises:
        ValueError: an unknown profile, a file that is no such mapping, or an unknown notebook.
    """
    if name == "demo":
        return {}, {}, {}
    folder = root / "notebooks" / "profiles"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(["demo", *sorted(p.stem for p in folder.glob("*.yaml"))])
        raise ValueError(f"no profile {name!r}; there are: {known}")
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path.relative_to(root)} is no YAML: {error}") from None
    if not isinstance(content, dict) or not all(k == "requires" or isinstance(v or {}, dict)
                                                for k, v in content.items()):
        raise ValueError(f"{path.relative_to(root)} must map notebook names to parameters, got {content!r}")
    for_all = content.pop("requires", [])
    unknown = sorted(set(content) - set(books))
    if unknown:
        raise ValueError(f"{path.relative_to(root)} names {', '.join(map(str, unknown))}; the notebooks are: "
                         f"{', '.join(books)}")
    given = {book: dict(values or {}) for book, values in content.items()}
    skip = {book: str(values.pop("skip")) for book, values in given.items() if "skip" in values}
    own = {book: values.pop("requires", []) for book, values in given.items()}
    for words in (for_all, *own.values()):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{path.relative_to(root)}: requires must be a list of names, got {words!r}")
    return given, {book: for_all + own.get(book, []) for book in books}, skip
