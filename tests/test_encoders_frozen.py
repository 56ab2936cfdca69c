"""What CLIP, BLIP and DistilBERT share: where weights come from, and which are refused."""

import json
import shutil

import numpy as np
import pytest
import small_transformers as small
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cmf.encoders import frozen, vocabulary
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT

KINDS = (CLIP, BLIP, DistilBERT)
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)
TEXTS = ["a person", "two red cars on a wet street at night", "a zebra"]


def outputs(encoder):
    return encoder.texts(TEXTS) if isinstance(encoder, DistilBERT) else encoder.images(PICTURES)


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: k.__name__)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def written(kind, tmp_path_factory):
    return small.write(tmp_path_factory.mktemp(kind.__name__), kind)


@pytest.fixture(scope="module")
def published(kind, tmp_path_factory):
    return small.publish(tmp_path_factory.mktemp("hub") / kind.__name__, kind)


def test_evaluation_mode_cannot_be_left(kind, written):
    encoder = kind(written)
    before = outputs(encoder)
    encoder.train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    after = outputs(encoder)
    assert torch.equal(before.tokens, after.tokens) and not after.tokens.requires_grad


def test_weights_come_back_as_they_were_written(kind, written):
    encoder, made = kind(written), small.model(kind)
    for name, value in made.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value.half().float()), name
    with safe_open(written, "pt") as file:
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())
    tied = {id(p) for p in made.parameters()}
    assert len(tied) == len({id(p) for p in encoder.model.parameters()})  # what was tied is tied again


def test_fingerprint_follows_weights_tokenizer_and_precision(kind, written, tmp_path):
    mark = kind(written).fingerprint()
    assert mark == kind(written).fingerprint() and len(mark) == 64
    assert mark != kind(small.write(tmp_path, kind, seed=1)).fingerprint()
    assert mark != kind(written, precision="bf16").fingerprint()


def test_a_folder_as_the_hub_has_it(kind, published):
    encoder, made = kind(published), small.model(kind)
    assert torch.equal(next(encoder.model.parameters()), next(made.parameters()))
    assert torch.isfinite(outputs(encoder).tokens).all()


def test_mixed_precision_changes_little(kind, written):
    exact, mixed = outputs(kind(written, precision="float32")), outputs(kind(written, precision="bf16"))
    assert mixed.tokens.dtype == torch.float32 and not torch.equal(exact.tokens, mixed.tokens)
    assert (exact.tokens - mixed.tokens).abs().mean() < 0.05 * exact.tokens.abs().mean()


def test_absent_weights_say_where_to_get_them(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    monkeypatch.setenv("CMF_CACHE", str(tmp_path))

    def offline(name):
        raise OSError("no route to the hub")

    monkeypatch.setattr(frozen, "download", offline)
    with pytest.raises(FileNotFoundError, match="no route to the hub.*hf download.*weights='small'"):
        kind(kind.HUB)
    with pytest.raises(FileNotFoundError, match="no name on the hub and no folder.*weights='small'"):
        kind(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no weights at .*make encoders"):
        kind(tmp_path / "nowhere.safetensors")


def test_hub_weights_are_taken_from_the_data_folder(kind, published, monkeypatch, tmp_path):
    shutil.copytree(published, tmp_path / kind.HUB.rpartition("/")[2])
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    assert kind(kind.HUB).fingerprint() == kind(published).fingerprint()


def test_another_architecture_is_refused(kind, written, published, tmp_path):
    other = KINDS[(KINDS.index(kind) + 1) % 3]
    with pytest.raises(ValueError, match=f"holds weights of {kind.MODEL}, expected {other.MODEL}"):
        other(written)
    with pytest.raises(ValueError, match="holds a model of type .*, expected"):
        other(published)


def test_another_activation_is_refused(kind, tmp_path):
    other = "gelu" if kind.ACTIVATION == "quick_gelu" else "quick_gelu"
    change = {"activation" if kind is DistilBERT else "hidden_act": other}
    path, folder = small.write(tmp_path, kind, **change), small.publish(tmp_path / "folder", kind, **change)
    for source in (path, folder):
        with pytest.raises(ValueError, match=f"activation {other}.*{kind.ACTIVATION}"):
            kind(source)
        assert torch.isfinite(outputs(kind(source, activation=other)).tokens).all()


def test_a_file_whose_activation_and_configuration_differ_is_refused(kind, written, tmp_path):
    with safe_open(written, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        stated = dict(file.metadata(), activation="relu")
    path = tmp_path / written.name
    save_file(tensors, path, metadata=stated)
    shutil.copy(written.with_name(vocabulary.FILE), tmp_path)
    with pytest.raises(ValueError, match="was trained with activation relu, its configuration builds"):
        kind(path)


def test_another_vocabulary_is_refused(kind, written, published, tmp_path):
    shutil.copy(written, tmp_path)
    vocabulary.save(tmp_path / vocabulary.FILE, vocabulary.build([*small.WORDS, "bus"]))
    with pytest.raises(ValueError, match="was trained with the vocabulary .* put the right file there"):
        kind(tmp_path / written.name)
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    vocabulary.wrap(vocabulary.build([*small.WORDS, "bus"])).save_pretrained(folder)
    with pytest.raises(ValueError, match="pieces does not belong to a model of"):
        kind(folder)


def test_torn_folders_are_refused(kind, published, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no complete model.safetensors"):
        kind(folder)
    with safe_open(published / "model.safetensors", "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    lost = next(k for k in sorted(tensors) if "layer" in k)
    tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors", metadata=dict(format="pt"))
    with pytest.raises(ValueError, match=f"1 tensors are missing or of another shape, first {lost}; "):
        kind(folder)
    tensors[lost] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata=dict(format="pt"))
    with pytest.raises(ValueError, match=rf"first {lost} \(3,\), expected \("):
        kind(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="has no tokenizer files"):
        kind(folder)
    (folder / "config.json").write_text(json.dumps({})[:1])
    with pytest.raises(FileNotFoundError, match="no readable config.json"):
        kind(folder)


def test_unknown_precision_is_refused(kind):
    with pytest.raises(ValueError, match="expected 'auto', 'float32' or 'bf16'"):
        kind(precision="half")


@pytest.mark.parametrize("wrong", (PICTURES[0], PICTURES[..., :1], PICTURES / 255.0, PICTURES[:0], []),
                         ids=("one", "grey", "floats", "none", "empty list"))
def test_other_pictures_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \(n, H, W, 3\)"):
        frozen.pixels(wrong, 32)


@pytest.mark.parametrize("fit, name", (("crop", "CLIPImageProcessorPil"), ("squeeze", "BlipImageProcessorPil")))
def test_pictures_are_prepared_as_transformers_does(fit, name):
    import transformers

    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    pictures = [coarse.repeat(5, 1).repeat(5, 2)[k, :50 + 5 * k] for k in range(3)]  # of several sizes
    size = dict(shortest_edge=32) if fit == "crop" else dict(height=32, width=32)
    extra = dict(crop_size=dict(height=32, width=32)) if fit == "crop" else {}
    theirs = getattr(transformers, name)(size=size, **extra)(pictures, return_tensors="pt")["pixel_values"]
    ours = frozen.pixels(pictures, 32, fit)
    assert ours.shape == theirs.shape == (3, 3, 32, 32)
    assert (ours - theirs).abs().max() < 0.04  # two grey levels
    assert (ours - theirs).abs().mean() < 0.005
