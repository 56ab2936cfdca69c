"""Comparing figures, tables and values: two builds byte for byte, and a build with what is committed.

Files are dicts {path below the project: content as bytes}. Timings are left to structure, for they belong to the
machine; a notebook declares them in a literal beside its INPUTS: TIMINGS = ["cost", "values.seconds"].
"""

import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from cmf import runs

TOLERANCE = 1e-3  # of the largest magnitude in a column: committed numbers beside those of another machine


@dataclass(frozen=True)
class Line:
    """One line of the page.

    check: what was looked at. state: passed, failed or skipped. found: counts, and what was compared with what.
    wrong: a phrase for each thing that is not as it should be.
    """

    check: str
    state: str
    found: str
    wrong: tuple[str, ...] = ()


def verdict(check: str, found: str, wrong: Collection[str]) -> Line:
    """A line that has failed when anything is wrong, and has passed otherwise."""
    return Line(check, "failed" if wrong else "passed", found, tuple(wrong))


def twice(first: Mapping[str, bytes], second: Mapping[str, bytes], timings: Collection[str] = ()) -> Line:
    """Two builds of one commit on one machine: every table and picture byte for byte.

    Of the JSON beside a figure seconds may differ; of timings only the numbers.

    Args:
        first, second: what each build drew.
        timings: names of figures, and values as "notebook.value".
    """
    wrong = [f"{name} was drawn by one build only" for name in sorted(first.keys() ^ second.keys())]
    counts, total, apart = {"csv": 0, "png": 0, "pdf": 0, "json": 0}, 0, 0
    for name in sorted(first.keys() & second.keys()):
        one, other, kind = first[name], second[name], name.rpartition(".")[2]
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "json" or timed(name, timings):
            apart += timed(name, timings)
            wrong += _structure(name, one, other, timings)
        elif one != other:
            total += differing(one, other)
            wrong.append(f"{name}: {differing(one, other)} of {max(len(one), len(other))} bytes differ")
    if not first and not second:
        wrong.append("nothing was drawn")
    drawn = ", ".join(f"{n} {kind.upper()}" for kind, n in counts.items())
    return verdict("two builds", f"{drawn}; {total} differing bytes; {apart} files of timings by structure", wrong)


def committed(built: Mapping[str, bytes], kept: Mapping[str, bytes], timings: Collection[str] = ()) -> list[Line]:
    """A build beside the committed figures of the same notebooks: tables and values within TOLERANCE, then pictures.

    Pictures are compared, byte for byte, where all tables are equal to the last byte. Where they are not, the build
    was made on another machine or with other versions, and its last digits move lines and pixels.
    """
    tables = [name for name in sorted(built) if name.endswith(".csv") or "/values/" in name]
    pictures = [name for name in sorted(built) if name.endswith((".png", ".pdf")) and not timed(name, timings)]
    wrong = [f"{name} is not committed" for name in sorted(built.keys() - kept.keys())]
    equal = 0
    for name in tables:
        if name in kept:
            judge = _table if name.endswith(".csv") else _values
            wrong += judge(name, built[name], kept[name], timings)
            equal += timed(name, timings) or built[name] == kept[name] or _same_values(name, built, kept, timings)
    lines = [verdict("committed numbers", f"{len(tables)} tables and files of values, {equal} equal to the last digit, "
                     f"the others within {TOLERANCE:g} of a column's largest", wrong)]
    if equal < len(tables):
        return [*lines, Line("committed pictures", "skipped", f"{len(tables) - equal} tables have other last digits "
                             "here, so that pictures are drawn from other numbers")]
    wrong = [f"{name}: {differing(built[name], kept[name])} of {len(kept[name])} bytes differ from the committed"
             for name in pictures if name in kept and built[name] != kept[name]]
    return [*lines, verdict("committed pictures", f"{len(pictures)} PNG and PDF, byte for byte", wrong)]


def timed(name: str, timings: Collection[str]) -> bool:
    """Is a file, figures/<profile>/<figure>[.key].<kind>, one of a figure of timings?

    Example:
        >>> timed("figures/demo/cost.csv", ["cost"]), timed("figures/demo/costs.csv", ["cost"])
        (True, False)
    """
    return PurePosixPath(name).name.partition(".")[0] in timings


def differing(one: bytes, other: bytes) -> int:
    """Bytes that differ, those that only one of the two has included."""
    n = min(len(one), len(other))
    a, b = (np.frombuffer(content[:n], np.uint8) for content in (one, other))
    return int((a != b).sum()) + abs(len(one) - len(other))


def _structure(name: str, one: bytes, other: bytes, timings: Collection[str]) -> list[str]:
    """What differs beside seconds and the numbers of timings."""
    if name.endswith(".csv"):
        return _shape(name, _frame(one), _frame(other))
    if not name.endswith(".json"):
        return []
    if "/values/" in name:
        return _pairs(name, one, other, timings, lambda a, b: a == b)
    return [] if runs.same_facts(json.loads(one), json.loads(other)) else [f"{name}: other facts than seconds differ"]


def _table(name: str, one: bytes, other: bytes, timings: Collection[str]) -> list[str]:
    """Differences of two tables beyond TOLERANCE."""
    a, b = _frame(one), _frame(other)
    wrong = _shape(name, a, b)
    if wrong or timed(name, timings):
        return wrong
    for column in a.columns:
        x, y = a[column], b[column]
        if not (pd.api.types.is_numeric_dtype(x) and pd.api.types.is_numeric_dtype(y)):
            wrong += [f"{name}: words of column {column} differ"] * (not x.astype(str).equals(y.astype(str)))
            continue
        x, y = x.to_numpy(float), y.to_numpy(float)
        largest = np.abs(y[np.isfinite(y)]).max(initial=0)
        if not np.allclose(x, y, rtol=0, atol=TOLERANCE * largest + 1e-9, equal_nan=True):
            wrong.append(f"{name}: column {column} differs by up to {np.nanmax(np.abs(x - y)):.3g}, "
                         f"its largest number is {largest:.3g}")
    return wrong


def _values(name: str, one: bytes, other: bytes, timings: Collection[str]) -> list[str]:
    """Differences of two files of values beyond TOLERANCE."""
    def near(a: Mapping, b: Mapping) -> bool:
        x, y = a["value"], b["value"]
        if isinstance(x, str) or isinstance(y, str):
            return x == y
        return a["unit"] == b["unit"] and abs(x - y) <= TOLERANCE * abs(y) + 1e-9

    return _pairs(name, one, other, timings, near)


def _same_values(name: str, built: Mapping[str, bytes], kept: Mapping[str, bytes], timings: Collection[str]) -> bool:
    return "/values/" in name and not _pairs(name, built[name], kept[name], timings, lambda a, b: a == b)


def _pairs(name: str, one: bytes, other: bytes, timings: Collection[str],
           equal: Callable[[Mapping, Mapping], bool]) -> list[str]:
    a, b = json.loads(one), json.loads(other)
    wrong = [f"{name}: the value {key} is in one of them only" for key in sorted(a.keys() ^ b.keys())]
    book = PurePosixPath(name).stem
    return wrong + [f"{name}: {key} is {a[key]['text']} and {b[key]['text']}" for key in sorted(a.keys() & b.keys())
                    if f"{book}.{key}" not in timings and not equal(a[key], b[key])]


def _shape(name: str, a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    if list(a.columns) == list(b.columns) and len(a) == len(b):
        return []
    return [f"{name}: {len(a)} rows of {', '.join(a.columns)} beside {len(b)} rows of {', '.join(b.columns)}"]


def _frame(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))
