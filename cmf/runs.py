"""What a run did and rested on: seeds, progress, provenance, cached steps and committed results."""

import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from cmf import cache, paths, sources

PACKAGES = ("numpy", "scipy", "pandas", "matplotlib", "scikit-learn", "torch", "torchvision", "transformers")
_BEGAN = time.time()
_SEEDS: list[int] = []
_USED: dict[str, str] = {}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's old global generator and torch on every device.

    Args:
        seed: 0 <= seed < 2**32.

    Raises:
        ValueError: a seed outside that range.
    """
    import numpy
    import torch

    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    if seed not in _SEEDS:
        _SEEDS.append(seed)


def progress(iterable: Iterable, label: str, total: int | None = None) -> Iterable:
    """The items of `iterable`, with progress shown: a bar, or a line of the runner where it runs the notebook.

    Args:
        iterable: anything to loop over.
        label: a few words on what is being done.
        total: number of items where `iterable` has no length.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    place = os.environ.get("CMF_PROGRESS")
    if not place:
        from tqdm import tqdm

        yield from tqdm(iterable, desc=label, total=total)
        return
    written = 0.0
    try:
        for k, item in enumerate(iterable):
            if time.monotonic() - written > 0.5:
                written = time.monotonic()
                _say(place, f"{label} {k}/{total}" if total else f"{label} {k}")
            yield item
    finally:
        _say(place, "")


def used(name: str, sha256: str) -> None:
    """Note that this run used data or weights `name` with that hash; provenance lists it."""
    _USED[name] = sha256


def provenance(**more) -> dict:
    """How the present numbers came to be, as a JSON-able dict without host names or paths.

    Keys: notebook, profile, parameters and inputs (hashes of what the notebook declares; these four from the
    runner, None outside it), commit, dirty (are sources
    changed since), python, platform, device, threads, versions, seeds, used (hashes of data, weights and
    cached steps), seconds since the run began, and whatever is given as keyword. A figure that was drawn without the
    rest of its notebook has "alone": True.
    """
    if os.environ.get("CMF_ALONE"):
        more = {"alone": True, **more}
    commit, dirty = _commit(paths.root())
    return {
        "notebook": os.environ.get("CMF_NOTEBOOK"),
        "profile": os.environ.get("CMF_PROFILE"),
        "parameters": json.loads(os.environ.get("CMF_PARAMETERS", "null")),
        "inputs": json.loads(os.environ.get("CMF_INPUTS", "null")),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device(),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "versions": versions(),
        "seeds": list(_SEEDS),
        "used": dict(sorted(_USED.items())),
        "seconds": round(time.time() - float(os.environ.get("CMF_STARTED", _BEGAN)), 1),
        **more,
    }


def device() -> str:
    """Name of the accelerator that torch sees, else "cpu". torch is asked only when it is loaded."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that make numbers; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_result(name: str, frame, *, profile: str | None = None, **facts) -> Path:
    """Keep the table of a long computation: results/<name>.csv and .json (provenance) beside the figures.

    Args:
        name: lower-case letters, digits and underscores.
        frame: pandas DataFrame; floats are written with 6 significant digits, the index is not written.
        profile: folder below figures/; default CMF_PROFILE, else "demo".
        facts: JSON-able facts added to the provenance (parameters, seeds, hashes).

    Returns:
        The path of the CSV.

    Raises:
        ValueError: a name with other characters.
    """
    path = _result(name, profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".json"), json.dumps(provenance(**facts), indent=1, sort_keys=True) + "\n")
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path


def read_result(name: str, profile: str | None = None):
    """The table that `write_result` kept, as a DataFrame; its hash is noted in the provenance.

    Raises:
        FileNotFoundError: there is none.
    """
    import pandas

    path = _result(name, profile)
    if not path.is_file():
        raise FileNotFoundError(f"no result {name!r} at {path.relative_to(paths.root())}; "
                                "it is committed with the project and made by `make results`")
    used(f"result {name}", sources.sha256(path))
    return pandas.read_csv(path)


def cached(name: str, function: Callable[[], Mapping], /, *, inputs: Mapping | None = None,
           parameters: Mapping | None = None, code: Sequence[ModuleType | Callable] = ()) -> dict:
    """`function()`, computed once for the same inputs, parameters and code, and kept on disk.

    The key is a sha256 over `inputs`, `parameters`, the text of `function`, the syntax trees of the modules
    `code` with all of this package that they import, and the versions of the numerical packages. What
    `function` closes over must therefore be named in `inputs` or `parameters`. Two processes that ask for
    the same at once compute it once. A stored value that no longer matches its hash is computed again.

    Args:
        name: what is computed, in lower-case letters, digits and underscores; a folder of the cache.
        function: called without arguments; returns a dict of NumPy arrays, torch tensors (CPU), DataFrames
            with a plain index, and JSON-able values.
        inputs: data: arrays, tensors, DataFrames, strings, numbers, None, or a Path (its content counts), or
            dicts, lists and tuples of these.
        parameters: settings, of the same kinds.
        code: modules or functions whose source matters.

    Returns:
        The dict as read back from disk, so that the first call and later ones give the same.

    Raises:
        TypeError: an input or a value of a kind that cannot be hashed or kept.
        ValueError: a name with other characters, or a DataFrame with an index of its own.

    Example:
        >>> import numpy
        >>> features = cached("squares", lambda: {"x": numpy.arange(3) ** 2}, parameters={"n": 3})
        >>> features["x"].tolist()
        [0, 1, 4]
    """
    folder = _place(name, function, inputs, parameters, code)
    used(f"cached {name}", folder.name)
    return cache.keep(folder, function)


def is_cached(name: str, function: Callable[[], Mapping], /, *, inputs: Mapping | None = None,
              parameters: Mapping | None = None, code: Sequence[ModuleType | Callable] = ()) -> bool:
    """Does the cache hold what `cached` gives for the same arguments? Nothing is computed or read.

    True for a damaged value too, which `cached` computes again.

    Raises:
        TypeError, ValueError: an input that cannot be hashed, or a name with other characters, as `cached`.
    """
    return _place(name, function, inputs, parameters, code).is_dir()


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, then rename; a file that already holds `text` is left alone."""
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


def same_facts(one: Mapping, other: Mapping) -> bool:
    """Do two records with provenance under "run" differ at most in seconds, commit and dirty?"""
    def steady(record):
        run = record.get("run") or {}
        return {**record, "run": {k: v for k, v in run.items() if k not in ("seconds", "commit", "dirty")}}

    return steady(one) == steady(other)


def _place(name: str, function: Callable, inputs: Mapping | None, parameters: Mapping | None,
           code: Sequence[ModuleType | Callable]) -> Path:
    """The folder of a cached value, named by its key."""
    _check_name(name)
    key = cache.digest({"inputs": dict(inputs or {}), "parameters": dict(parameters or {}), "versions": versions(),
                        "code": sorted({cache.source_hash(item) for item in (function, *code)})})
    return paths.cache() / name / key


def _result(name: str, profile: str | None) -> Path:
    _check_name(name)
    folder = profile or os.environ.get("CMF_PROFILE") or "demo"
    return paths.root() / "figures" / folder / "results" / f"{name}.csv"


def _say(place: str, text: str) -> None:
    with open(place, "w", encoding="utf-8") as file:
        file.write(text)


@lru_cache(maxsize=1)
def _commit(root: Path) -> tuple[str | None, bool | None]:
    def git(*words):
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return commit, bool(git("status", "--porcelain", "--untracked-files=no", "--", "cmf", "notebooks/*.py"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ValueError(f"a name has lower-case letters, digits and underscores only, got {name!r}")
