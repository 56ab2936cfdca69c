"""A small project of its own in a temporary folder: two notebooks, three modules, the real runner."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE = '''# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
# ---

# %% [markdown]
# # One

# %% tags=["parameters"]
power = 2        # exponent
arm = "full"     # one of: full, bare
fraction = 0.5   # share, 0 to 1
name = None      # label

# %%
# compute
from cmf import plots, runs, toy_one
import time
for _ in runs.progress(range(3), "counting"):
    time.sleep(0.05)
table = toy_one.table(power)
assert table.y.iloc[-1] == 3**power

# %%
fig, ax = plots.figure()
ax.plot(table.x, table.y)
plots.save(fig, "first", table)
plots.value("last", float(table.y.iloc[-1]));
'''
TWO = '''# %% [markdown]
# # Two

# %% tags=["parameters"]
power = 1        # exponent
INPUTS = ["figures/demo/first.csv", "data/*.txt"]

# %%
# read the other's table
from cmf import plots, paths, toy_two
table = toy_two.read(paths.root() / "figures/demo/first.csv")

# %%
fig, ax = plots.figure()
ax.plot(table.x, table.y)
plots.save(fig, "second");
'''


def make(folder: Path) -> Path:
    """The project, in `folder`."""
    (folder / "cmf").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "pyproject.toml").write_text("")
    for name in ("__init__", "paths", "sources", "cache", "catalogue", "runs", "plots"):
        shutil.copy(ROOT / "cmf" / f"{name}.py", folder / "cmf")
    shutil.copytree(ROOT / "cmf" / "book", folder / "cmf" / "book", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cmf" / "base.py").write_text('"""Base."""\n\nimport pandas as pd\n\n\ndef frame(**c):\n'
                                            '    """Frame."""\n    return pd.DataFrame(c)\n')
    (folder / "cmf" / "toy_one.py").write_text(
        "from cmf.base import frame\n\n\ndef table(power):\n"
        "    return frame(x=[1, 2, 3], y=[k**power for k in (1, 2, 3)])\n")
    (folder / "cmf" / "toy_two.py").write_text(
        "import pandas as pd\n\n\ndef read(path):\n    return pd.read_csv(path)\n")
    (folder / "notebooks" / "01_one.py").write_text(ONE)
    (folder / "notebooks" / "02_two.py").write_text(TWO)
    return folder


def command(root: Path, *words: str) -> list[str]:
    """The runner's command line."""
    return [sys.executable, "-m", "cmf.book", *words]


def environment(**more: str) -> dict[str, str]:
    """The present environment without this project's variables."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("CMF_")}, **more}


def book(root: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    """Run the runner in the project and wait for it."""
    return subprocess.run(command(root, *words), cwd=root, env=environment(**more), capture_output=True, text=True,
                          timeout=120)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
