"""What a figure rests on: statements that make or change what it shows are kept, all else is left out."""

import ast
import builtins

import jupytext
import project
import pytest

from cmf.book import plan, rests

NOTEBOOKS = project.ROOT / "notebooks"
FIRST = "import matplotlib.pyplot as plt\nimport torch\nfrom cmf import plots\nk = 2"


def left(*cells: str, figure: str = "one") -> str:
    return "\n".join(text for text in rests.kept([FIRST, *cells], [figure], [0])[1:] if text)


@pytest.mark.parametrize("before", [
    "rows = [1]",
    "rows = [1]\nrows.append(2)",
    "rows = {}\nrows['a'] = 1",
    "rows = [1]\nrows += [2]",
    "rows = [[1], [2]]\nfor row in rows:\n    row.append(3)",
    "rows, names = ([[1]], 'a')\nfor k, (row, name) in enumerate(zip(rows, names)):\n    row.append(name)",
    "rows = [[1], [2]]\nfirst = rows[0]\nfirst.append(3)",
    "rows = [2, 1]\norder(rows)",
    "rows = [2, 1]\ntorch.sort(rows)",
    "base = 3\n\ndef double(x):\n    return base * x\nrows = double(2)",
    "rows = 1\nrows = rows + 1",
    "rows = make()\nassert len(rows) == 3",
    "torch.set_num_threads(k)\nrows = [1]",
    "if k:\n    rows = [1]",
    "if k == 1:\n    rows = [1]\nelse:\n    rows = [2]",
    "rows = [x for x in range(k)]",
    "with open('a') as file:\n    rows = file.read()",
])
def test_what_a_figure_rests_on_is_kept(before):
    draw = "plots.save(rows, 'one')  # as it is"
    assert left(before, draw) == f"{before}\n{draw}"


@pytest.mark.parametrize("before, kept", [
    ("print(k)\nrows = [1]\nprint(rows)\nplt.show()", "rows = [1]"),
    ("rows = read()\nagain = measure(rows)\nassert again == rows", "rows = read()"),
    ("rows = [1]\nplots.save(rows, 'other')", "rows = [1]"),
    ("rows = slow()\nrows = [1]", "rows = [1]"),
    ("x = slow()\nrows = [x for x in range(3)]", "rows = [x for x in range(3)]"),
    ("ax = slow()\nfor ax in range(3):\n    ax.plot()\nrows = [1]", "rows = [1]"),
    ("others = [1]\nothers.append(2)\nrows = [1]", "rows = [1]"),
    ("rows = [1]\nif k:\n    print(rows)", "rows = [1]"),
    ("rows = [1]\nax = slow()\nax.set_xticks(rows)", "rows = [1]"),
    ("if k:\n    other = slow()\n    rows = [1]", "if k:\n    rows = [1]"),
    ("if k:\n    other = slow()\nelse:\n    rows = [1]", "if k:\n    pass\nelse:\n    rows = [1]"),
])
def test_what_only_prints_checks_or_is_overwritten_is_left_out(before, kept):
    assert left(before, "plots.save(rows, 'one')") == f"{kept}\nplots.save(rows, 'one')"


def test_under_one_condition_what_is_bound_anew_is_left_out():
    first = "if k:\n    fig = slow()\n    fig.legend()"
    draw = "if k:\n    fig = plots.figure()\n    plots.save(fig, 'one')"
    assert left(first, draw) == draw
    assert left(first, "plots.save(fig, 'one')") == first + "\nplots.save(fig, 'one')"


def test_two_figures_rest_on_what_either_needs():
    cells = ["rows = [1]", "again = slow()", "plots.save(rows, 'one')", "plots.save(more(rows), 'two')", "x = slow()"]
    assert rests.kept(cells, ["one", "two"]) == [cells[0], "", *cells[2:4], ""]


def test_a_figure_that_nothing_saves_is_refused():
    with pytest.raises(ValueError, match="no cell saves two; there are: one$"):
        left("plots.save(0, 'one')", figure="two")
    with pytest.raises(ValueError, match="no cell saves one; there are: no figures$"):
        left("1")


@pytest.mark.parametrize("name", plan.notebooks(project.ROOT))
def test_every_name_in_a_figure_s_part_of_a_notebook_is_made_before(name):
    cells = [cell for cell in jupytext.read(NOTEBOOKS / f"{name}.py").cells if cell.cell_type == "code"]
    always = [k for k, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    sources = [cell.source for cell in cells]
    for figure in plan.drawn(NOTEBOOKS / f"{name}.py"):
        known, later, part = set(dir(builtins)), set(), rests.kept(sources, [figure], always)
        for text in part:
            for node in ast.parse(text).body:
                names = rests._Names()
                names.visit(node)
                if isinstance(node, ast.FunctionDef):
                    later |= names.reads                  # when it is called
                else:
                    assert names.reads <= known, f"{figure}: {ast.unparse(node)[:80]}"
                known |= names.makes
        assert later <= known, figure
        assert figure in [saved for text in part for saved in rests.saved(ast.parse(text))]
        assert sum(map(len, part)) < 0.7 * sum(map(len, sources)), f"{figure}: nearly all of the notebook is kept"
