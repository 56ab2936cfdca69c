"""What is read off the inside of a CMFS: shares that add up, known spectra, and gates of one picture."""

import numpy as np
import pytest
import torch

from cmf.methods.cmfs import CMFS, small
from cmf.studies import inspected

CLASSES = ("background", "person", "car")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CMFS(small(3, 6), torch.randn(2, 6)).eval()


def columns(n=2, size=(48, 64)):
    draw = torch.Generator().manual_seed(0)
    byte = lambda *shape: torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    label = torch.zeros(n, *size, dtype=torch.uint8)
    label[:, 10:30, 10:40] = 1
    return dict(visible=byte(n, 3, *size), infrared=byte(n, 1, *size), label=label)


def test_maps_come_in_pairs_and_their_shares_add_up(network):
    found = inspected.maps(network, columns())
    assert [one[:3] for one in found[:4]] == [(1, "visible", "before"), (1, "visible", "after"),
                                              (1, "infrared", "before"), (1, "infrared", "after")]
    assert len(found) == 8 and found[0][3].shape == found[1][3].shape == (2, 32, 12, 16)
    assert not torch.equal(found[0][3], found[1][3])
    share = inspected.energy(found).groupby(["stage", "stream", "when"]).share.sum()
    np.testing.assert_allclose(share, 1, rtol=1e-5)
    assert not network.collaboration[0][0]._forward_hooks, "hooks stay behind"


def test_energy_and_spectrum_of_known_maps():
    y = torch.arange(32.0)
    fine = torch.cos(torch.pi * y)[None, None, :, None].expand(1, 3, 32, 32)               # 1/2 cycle a pixel
    wide = torch.cos(2 * torch.pi * y / 32)[None, None, :, None].expand(1, 3, 32, 32) + 5  # 1/32, and a mean
    found = [(1, "visible", "before", fine), (1, "visible", "after", wide)]
    share = inspected.energy(found).set_index(["when", "band"]).share
    assert share["before", "fine detail"] == pytest.approx(1) and share["after", "average"] > 0.9
    rows = inspected.spectrum(found)
    top = rows.loc[rows.groupby("when").energy.idxmax()].set_index("when").frequency
    assert top["before"] == pytest.approx(11.5 / 24) and top["after"] == pytest.approx(0.5 / 24)


def test_each_class_goes_to_experts_as_a_whole(network):
    found = inspected.experts(network, columns(), CLASSES)
    assert set(found.label) == {"all", "background", "person"}, "a class that is not there has no row"
    np.testing.assert_allclose(found.groupby(["stage", "block", "label"]).share.sum(), 1, rtol=1e-6)
    assert set(found["rank"]) == {2, 4, 8} and set(found.stage) == {1, 2, 3, 4}


def test_gates_are_those_of_one_picture(network):
    found = inspected.gates(network, columns(1))
    assert [one["region"].shape for one in found] == [(5, 5), (5, 5), (2, 2), (1, 1)]
    assert found[0]["pixel"].shape == (12, 16) and found[0]["similarity"].shape == (5, 5, 2)
    assert all((0 < one["pixel"]).all() and (one["pixel"] < 1).all() for one in found)
    with pytest.raises(ValueError, match="2 pictures came; gates are shown of one"):
        inspected.gates(network, columns(2))
    with pytest.raises(ValueError, match="no interaction of two streams"):
        inspected.gates(CMFS(small(3, 6, use="early")).eval(), columns(1))
