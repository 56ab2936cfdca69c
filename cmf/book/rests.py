"""The statements of a notebook that a figure rests on, so that it can be drawn again in seconds.

From the cell that saves the figure backwards, whatever makes or changes a name needed further down is kept, and checks
that ask for nothing else. What only prints, other figures, and what is computed again for a check are left out.
"""

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence

SILENT = ("print", "display", "plt.show", "plots.value")  # calls that change nothing


class _Statement:
    """A statement that stands outside of compound ones but `if`, and the conditions of the `if`s around it.

    saves: its figures; reads: names that it looks at, those in its conditions too; makes: names that it binds; anew:
    those of them that it binds whatever they were; changes: names whose object it may change.
    """

    def __init__(self, cell: int, node: ast.stmt, guards: tuple[str, ...], modules: set[str]):
        self.cell, self.node, self.guards = cell, node, guards
        self.saves = saved(node)
        names = _Names()
        names.visit(node)
        self.reads = names.reads | {name for guard in guards for name in _read(ast.parse(guard))}
        self.makes = names.makes
        self.anew = names.makes if isinstance(node, ast.Assign) else set()
        self.changes = _changed(node, modules)


class _Names(ast.NodeVisitor):
    """Names that some code reads before it has bound them itself, and those that it leaves bound."""

    def __init__(self):
        self.reads, self.makes = set(), set()

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.makes.add(node.id)
        elif node.id not in self.makes:
            self.reads.add(node.id)

    def visit_alias(self, node):
        self.makes.add((node.asname or node.name).split(".")[0])

    def visit_Assign(self, node):
        self._each(node.value, *node.targets)

    def visit_AugAssign(self, node):
        self.reads |= {_base(node.target)} - self.makes - {None}
        self._each(node.value, node.target)

    def visit_For(self, node):
        self._each(node.iter, node.target, *node.body, *node.orelse)

    def visit_ListComp(self, node):
        self._inside(*node.generators, node.elt)

    visit_SetComp = visit_GeneratorExp = visit_ListComp

    def visit_DictComp(self, node):
        self._inside(*node.generators, node.key, node.value)

    def visit_comprehension(self, node):
        self._each(node.iter, node.target, *node.ifs)

    def visit_Lambda(self, node):
        self._inside(node.args, node.body)

    def visit_FunctionDef(self, node):
        self._each(*node.decorator_list)
        self._inside(node.args, *node.body)
        self.makes.add(node.name)

    def visit_arguments(self, node):
        self._each(*node.defaults, *(one for one in node.kw_defaults if one))
        self.makes |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}

    def _each(self, *nodes):
        for node in nodes:
            self.visit(node)

    def _inside(self, *nodes):
        outer = set(self.makes)
        self._each(*nodes)
        self.makes = outer


def kept(cells: Sequence[str], figures: Sequence[str], always: Sequence[int] = ()) -> list[str]:
    """The cells cut down to what some figures rest on; a cell of which nothing is left becomes "".

    Args:
        cells: sources of the code cells, in order.
        figures: names, each saved by a `plots.save(fig, "name", ...)`; its cell is kept whole.
        always: numbers of further cells that are kept whole, as that of the parameters.

    Raises:
        ValueError: a figure that no cell saves.

    >>> kept(["rows = read()\\nagain = measure(rows)", "plots.save(draw(rows), 'one')"], ["one"])
    ['rows = read()', "plots.save(draw(rows), 'one')"]
    """
    trees = [ast.parse(text) for text in cells]
    modules = {(name.asname or name.name).split(".")[0] for tree in trees for name in ast.walk(tree)
               if isinstance(name, ast.alias)}
    program = [one for k, tree in enumerate(trees) for one in _statements(k, tree.body, modules)]
    homes = {name: one.cell for one in program for name in one.saves}
    if absent := [name for name in figures if name not in homes]:
        raise ValueError(f"no cell saves {', '.join(absent)}; there are: {', '.join(homes) or 'no figures'}")
    own = {homes[name] for name in figures}
    taken = _taken(program, own, set(always), modules)
    taken |= _checks(program, taken)
    for tree in trees:
        tree.body = _cut(tree.body, {id(program[k].node) for k in taken})
    return [text if k in own or k in always else ast.unparse(tree) for k, (text, tree) in
            enumerate(zip(cells, trees, strict=True))]


def saved(node: ast.AST) -> list[str]:
    """Names of the figures that are saved in some code: the literal second argument of `plots.save`."""
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call) and ast.unparse(part.func) == "plots.save"]
    return [call.args[1].value for call in calls if len(call.args) > 1 and isinstance(call.args[1], ast.Constant)]


def _taken(program: Sequence[_Statement], own: set[int], always: set[int], modules: set[str]) -> set[int]:
    """Numbers of the statements that the cells `own` rest on."""
    aliases: dict[str, set[str]] = {}                     # names that stand for a part of another: ax = axes[0]
    for one in program:
        if isinstance(one.node, ast.Assign) and not _calls(one.node.value) and (base := _base(one.node.value)):
            for name in one.anew:
                aliases.setdefault(name, set()).add(base)
    functions = {name: one.reads for one in program for name in one.makes
                 if isinstance(one.node, ast.FunctionDef) or _is_lambda(one.node)}
    plain = modules | {name for one in program if one.cell in always for name in one.makes}
    certain = set.intersection(*(set(one.guards) for one in program if one.cell in own and one.saves))
    taken, needed = set(), set()
    for k in reversed(range(len(program))):
        one = program[k]
        if one.cell not in own | always and (one.saves or not (
                (one.makes | _through(one.changes, aliases)) & needed or _sets_up(one.node, modules, plain))):
            continue
        taken.add(k)
        if set(one.guards) <= certain:
            needed -= one.anew
        needed |= _through(one.reads, functions)
    return taken


def _checks(program: Sequence[_Statement], taken: set[int]) -> set[int]:
    """Numbers of the asserts that ask only for what is there anyhow."""
    known, found = set(dir(builtins)), set()
    for k, one in enumerate(program):
        if k in taken:
            known |= one.makes
        elif isinstance(one.node, ast.Assert) and one.reads <= known:
            found.add(k)
        else:
            known -= one.makes | one.changes
    return found


def _statements(cell: int, body: Sequence[ast.stmt], modules: set[str], guards: tuple[str, ...] = ()
                ) -> Iterator[_Statement]:
    for node in body:
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            yield from _statements(cell, node.body, modules, (*guards, test))
            yield from _statements(cell, node.orelse, modules, (*guards, f"not ({test})"))
        else:
            yield _Statement(cell, node, guards, modules)


def _cut(body: Sequence[ast.stmt], chosen: set[int]) -> list[ast.stmt]:
    left = []
    for node in body:
        if isinstance(node, ast.If):
            node.body, node.orelse = _cut(node.body, chosen), _cut(node.orelse, chosen)
            if node.body or node.orelse:
                node.body = node.body or [ast.Pass()]
                left.append(node)
        elif id(node) in chosen:
            left.append(node)
    return left


def _through(names: set[str], leads: Mapping[str, set[str]]) -> set[str]:
    """Names and all that they lead to."""
    found, new = set(), set(names)
    while new:
        found |= new
        new = set().union(*(leads.get(name, ()) for name in new)) - found
    return found


def _read(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def _bound(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _changed(node: ast.AST, modules: set[str]) -> set[str]:
    """Names whose object is written to: x of x.a = 1, x[0] += 1, and, where nothing takes the value, of x.f(y), f(x)
    and module.f(x); and what a changed variable of a loop is a part of."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, (ast.Attribute, ast.Subscript)) and not isinstance(part.ctx, ast.Load):
            found.add(_base(part))
        if isinstance(part, ast.AugAssign):
            found.add(_base(part.target))
        if isinstance(part, ast.Expr) and isinstance(call := part.value, ast.Call) and ast.unparse(
                call.func) not in SILENT:
            base = _base(call.func)
            given = [*call.args, *(one.value for one in call.keywords)] if base in modules or isinstance(
                call.func, ast.Name) else []
            found |= {base, *(one.id for one in given if isinstance(one, ast.Name))}
    parts = {}
    for part in ast.walk(node):
        if isinstance(part, ast.For):
            parts |= _parts(part.target, part.iter)
    return _through(found - {None}, parts) - modules


def _parts(target: ast.AST, whole: ast.AST) -> dict[str, set[str]]:
    """What each variable of a loop is a part of: of `for k, (a, b) in enumerate(zip(x, y))` a of x, b of y."""
    takes = ast.unparse(whole.func) if isinstance(whole, ast.Call) else ""
    if takes == "zip" and isinstance(target, ast.Tuple):
        return {name: of for one, own in zip(target.elts, whole.args, strict=False)
                for name, of in _parts(one, own).items()}
    if takes == "enumerate" and isinstance(target, ast.Tuple):
        return _parts(target.elts[1], whole.args[0])
    return {name: _read(whole) for name in _bound(target)}


def _base(node: ast.AST) -> str | None:
    """x of x.a[0].b, through calls of methods too."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _is_lambda(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)


def _sets_up(node: ast.AST, modules: set[str], plain: set[str]) -> bool:
    """A call on a module, as `torch.set_num_threads(1)`: its arguments are literals and parameters, nothing takes its
    value."""
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) not in SILENT and _base(node.value.func) in modules
            and not any(_calls(part) for part in [*node.value.args, *node.value.keywords]) and _read(node) <= plain)
