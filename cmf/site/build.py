"""All pages together: build/site/index.html, which needs no network and no server.

Pages written by hand lie in paper/site; the others are made for each build and not kept.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

from cmf import paths
from cmf.site import figures, links, reference

NEEDED = ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline")
MATHS = "tex-svg-full.js"          # MathJax in one file: no fonts, which browsers refuse to pages without a server


def sources(root: Path, folder: Path) -> Path:
    """All pages below `folder`, which is written anew: those of paper/site, notebooks, figures, reference."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "paper" / "site", folder)
    (folder / "notebooks").mkdir()
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        drawn = [record["name"] for record in figures.records(root, "demo") if record["run"]["notebook"] == path.stem]
        shown = ", ".join(f"{{ref}}`{name} <figure-demo-{name}>`" for name in drawn)
        text = f"{{download}}`{path.name}`; figures: {shown}"
        book["cells"].insert(1, dict(cell_type="markdown", metadata={}, id="files", source=text))
        (folder / "notebooks" / path.name).write_text(json.dumps(book), encoding="utf-8")
    figures.write(root, folder)
    reference.write(root, folder / "reference")
    return folder


def build(root: Path | str | None = None, out: str = "build/site") -> Path:
    """Build the site and return its first page.

    Args:
        root: folder of the project; default the present one.
        out: folder below `root`; it is replaced only by a site without a fault.

    Raises:
        ModuleNotFoundError: Sphinx or a part of it is not installed.
        FileNotFoundError, ValueError: as `cmf.site.figures.records`.
        RuntimeError: Sphinx had warnings, or links lead nowhere or out of the site; all are named.
    """
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise ModuleNotFoundError(f"the site needs {', '.join(lacking)}; run `make setup` or `pip install -e .[site]`")
    from sphinx.cmd.build import build_main

    root = Path(root or paths.root()).resolve()
    target, work = root / out, root / f"{out}.part"
    shutil.rmtree(work, ignore_errors=True)
    source = sources(root, work / "source")
    maths = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / MATHS
    shutil.copy(maths, source / "_static" / MATHS)
    if build_main(["-W", "--keep-going", "-q", "-d", str(work / "doctrees"), str(source), str(work / "html")]):
        raise RuntimeError("Sphinx does not build the site without warnings; they are above")
    wrong = links.problems(work / "html")
    if wrong:
        raise RuntimeError(f"{len(wrong)} links of the site are wrong:\n  " + "\n  ".join(wrong))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(work / "html", target)
    shutil.rmtree(work)
    return target / "index.html"
