"""Content-addressed storage of computed values: hashes of data and code, and folders that check themselves.

`cmf.runs.cached` is the door to it.
"""

import ast
import contextlib
import hashlib
import inspect
import json
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from cmf import sources


def digest(value) -> str:
    """sha256 of a value's content; the kinds are those of `cmf.runs.cached`. 1 and 1.0 and True differ.

    Raises:
        TypeError: another kind.
    """
    total = hashlib.sha256()
    for piece in _pieces(value):
        total.update(len(piece).to_bytes(8, "little"))
        total.update(piece)
    return total.hexdigest()


def source_hash(item: ModuleType | Callable) -> str:
    """Hash of the code of a module or function with all of its package that it imports; of a function
    written in a notebook, of its own text.

    Raises:
        TypeError: something without Python source.
    """
    module = item if isinstance(item, ModuleType) else sys.modules.get(getattr(item, "__module__", ""))
    path = getattr(module, "__file__", None)
    own = ""
    if not isinstance(item, ModuleType):
        try:
            own = textwrap.dedent(inspect.getsource(item))
        except (OSError, TypeError) as error:
            raise TypeError(f"cannot read the source of {item!r} ({error}); give a function or a module") from error
        with contextlib.suppress(SyntaxError):
            own = ast.dump(ast.parse(own))
    if path is None or getattr(module, "__name__", "") == "__main__":
        return digest(own)
    package = module.__name__.split(".")[0]
    base = Path(path).resolve().parents[module.__name__.count(".") + Path(path).name.startswith("__init__")]
    files = {Path(path).resolve(), *sources.reach(path, base, package)}
    return digest([own, *sorted(f"{f.relative_to(base)} {sources.code_hash(f)}" for f in files)])


def keep(folder: Path, function: Callable[[], Mapping]) -> dict:
    """What `folder` holds; when it is absent or damaged, `function()` is called and stored there first.

    Args:
        folder: named by the content of everything the value depends on; written aside, then renamed.
        function: returns a dict of arrays, CPU tensors, DataFrames and JSON-able values.

    Raises:
        TypeError, ValueError: values that cannot be kept, as in `cmf.runs.cached`.
    """
    with _locked(folder.with_suffix(".lock")):
        if folder.is_dir():
            try:
                return _load(folder)
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"the cached {folder.parent.name} {folder.name[:12]} is damaged ({error}); "
                              "computing it again", RuntimeWarning, stacklevel=3)
                shutil.rmtree(folder)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _store(part, function())
        os.replace(part, folder)
        return _load(folder)


def _pieces(value) -> Iterator[bytes | memoryview]:
    """The content of a value as bytes, kinds and lengths included, so that different values differ."""
    kind = type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        yield f"{kind} {value!r}".encode()
    elif isinstance(value, Path):
        files = sorted(p for p in value.rglob("*") if p.is_file()) if value.is_dir() else [value]
        for file in files:
            yield f"file {file.relative_to(value) if file != value else ''} {sources.sha256(file)}".encode()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for name in sorted(value, key=str):
            yield from _pieces(name)
            yield from _pieces(value[name])
    elif isinstance(value, (list, tuple)):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif kind == "DataFrame":
        yield f"frame {len(value)}".encode()
        for column in value.columns:
            yield from _pieces(str(column))
            yield from _pieces(_plain(value[column]))
    elif kind in ("Tensor", "Parameter"):
        import torch

        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif hasattr(value, "dtype") and hasattr(value, "tobytes") and value.dtype != object:
        yield f"array {value.dtype.str} {value.shape}".encode()
        yield value.tobytes()
    else:
        raise TypeError(f"cannot hash a {kind}; give arrays, tensors, DataFrames, paths, strings, numbers, or "
                        "dicts and lists of these")


def _plain(column):
    """A DataFrame's column as an array without Python objects."""
    array = column.to_numpy()
    return array.astype(str) if array.dtype == object else array


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock when its holder dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _store(folder: Path, value: Mapping) -> None:
    import numpy

    if not isinstance(value, Mapping):
        raise TypeError(f"a cached function returns a dict, got {type(value).__name__}")
    arrays, kinds, plain = {}, {}, {}
    for name, item in value.items():
        kind = type(item).__name__
        if kind == "DataFrame":
            if list(item.index) != list(range(len(item))):
                raise ValueError(f"the DataFrame {name!r} has an index of its own; call reset_index() first")
            kinds[name] = [str(column) for column in item.columns]
            arrays |= {f"{name}/{k}": _plain(item[column]) for k, column in enumerate(item.columns)}
        elif kind in ("Tensor", "Parameter"):
            kinds[name], arrays[name] = "tensor", item.detach().cpu().numpy()
        elif isinstance(item, numpy.ndarray):
            if item.dtype == object:
                raise TypeError(f"the array {name!r} holds Python objects; keep numbers or strings")
            kinds[name], arrays[name] = "array", item
        else:
            kinds[name], plain[name] = "json", item.item() if isinstance(item, numpy.generic) else item
    try:
        text = json.dumps({"kinds": kinds, "plain": plain}, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"cannot keep a value of {list(plain)}: {error}") from error
    numpy.savez(folder / "arrays.npz", **{f"a{k}": array for k, array in enumerate(arrays.values())})
    record = {"key": folder.stem, "content": text, "names": list(arrays),
              "arrays": sources.sha256(folder / "arrays.npz"), "text": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "value.json").write_text(json.dumps(record))


def _load(folder: Path) -> dict:
    import numpy

    record = json.loads((folder / "value.json").read_text())
    for what, found in (("arrays", sources.sha256(folder / "arrays.npz")),
                        ("text", hashlib.sha256(record["content"].encode()).hexdigest())):
        if found != record[what]:
            raise ValueError(f"its {what} no longer match their hash")
    if record.get("key", folder.name) != folder.name:
        raise ValueError(f"it is the value of another key, {record['key'][:12]}")
    content = json.loads(record["content"])
    with numpy.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = {name: stored[f"a{k}"] for k, name in enumerate(record["names"])}
    value = {}
    for name, kind in content["kinds"].items():
        if isinstance(kind, list):
            import pandas

            value[name] = pandas.DataFrame({column: arrays[f"{name}/{k}"] for k, column in enumerate(kind)})
        elif kind == "tensor":
            import torch

            value[name] = torch.from_numpy(arrays[name])
        else:
            value[name] = arrays[name] if kind == "array" else content["plain"][name]
    return value
