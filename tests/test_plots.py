"""Figures: style, what is written beside them, equal bytes, refusals; values for the paper."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from cmf import plots


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Figures of this test go here, as the runner would have it."""
    monkeypatch.setenv("CMF_FIGURES", str(tmp_path))
    monkeypatch.setenv("CMF_NOTEBOOK", "07_test")
    plt.switch_backend("agg")
    yield tmp_path
    plt.close("all")


def line(**more):
    fig, ax = plots.figure(**more)
    ax.plot([0, 1, 2], [0, 1 / 3, 4], label="square")
    ax.set(xlabel="time (s)", ylabel="value")
    return fig


def test_four_files_with_their_origin(folder):
    path = plots.save(line(), "curve", claim="it rises", inputs={"set": "ab"})
    assert path == folder / "curve.pdf"
    assert sorted(p.name for p in folder.iterdir()) == ["curve.csv", "curve.json", "curve.pdf", "curve.png"]
    assert (folder / "curve.csv").read_text() == "panel,line,x,y\n0,square,0,0\n0,square,1,0.333333\n0,square,2,4\n"
    facts = json.loads((folder / "curve.json").read_text())
    assert facts["claim"] == "it rises" and facts["inputs"] == {"set": "ab"} and facts["simulated"] is True
    assert facts["run"]["notebook"] == "07_test" and "matplotlib" in facts["run"]["versions"]
    assert Image.open(folder / "curve.png").width == round(plots.COLUMN * 200)


def test_redrawing_gives_equal_bytes(folder, monkeypatch):
    before = {}
    for k in range(2):
        monkeypatch.setattr(plots, "_saved", set())
        plots.save(line(), "curve")
        after = {p.name: p.read_bytes() for p in folder.iterdir()}
        assert k == 0 or after == before
        before = after


def test_several_tables_and_no_note(folder):
    fig = line()
    plots.save(fig, "two", {"left": pd.DataFrame({"a": [1]}), "right": pd.DataFrame({"b": [2.0]})}, simulated=False)
    assert (folder / "two.left.csv").read_text() == "a\n1\n" and (folder / "two.right.csv").exists()
    assert not fig.texts


def test_simulated_data_are_marked_once(folder, monkeypatch):
    fig = line()
    plots.save(fig, "one")
    plots.save(fig, "other")
    assert [text.get_text() for text in fig.texts] == ["simulated data"]


@pytest.mark.parametrize("name", ["Curve", "a/b", "a.pdf", "", "a b", "a-b"])
def test_names_are_plain(folder, name):
    with pytest.raises(ValueError, match="a figure's name has lower-case letters, digits and underscores only"):
        plots.save(line(), name)


def test_refusals(folder):
    plots.save(line(), "curve")
    with pytest.raises(ValueError, match="has saved a figure 'curve' already"):
        plots.save(line(), "curve")
    fig, ax = plots.figure()
    ax.imshow(np.eye(3))
    with pytest.raises(ValueError, match="'picture' has no lines to read numbers from; pass data="):
        plots.save(fig, "picture")
    with pytest.raises(ValueError, match="none.csv would be empty; data is a DataFrame with rows"):
        plots.save(line(), "none", pd.DataFrame({"a": []}))
    with pytest.raises(ValueError, match=r"width must be above 0 and at most 7.16 inches \(PAGE\), got 9"):
        plots.figure(width=9)
    with pytest.raises(ValueError, match="height must be above 0 inches, got 0"):
        plots.figure(height=0)


def test_outside_the_runner_nothing_goes_to_committed_figures(tmp_path, monkeypatch):
    monkeypatch.delenv("CMF_FIGURES", raising=False)
    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    for _ in range(2):  # stepping through a cell twice is allowed
        path = plots.save(line(), "curve")
    assert path == tmp_path / "build" / "interactive" / "figures" / "curve.pdf"
    assert os.listdir(tmp_path) == ["build"]


def test_values_are_merged_sorted_and_rounded(folder):
    assert plots.value("f1", np.float64(0.873456789), fmt=".2f") == "0.87"
    assert plots.value("count", 1234, "targets") == "1234 targets"
    assert plots.value("arm", "ours") == "ours"
    kept = json.loads((folder / "values" / "07_test.json").read_text())
    assert list(kept) == ["arm", "count", "f1"]
    assert kept["f1"] == {"value": 0.873457, "text": "0.87", "unit": None}
    with pytest.raises(ValueError, match="the value 'f1' is nan; the paper needs a finite number"):
        plots.value("f1", float("nan"))
    with pytest.raises(ValueError, match="a value's name has lower-case letters"):
        plots.value("F1", 1)


def test_axes_stand_in_the_same_place_however_often_they_are_laid_out(folder):
    fig, axes = plots.figure(2, 2, sharex=True)
    for ax in axes.flat:
        ax.plot([100, 1000], [0.1, 0.02], label="n")
        ax.set(title="t", xlabel="pairs", ylabel="error / nats")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center")
    aside = fig.add_axes((1 / 3, 1 / 3, 0.1, 0.1))
    aside.set_in_layout(False)
    seen = set()
    for k in range(12):
        fig.get_layout_engine().execute(fig)
        if k > 2:                                        # decorations have settled
            seen.add(tuple(edge for ax in axes.flat for edge in ax.get_position(original=True).extents))
    assert len(seen) == 1 and all(edge == round(edge, 5) for edge in seen.pop())
    assert all(ax.get_in_layout() for ax in axes.flat)
    assert aside.get_position().x0 == 1 / 3, "what is out of the layout stays"


def test_a_picture_has_no_frame(folder):
    fig, axes = plots.figure(1, 2)
    plots.picture(axes[0], np.zeros((4, 6)), "dark", cmap="gray", vmin=0, vmax=1)
    plots.picture(axes[1], np.zeros((4, 6, 3), np.uint8), "")
    assert [ax.get_title() for ax in axes] == ["dark", ""]
    assert axes[0].images[0].get_cmap().name == "gray" and axes[0].images[0].get_clim() == (0, 1)
    assert not any(len(ax.get_xticks()) or ax.spines["left"].get_visible() for ax in axes)


def test_arms_from_the_top_and_none_against_itself(folder):
    table = pd.DataFrame(dict(arm=["ours", "less", "other"], score=[0.9, 0.8, 0.5], low=[0.8, 0.7, 0.55],
                              high=[0.95, 0.9, 0.6], difference=[0.0, 0.1, 0.4], difference_low=[0.0, 0.05, 0.3],
                              difference_high=[0.0, 0.15, 0.5]))
    fig, axes = plots.figure(1, 2, sharey=True)
    plots.arms(axes, table, "score", "ours")
    scores, gaps = (ax.containers[0] for ax in axes)
    assert scores[0].get_xdata().tolist() == [0.5, 0.8, 0.9]
    assert [word.get_text() for word in axes[0].get_yticklabels()] == ["other", "less", "ours"]
    ends = [sorted(x for x, _ in path) for path in scores[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 0.6], [0.7, 0.9], [0.8, 0.95]])    # no bar to the left of 0.5
    np.testing.assert_array_equal(gaps[0].get_xdata().astype(float), [0.4, 0.1, np.nan])
    with pytest.raises(ValueError, match="no arm 'mine' in the table; there are ours, less, other"):
        plots.arms(axes, table, "score", "mine")
