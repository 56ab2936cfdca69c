"""The paper as a PDF, by the typst wheel: `python -m cmf.paper`.

The text names the results it shows by val("notebook", "value"), fig("figure") and rows("table"), each with an
optional profile; they are looked for in figures/<profile>/ before anything is typeset.
"""

import json
import os
import re
import sys
from pathlib import Path

from cmf import paths

_NAME = r'\s*"([a-z0-9_/]+)"'
_CALL = re.compile(rf'#?\b(val|fig|rows)\({_NAME}(?:\s*,{_NAME})?(?:\s*,\s*profile:{_NAME})?')


def needs(root: Path | str) -> list[tuple[str, str | None]]:
    """What main.typ and its parts show: (file below `root`, value in it or None), in the order of first use.

    Raises:
        FileNotFoundError: no paper/main.typ below `root`, or a part that it includes is missing.
    """
    folder = Path(root) / "paper"
    if not (folder / "main.typ").is_file():
        raise FileNotFoundError(f"no paper/main.typ below {root}; give the folder of the project")
    found = {}
    texts = [(folder / "main.typ").read_text(encoding="utf-8")]
    texts += [(folder / name).read_text(encoding="utf-8") for name in re.findall(r'#include "([^"]+)"', texts[0])]
    for text in texts:
        for kind, name, value, profile in _CALL.findall(text):
            base = f"figures/{profile or 'demo'}"
            if kind == "val":
                found[f"{base}/values/{name}.json", value] = None
            else:
                found[f"{base}/{name}.{'pdf' if kind == 'fig' else 'csv'}", None] = None
                found[f"{base}/{name}.json", None] = None
    return list(found)


def missing(root: Path | str) -> list[str]:
    """One phrase for each file or value that the text shows and that is not there."""
    lacking, root = {}, Path(root)
    for file, value in needs(root):
        if not (root / file).is_file():
            lacking[file] = None
        elif value is not None and value not in json.loads((root / file).read_text(encoding="utf-8")):
            lacking[f'the value "{value}" in {file}'] = None
    return list(lacking)


def build(root: Path | str | None = None, out: str = "paper/main.pdf") -> Path:
    """Typeset paper/main.typ.

    Args:
        root: folder of the project; default the present one.
        out: the PDF, below `root`; it is replaced only when the whole paper was typeset.

    Returns:
        The path of the PDF. Equal sources and figures give equal bytes.

    Raises:
        FileNotFoundError: figures, tables or values are missing; all are named.
        ModuleNotFoundError: typst is not installed.
        RuntimeError: typst cannot typeset the text; its message says where.
    """
    root = Path(root or paths.root()).resolve()
    lacking = missing(root)
    if lacking:
        raise FileNotFoundError(f"the paper shows {len(lacking)} results that are not there:\n  "
                                + "\n  ".join(lacking) + "\nrun `make figures`, then `make paper` again")
    try:
        import typst
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the paper is typeset by typst, which is not installed; run `make setup` or "
                                  "`pip install -e .[paper]`") from error
    try:
        pdf = typst.compile(str(root / "paper" / "main.typ"), root=str(root), ignore_system_fonts=True)
    except typst.TypstError as error:
        raise RuntimeError(f"typst cannot typeset the paper: {error.diagnostic or error}") from error
    target = root / out
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(pdf)
    os.replace(part, target)
    return target


if __name__ == "__main__":
    try:
        if "--needs" in sys.argv[1:]:
            print("\n".join(f"{file} {value or ''}".rstrip() for file, value in needs(paths.root())))
        else:
            print(build())
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError) as problem:
        sys.exit(str(problem))
