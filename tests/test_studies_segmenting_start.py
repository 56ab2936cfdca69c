"""Where the encoders of CMFS start."""

import pytest
import torch

from cmf import weights
from cmf.blocks.vmamba import VMamba
from cmf.methods.cmfs import CMFS, small
from cmf.studies.segmenting_start import START, begin, fits, single


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An encoder's weights, random ones."""
    torch.manual_seed(7)
    shape = dict(widths=small().widths, depths=small().depths)
    return weights.save(tmp_path_factory.mktemp("start") / "encoder.safetensors", VMamba(**shape), shape)


@pytest.mark.parametrize("changes", [dict(), dict(use="visible"), dict(use="infrared"), dict(scan=False)])
def test_every_stream_starts_from_the_file(file, changes):
    network = begin(CMFS(small(**changes), torch.ones(8, 512)), file)
    given = VMamba(small().widths, small().depths)
    weights.load(file, given)
    for encoder in network.encoders:
        assert all(torch.equal(value, given.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_equal_pictures_look_the_same_through_four_channels(file):
    four, three = (begin(CMFS(small(use=use)), file).encoders[0].patch_embed[0] for use in ("early", "visible"))
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(four(x.expand(-1, 4, -1, -1)), three(x.expand(-1, 3, -1, -1)))


def test_pairs_become_single_pictures():
    pair = dict(visible=torch.rand(2, 3, 4, 5), infrared=torch.rand(2, 1, 4, 5), label=torch.arange(40).view(2, 4, 5))
    made = single(pair)
    assert torch.equal(made["visible"][:2], pair["visible"])
    assert all(torch.equal(made["visible"][2:, k], pair["infrared"][:, 0]) for k in range(3))
    assert torch.equal(made["label"], pair["label"].repeat(2, 1, 1)) and len(made["infrared"]) == 4


def test_other_weights_are_refused(tmp_path):
    other = weights.save(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), {})
    with pytest.raises(ValueError, match="holds weights of Linear, expected VMamba; give an encoder's"):
        begin(CMFS(small(text=False)), other)
    narrow = weights.save(tmp_path / "narrow.safetensors", VMamba((8, 16, 32, 64), (1, 1, 1, 1)),
                          dict(widths=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="do not fit the encoder"):
        begin(CMFS(small(text=False)), narrow)


def test_the_committed_file_fits_small_and_no_other_shape():
    assert fits(begin(CMFS(small(text=False)), START))
    assert not fits(CMFS(small(text=False, depths=(1, 1, 1, 1))))
