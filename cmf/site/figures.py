"""The table of figures: every committed figure with its picture, claim, notebook, tables and commit."""

import json
import re
from pathlib import Path

from PIL import Image

from cmf.site.reference import escaped, inline

THUMB = 480                            # pixels, width of a small picture
PROFILES = {"demo": "Generated data", "real": "Data of others"}
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| `\d\d_\w+` \|", re.MULTILINE)


def records(root: Path, profile: str) -> list[dict]:
    """What figures/<profile>/*.json tell, sorted by notebook and name, each with its `files` beside it.

    Raises:
        FileNotFoundError: a record without its PNG.
        ValueError: a record that does not name the notebook and the commit.
    """
    found = []
    for path in sorted((root / "figures" / profile).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not {"notebook", "commit"} <= set(record.get("run", ())):
            raise ValueError(f"{path} names no notebook or no commit; draw the figure again: make {path.stem}")
        if not path.with_suffix(".png").is_file():
            raise FileNotFoundError(f"{path.with_suffix('.png')} is not there; draw it again: make {path.stem}")
        files = sorted(p for p in path.parent.glob(f"{path.stem}.*") if p.suffix in (".pdf", ".png", ".csv", ".json"))
        found.append(dict(record, name=path.stem, files=files))
    return sorted(found, key=lambda record: (record["run"]["notebook"], record["name"]))


def write(root: Path, folder: Path) -> None:
    """figures.rst into `folder`, with small pictures in `folder`/thumbs and all files in `folder`/files/figures."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    told = dict(_ROW.findall((root / "README.md").read_text(encoding="utf-8")))
    lines = ["Figures", "=======", "", "Every figure of the repository. The picture opens it at full size; a claim was "
             "asserted by the notebook before it drew; the CSV files hold the numbers that are drawn, the JSON file "
             "parameters, seeds, versions and hashes.", ""]
    for profile, title in PROFILES.items():
        previous = None
        found = records(root, profile)
        lines += [title, "-" * len(title), ""] if found else []
        for record in found:
            notebook = record["run"]["notebook"]
            if notebook != previous:
                lines += ["", notebook, "~" * len(notebook), "", f"Drawn by :doc:`notebooks/{notebook}`.", "",
                          ".. list-table::", "   :class: figures", "   :widths: 45 55", ""]
                previous = notebook
            lines += _row(record, told.get(record["name"], ""), profile, folder)
    (folder / "figures.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(record: dict, text: str, profile: str, folder: Path) -> list[str]:
    name, run = record["name"], record["run"]
    small = folder / "thumbs" / profile / f"{name}.png"
    small.parent.mkdir(parents=True, exist_ok=True)
    links = []
    for path in record["files"]:
        copy = folder / "files" / "figures" / profile / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        label = path.name.removeprefix(f"{name}.")                              # csv, or gains.csv
        links.append(f"`{label.upper() if '.' not in label else label} <figures/{profile}/{path.name}>`__")
    with Image.open(folder / "files" / "figures" / profile / f"{name}.png") as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((THUMB, 2 * THUMB))
        picture.save(small)
    commit = f"commit ``{run['commit'][:10]}``" + (" with changes" if run.get("dirty") else "")
    command = f"``make {name}``" if profile == "demo" else f"``make {name} PROFILE={profile}``"
    body = [f"**{escaped(name)}**" + (rf"\ : {escaped(text)}." if text else ""), "",
            *([f"*{escaped(record['claim'])}*", ""] if record.get("claim") else []),
            f"{command}, {commit}", "", ", ".join(links)]
    return [f"   * - .. image:: thumbs/{profile}/{name}.png", f"          :target: figures/{profile}/{name}.png",
            f"          :alt: {inline(record.get('claim') or text or name)[2:]}", "",
            f"     - .. _figure-{profile}-{name}:", "", *(f"       {line}" if line else "" for line in body), ""]
