"""The site: pages name what exists, nothing is left out, docstrings cannot break it, its links are whole."""

import json
import re
from pathlib import Path

import pytest

from cmf.book import plan
from cmf.site import build, figures, links, reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "paper" / "site").rglob("*.md"))
FRONT = (ROOT / "paper" / "site" / "index.md").read_text(encoding="utf-8")


def test_every_notebook_is_in_the_table_of_contents():
    assert re.findall(r"^\d\d .+ <notebooks/(\w+)>$", FRONT, re.MULTILINE) == plan.notebooks(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for address in re.findall(r"\]\(([^)#]+)\)|literalinclude\} (\S+)", text):
        address = "".join(address)
        if address.startswith("thumbs/"):
            assert (ROOT / "figures" / address.removeprefix("thumbs/")).is_file(), address
        elif "notebooks/" in address:
            assert (ROOT / "notebooks" / Path(address).name).is_file(), address
        else:
            assert address == "figures.rst" or (page.parent / address).is_file(), address
    for name in re.findall(r"\{py:\w+\}`([\w.]+)`", text):
        known = name if name in reference.modules(ROOT) else name.rpartition(".")[0]
        assert known in reference.modules(ROOT), name
        if known != name:
            assert re.search(rf"^(def|class) {name.rpartition('.')[2]}\b", reference.source(ROOT, known).read_text(),
                             re.MULTILINE), name
    entries = re.findall(r"^((?:howto|reference)/\w+|data|work|[a-z]+)$", text, re.MULTILINE)
    for entry in entries if page.name == "index.md" else ():
        assert (page.parent / f"{entry}.md").is_file() or entry in (*reference.GROUPS, "figures"), entry


def test_how_to_pages_are_all_in_the_table_of_contents():
    found = {path.stem for path in PAGES if path.parent.name == "howto"}
    assert set(re.findall(r"^howto/(\w+)$", FRONT, re.MULTILINE)) == found


def test_figure_table_has_every_figure(tmp_path):
    figures.write(ROOT, tmp_path)
    text = (tmp_path / "figures.rst").read_text(encoding="utf-8")
    there = {(path.parent.name, path.stem) for profile in figures.PROFILES
             for path in (ROOT / "figures" / profile).glob("*.png")}
    assert set(re.findall(r"\.\. image:: thumbs/(\w+)/(\w+)\.png$", text, re.MULTILINE)) == there
    for profile, name in there:
        assert f".. _figure-{profile}-{name}:" in text and (tmp_path / "thumbs" / profile / f"{name}.png").is_file()
    told = set(re.findall(r"<(figures/[^>]+)>`__", text))
    kept = {path.relative_to(ROOT).as_posix() for profile, name in there
            for path in (ROOT / "figures" / profile).glob(f"{name}.*")}
    assert told == kept == {path.relative_to(tmp_path / "files").as_posix()
                            for path in (tmp_path / "files").rglob("*") if path.is_file()}


def test_records_that_tell_too_little_are_refused(tmp_path):
    folder = tmp_path / "figures" / "demo"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(dict(run=dict(notebook="01_one"))))
    with pytest.raises(ValueError, match=r"a\.json names no notebook or no commit; draw .*make a"):
        figures.records(tmp_path, "demo")
    (folder / "a.json").write_text(json.dumps(dict(run=dict(notebook="01_one", commit="c"))))
    with pytest.raises(FileNotFoundError, match=r"a\.png is not there; draw it again: make a"):
        figures.records(tmp_path, "demo")


def test_every_module_is_in_the_reference_once(tmp_path):
    parts = {part for _, found in reference.GROUPS.values() for part in found}
    names = reference.modules(ROOT)
    assert parts <= {name.split(".")[1] for name in names}
    assert "cmf.blocks.scan" in names and "cmf.copula" in names and not [n for n in names if "__" in n]
    reference.write(ROOT, tmp_path)
    pages = "".join((tmp_path / f"{key}.rst").read_text() for key in reference.GROUPS)
    assert all(pages.count(f":doc:`{name} <{name}>`") == 1 and (tmp_path / f"{name}.rst").is_file() for name in names)


def test_docstrings_cannot_become_markup():
    assert reference.inline("|x|_ of *y* `Triple`s, `a b`") == (
        r"\ \|x\|\_ of \*y\* \ :py:obj:`Triple`\ s, \ ``a b``\ ")
    text = ("First::\n\n    kept  as it is\n\nArgs:\n    x: (n,) one\n        more\n    odd\n\n"
            ">>> f(1)\n2\n\nReturns: y.")
    assert reference.rst(text) == [
        r"\ First\:\:", "", ".. code-block:: text", "", "   kept  as it is", "", "**Args**", "",
        r"* **x** \ (n,) one more", r"* \ odd", "", ".. code-block:: pycon", "", "   >>> f(1)", "   2", "",
        "**Returns**", "", r"\ y.", ""]


MODULE = '''"""A module of `Box`."""

from dataclasses import dataclass


@dataclass
class Box:
    """What is *in* it|."""

    size: int = 3    # of a_side

    @property
    def area(self) -> int:
        """Square."""

    def grown(self, by: int) -> "Box":
        """Larger.

        Example:
            >>> Box().grown(1)
        """


def free(x, *more, **others):
    """Any.

    Raises:
        ValueError: `x` is bad.
    """


def _hidden():
    """Not shown."""
'''


def project(root):
    """A project with one page, one notebook, and a module of each group."""
    (root / "paper" / "site").mkdir(parents=True)
    for name in ("cmf", "notebooks"):
        (root / name).mkdir()
    (root / "README.md").write_text("")
    (root / "cmf" / "toy.py").write_text(MODULE)
    for _, parts in reference.GROUPS.values():
        for part in parts[:1]:
            (root / "cmf" / f"{part}.py").write_text('"""A module."""\n')
    for name in ("conf.py", "_static"):
        (root / "paper" / "site" / name).symlink_to(ROOT / "paper" / "site" / name)
    (root / "paper" / "site" / "index.md").write_text(
        "# Front\n\n$x^2$ and {py:class}`cmf.toy.Box`\n\n```{toctree}\nnotebooks/01_one\nfigures\nreference/work\n"
        + "\n".join(f"reference/{key}" for key in reference.GROUPS if key != "work") + "\n```\n")
    markdown = dict(cell_type="markdown", metadata={}, id="a", source="# One")
    code = dict(cell_type="code", metadata={}, id="b", source="print(6 * 7)", execution_count=1,
                outputs=[dict(output_type="stream", name="stdout", text="forty-two, as stored\n")])
    about = dict(language_info=dict(name="python", pygments_lexer="ipython3"))
    (root / "notebooks" / "01_one.ipynb").write_text(
        json.dumps(dict(cells=[markdown, code], metadata=about, nbformat=4, nbformat_minor=5)))
    return root


def test_a_small_site_is_built_whole(tmp_path):
    pytest.importorskip("sphinx", reason="Sphinx is not installed, so that no site can be built")
    root = project(tmp_path)
    front = build.build(root)
    assert front == root / "build" / "site" / "index.html" and links.problems(front.parent) == []
    page = (front.parent / "notebooks" / "01_one.html").read_text()
    assert "forty-two, as stored" in page and build.MATHS in front.read_text()
    page = (front.parent / "reference" / "cmf.toy.html").read_text()
    assert "What is *in* it|." in page and "of a_side" in page and "Not shown" not in page
    assert 'id="cmf.toy.Box.grown"' in page and 'id="cmf.toy.free"' in page
    before = front.stat().st_mtime_ns
    with (root / "paper" / "site" / "index.md").open("a") as page:
        page.write("\n[gone](absent.md)\n")
    with pytest.raises(RuntimeError, match="Sphinx does not build the site without warnings"):
        build.build(root)
    text = (root / "paper" / "site" / "index.md").read_text().replace("[gone](absent.md)", "<a href='gone.html'>x</a>")
    (root / "paper" / "site" / "index.md").write_text(text)
    with pytest.raises(RuntimeError, match=r"1 links of the site are wrong:\n  index\.html links to gone\.html"):
        build.build(root)
    assert front.stat().st_mtime_ns == before, "a site with a fault replaces nothing"


def test_a_missing_sphinx_is_said(monkeypatch):
    monkeypatch.setattr(build, "NEEDED", ("sphynx",))
    with pytest.raises(ModuleNotFoundError, match=r"the site needs sphynx; run `make setup` or `pip install"):
        build.build(ROOT)


def test_wrong_links_are_named(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">x</a><a href="#here">y</a><a href="c.html">z</a>'
        '<a href="https://example.org">w</a><script src="https://example.org/x.js"></script>')
    (tmp_path / "b.html").write_text("<p>")
    (tmp_path / "x.css").write_text("@font-face { src: url('//example.org/f.woff') } a { background: url(data:x) }")
    assert links.problems(tmp_path) == [
        "a.html loads https://example.org/x.js", "a.html links to b.html#there, and that page has no such place",
        "a.html links to c.html, which is not there", "x.css loads //example.org/f.woff"]
