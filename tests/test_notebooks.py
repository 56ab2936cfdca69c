"""The pairs: notebooks/NN.ipynb holds the cells of NN.py, executed without errors."""

import json
import re
from pathlib import Path

import jupytext
import pytest

from cmf.book import plan

ROOT = Path(__file__).resolve().parents[1]
NAMES = plan.notebooks(ROOT)


def cells(path: Path) -> list[tuple]:
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in jupytext.read(path).cells]


@pytest.mark.parametrize("name", NAMES)
def test_pair_has_equal_cells_and_clean_outputs(name):
    pair = ROOT / "notebooks" / f"{name}.ipynb"
    assert pair.is_file(), f"{pair.name} is missing; write it with: make notebooks"
    assert cells(pair) == cells(pair.with_suffix(".py")), f"{pair.name} is behind its source; run: make notebooks"
    book = json.loads(pair.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "executed in order"
    outputs = [output for cell in code for output in cell["outputs"]]
    bad = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not bad, bad[:1]
    texts = json.dumps([{k: v for k, v in o.get("data", o).items() if not k.startswith("image/")} for o in outputs])
    found = re.search(r"(/home/|/root/|/Users/|/work/|/mnt/|/tmp/)\S*", texts)
    assert not found, f"a path of one machine is stored: {found[0]}"


def test_every_pair_has_a_source():
    stored = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert stored <= set(NAMES), f"no source for {sorted(stored - set(NAMES))}"
