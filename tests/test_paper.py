"""The paper: what it asks for, what it says when that is missing, and that it is typeset."""

import ast
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmf import paper

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "paper").glob("*.typ"))
COLUMNS = ("arm,macro_f1,low,high,difference,difference_low,difference_high,protocol,counts,solar_system,model,"
           "roc_auc,p,control,auc,system,source,stage,fault,tried,survived,method,predictor,settings,rho,p_holm,modality,"
           "share,value,whole,left,measure,VIF,seeds_low,seeds_high")
ROWS = ("SA-CMF,0.91,0.89,0.93,,,,five-fold,with,with,SA-CMF,0.9,,none,0.94,fastest pixel,here,figures,SIGKILL,2,2,"
        "SA-CMF,plain,8,-0.5,0.4,image,1,0.5,0.9,0.7,VIF,1.0,,",
        "image only,0.70,0.68,0.72,-0.21,-0.24,-0.18,five-fold,,with,CNN,0.8,0.01,first caption only,0.97,MNAD,there,"
        "figures,truncated,1,0,CMAF,given,8,0.2,1,words,0.5,0.6,0.9,0.7,Qabf,0.7,"
        "0.1,0.3")
EQUATION = re.compile(r"<eq:([a-z0-9-]+)>")


def read(path):
    return path.read_text(encoding="utf-8")


def prose():
    """The text a reader sees as words: without code, mathematics, calls, labels and comments."""
    for path in SOURCES:
        if path.name != "template.typ":
            text = re.sub(r"//.*|`[^`]*`|\$[^$]*\$|\"[^\"]*\"", " ", read(path))
            yield path.name, text


@pytest.fixture
def project(tmp_path):
    """A copy of the text with a stand-in for every figure, table and number that it shows."""
    from matplotlib.figure import Figure

    shutil.copytree(ROOT / "paper", tmp_path / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    figure = Figure(figsize=(3.5, 2.2))
    figure.subplots().plot([0, 1], [0, 1])
    figure.savefig(tmp_path / "one.pdf")
    run = {"run": {"notebook": "stand_in", "profile": "demo", "commit": "0123456789"}}
    for file, value in paper.needs(tmp_path):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is not None:
            kept = json.loads(read(path)) if path.is_file() else {}
            path.write_text(json.dumps(kept | {value: {"value": -0.5, "text": "-0.500", "unit": None}}))
        elif path.suffix == ".json":
            path.write_text(json.dumps(run))
        elif path.suffix == ".csv":
            path.write_text("\n".join((COLUMNS, *ROWS)) + "\n")
        else:
            shutil.copy(tmp_path / "one.pdf", path)
    return tmp_path


def test_the_paper_is_typeset_and_twice_the_same(project):
    pytest.importorskip("typst", reason="the paper is typeset by the typst wheel, which is not installed")
    first = paper.build(project).read_bytes()
    assert first.startswith(b"%PDF") and len(first) > 50_000
    assert paper.build(project, out="build/again.pdf").read_bytes() == first
    assert not list(project.rglob("*.part"))


def test_nothing_stands_in_the_margins():
    """A figure in a column that is too short for it goes on below the text: make it wide."""
    typst = pytest.importorskip("typst", reason="typst is not installed: pages are not drawn")
    drawn = typst.compile(str(ROOT / "paper" / "main.typ"), root=str(ROOT), ignore_system_fonts=True, format="png",
                          ppi=50)
    wrong = []
    for number, page in enumerate(drawn, 1):
        dark = np.asarray(Image.open(io.BytesIO(page)).convert("L")) < 160            # (550, 425), letter at 50 dpi
        foot = dark[510:].copy()
        foot[:, 200:225] = False                                                      # the page's number
        if foot.any() or dark[:, :25].any() or dark[:, 400:].any() or dark[:25].any():
            wrong.append(number)
    assert len(drawn) > 10 and not wrong, "pages with something beyond the text"


def test_missing_figures_and_values_are_all_named(project):
    (project / "figures/demo/mi_theta.pdf").unlink()
    values = project / "figures/demo/values/07_copula_mi.json"
    kept = json.loads(read(values))
    del kept["mi_theta2"]
    values.write_text(json.dumps(kept))
    with pytest.raises(FileNotFoundError, match="2 results.*\n.*mi_theta(.|\n)*make figures") as error:
        paper.build(project)
    assert 'the value "mi_theta2" in figures/demo/values/07_copula_mi.json' in str(error.value)
    assert "figures/demo/mi_theta.pdf" in str(error.value)


def test_a_folder_without_paper_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no paper/main.typ"):
        paper.build(tmp_path)


def test_typst_not_installed_is_said(project, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "typst", None)
    with pytest.raises(ModuleNotFoundError, match="make setup"):
        paper.build(project)


def test_an_error_in_the_text_names_its_place_and_keeps_the_old_paper(project):
    pytest.importorskip("typst", reason="the paper is typeset by the typst wheel, which is not installed")
    (project / "paper/main.pdf").write_bytes(b"old")
    table = project / "figures/demo/sacmf_arms.csv"
    table.write_text(read(table).replace("macro_f1", "f1"))
    with pytest.raises(RuntimeError, match='cannot typeset(.|\n)*no column .*macro_f1'):
        paper.build(project)
    assert (project / "paper/main.pdf").read_bytes() == b"old"


def test_needs_reads_profiles_tables_and_figures(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/main.typ").write_text(
        '#val("01_data", "n") #val("03_sacmf", "n", profile: "real")\n#fig("a_b", wide: true)[x]\n'
        '#rows("t", profile: "real", columns: ())[x]')
    assert paper.needs(tmp_path) == [
        ("figures/demo/values/01_data.json", "n"), ("figures/real/values/03_sacmf.json", "n"),
        ("figures/demo/a_b.pdf", None), ("figures/demo/a_b.json", None),
        ("figures/real/t.csv", None), ("figures/real/t.json", None)]


def test_a_part_that_is_not_included_needs_nothing(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/main.typ").write_text('#include "a.typ"\n')
    (tmp_path / "paper/a.typ").write_text('#val("01_data", "n")')
    (tmp_path / "paper/b.typ").write_text('#val("02_features", "n")')
    assert paper.needs(tmp_path) == [("figures/demo/values/01_data.json", "n")]


def test_every_call_in_the_text_is_understood():
    text = "".join(read(path) for path in SOURCES if path.name != "template.typ")
    assert len(re.findall(r"#(?:val|fig|rows)\(", text)) == len(paper._CALL.findall(text)) > 40


def test_no_semicolon_is_swallowed():
    """A semicolon right after a call ends the call in typst and is not printed; write \\;."""
    assert not [path.name for path in SOURCES for _ in re.findall(r"#val\([^)]*\);", read(path))]


def test_no_measured_number_is_typed():
    """Decimals in the prose come from files; constants of a method stand in mathematics."""
    typed = [(name, found) for name, text in prose() for found in re.findall(r"(?<![\w.])\d+\.\d+", text)]
    assert not typed


def test_equations_and_their_tests_belong_together():
    equations = [key for path in SOURCES for key in EQUATION.findall(read(path))]
    assert len(equations) == len(set(equations)) > 30
    bodies = [ast.parse(read(path)).body for path in (ROOT / "tests").glob("test_paper_*.py")]
    tests = {node.name for body in bodies for node in body
             if isinstance(node, ast.FunctionDef) and node.name.startswith("test_eq_")}
    assert {"test_eq_" + key.replace("-", "_") for key in equations} == tests


def test_every_displayed_equation_has_a_label():
    for path in SOURCES:
        if path.name != "template.typ":
            displayed = re.findall(r"^\$ .*?\$\s*(<eq:)?", read(path), re.DOTALL | re.MULTILINE)
            assert displayed.count("") == 0, path.name


def test_references_are_cited_and_have_an_address():
    text, entries = "".join(map(read, SOURCES)), re.split(r"\n(?=@)", read(ROOT / "paper/refs.bib"))
    for entry in entries:
        key = re.match(r"@\w+\{([^,]+),", entry).group(1)
        assert f"@{key}" in text, f"{key} is not cited"
        assert "doi = " in entry or "url = " in entry or key == "sklar1959", f"{key} has no DOI"
