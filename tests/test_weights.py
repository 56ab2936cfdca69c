"""Weights on disk: they come back equal, state what they are, and refuse what they do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cmf import weights


class Small(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(2, width)


class Other(Small):
    pass


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    return weights.save(tmp_path / "new" / "w.safetensors", Small(), dict(width=3), licence="MIT")


def test_weights_come_back_equal_with_their_facts(path):
    torch.manual_seed(0)
    expected, found = Small().state_dict(), weights.load(path, Small()).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert weights.facts(path) == dict(architecture="Small", config=dict(width=3), licence="MIT")
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("spoil, error, words", [
    (lambda p: p.unlink(), FileNotFoundError, "no weights at .*; train them, or give the path of a .safetensors file"),
    (lambda p: p.write_bytes(p.read_bytes()[:-5]), ValueError, "no complete safetensors file .*; fetch or train it"),
    (lambda p: p.write_bytes(b"\x80\x04pickled"), ValueError, "no complete safetensors file"),
    (lambda p: save_file({"layer.weight": torch.zeros(3, 2)}, p), ValueError,
     "does not state its architecture and config; write it with cmf.weights.save"),
])
def test_files_that_cannot_be_read_are_refused(path, spoil, error, words):
    spoil(path)
    with pytest.raises(error, match=words):
        weights.load(path, Small())


def test_another_architecture_or_size_is_refused_and_nothing_is_loaded(path):
    with pytest.raises(ValueError, match="holds weights of Small, expected Other; give weights of a Other"):
        weights.load(path, Other())
    model = Small(width=5)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer.bias is \(3,\) in the file and \(5,\) in the model; build the model"):
        weights.load(path, model)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    path = weights.save(tmp_path / "w.safetensors", Small(), dict(width=3))
    path.write_bytes(path.read_bytes().replace(b'{\\"width', b'[\\"width'))      # as JSON in JSON has it
    with pytest.raises(ValueError, match="w.safetensors is damaged: its config cannot be read"):
        weights.facts(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = weights.save(tmp_path / "w.safetensors", Small(), dict(width=3))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="w.safetensors is damaged: its content does not have the sha256"):
        weights.load(path, Small())
