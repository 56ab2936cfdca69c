"""Cost of the selective scan: the table's arithmetic, its alternatives, and the measurement itself as a benchmark."""

import importlib.util

import pandas as pd
import pytest
import torch

from cmf.blocks.scan import selective_scan
from cmf.studies import cost_scan

NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None,
                           reason="Numba is not installed: the compiled scan is not measured")


@pytest.mark.parametrize("length", [2, 3, 7, 32, 45])
@pytest.mark.parametrize("name", ["blelloch", "associative"])
def test_alternatives_are_the_scan(name, length):
    inputs = [x.double().requires_grad_() for x in cost_scan.given(length, 3, 2)]
    got, expected = cost_scan.SCANS[name](*inputs), selective_scan(*inputs, backend="reference")
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (got, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_table_has_a_row_for_each_size_scan_and_pass():
    names = ("chunked", "reference", "blelloch")
    before = torch.get_num_threads()
    table = cost_scan.table(((16, 2, 1), (64, 2, 1)), repeats=1, scans=names, most=100)
    assert torch.get_num_threads() == before
    assert tuple(table.columns) == cost_scan.COLUMNS
    assert len(table) == 2 * 3 + 2 * 1  # of the longer one those only that do not hold all states
    assert set(table[table["length"] == 64]["scan"]) == {"chunked"}
    assert (table["seconds"] > 0).all() and (table["floor"] > 0).all() and (table["threads"] == 1).all()
    assert len(cost_scan.growth(table)) == 2


def test_floor_is_bytes_or_exponentials():
    assert cost_scan.floor(10, 3, 2, 1.0, 1e9) == {"forward": 4 * 130, "forward+backward": 4 * 360}
    assert cost_scan.floor(10, 3, 2, 1e9, 1.0) == {"forward": 60, "forward+backward": 120}


def test_growth_and_ratios_are_of_the_same_scan():
    row = lambda length, scan, seconds: (length, 2, 1, 1, scan, "forward", seconds, 2 * seconds, 0.5, 0.0)
    table = pd.DataFrame([row(10, "numba", 1.0), row(40, "numba", 4.4), row(10, "chunked", 6.0),
                          row(10, "blelloch", 5.0), row(40, "chunked", 30.0)], columns=cost_scan.COLUMNS)
    growth = cost_scan.growth(table)
    assert growth.set_index("scan")["growth"].to_dict() == pytest.approx({"numba": 4.4, "chunked": 5.0})
    assert cost_scan.beside(table, "cpu")["floor"].tolist() == pytest.approx([4.0, 17.6])
    beside = cost_scan.beside(table).set_index("length")
    assert beside["plain"].to_dict() == pytest.approx({10: 0.2, 40: 4.4 / 30})
    assert beside["floor"].to_dict() == pytest.approx({10: 2.0, 40: 8.8})


def test_scans_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"scans \['cuda'\] with 7 repeats; give some of numba, chunked, reference"):
        cost_scan.table(scans=("cuda",))
    with pytest.raises(ValueError, match="with 0 repeats.*1 repeat or more"):
        cost_scan.table(repeats=0)


@pytest.mark.benchmarks
@NUMBA
@pytest.mark.parametrize("threads", [1, 2])
def test_scan_beside_plain_torch_and_the_floor(threads):
    table = cost_scan.table(threads=threads)
    clock = "cpu" if threads == 1 else "seconds"  # one thread's own time, which other work lengthens less
    wide = table.assign(ms=1e3 * table[clock]).pivot(index=["length", "channels", "states", "pass"],
                                                     columns="scan", values="ms")
    print(f"\nmilliseconds ({clock}), {threads} threads, load {table['load'].min():.1f} to {table['load'].max():.1f}",
          wide.round(2).to_string(), sep="\n")
    beside, growth = cost_scan.beside(table, clock), cost_scan.growth(table, clock)
    growth = growth[growth["scan"] == "numba"]
    print(beside.round(4).to_string(), growth.round(2).to_string(), sep="\n")
    stated = beside[(beside["length"] == 4800) & (beside["states"] == 16)].set_index("pass")
    assert stated.loc["forward", "plain"] <= 1 / 5 and stated.loc["forward+backward", "plain"] <= 1 / 4
    if threads == 1:  # the floor is of processor seconds, and so is this table's clock
        assert stated.loc["forward", "floor"] <= 3
    long = growth[(growth["length"] == 4800) & (growth["states"] == 16)]
    assert (long["growth"] <= 4.6).all()
