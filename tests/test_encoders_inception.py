"""The frozen InceptionV3, weights that do and do not fit, and stamp features with known answers."""

import urllib.error
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cmf.encoders import features, inception
from cmf.encoders.inception import Inception


@pytest.fixture(scope="module")
def encoder():
    return Inception(size=75)


@pytest.fixture(scope="module")
def pictures():
    return inception.noise_pictures(6, 40, seed=5)


def test_shapes_and_pooling(encoder, pictures):
    tokens, pooled = encoder(pictures)
    assert tokens.shape == (6, 9, 768) and pooled.shape == (6, 768)
    assert torch.allclose(tokens.mean(1), pooled, atol=1e-5)  # a 3x3 map in a 3x3 grid
    assert torch.isfinite(tokens).all() and tokens.dtype == torch.float32 and not tokens.requires_grad


def test_the_other_layer(pictures):
    tokens, pooled = Inception(size=96, layer="Mixed_7c", grid=1, calibration=pictures)(pictures[:2])
    assert tokens.shape == (2, 1, 2048) and torch.allclose(tokens[:, 0], pooled, atol=1e-5)


def test_map_side_is_that_of_the_network(encoder, pictures):
    for size in (75, 100, 139):
        x = torch.rand(1, 3, size, size)
        for name in inception.STAGES:
            x = getattr(encoder.trunk, name)(x)
            if name in inception.LAYERS:
                assert x.shape[-1] == inception.map_side(name, size)


def test_evaluation_mode_cannot_be_left(encoder, pictures):
    before = encoder(pictures)[0]
    encoder.train()
    assert not any(m.training for m in encoder.modules())
    assert torch.equal(encoder(pictures)[0], before)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_sample_does_not_depend_on_its_batch(encoder, pictures):
    assert torch.allclose(encoder(pictures)[0][2:3], encoder(pictures[2:3])[0], atol=1e-4)


def test_grey_and_three_equal_channels_agree(encoder, pictures):
    assert torch.allclose(encoder(pictures)[0], encoder(pictures.expand(-1, 3, -1, -1))[0], atol=1e-5)


def test_calibration_gives_unit_statistics():
    pictures = inception.noise_pictures(16, 75, seed=3)
    encoder = Inception(size=75, calibration=pictures)
    seen = {}
    norms = {n: m for n, m in encoder.trunk.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    keep = lambda m, i, o, n: seen.update({n: o.clone()})  # the rectifier that follows works in place
    handles = [m.register_forward_hook(partial(keep, n=n)) for n, m in norms.items()]
    encoder(pictures)
    for h in handles:
        h.remove()
    assert len(seen) > 60
    for name, value in seen.items():  # equal but for n / (n - 1), which compounds on small maps
        flat = value.transpose(0, 1).flatten(1)
        assert flat.mean(1).abs().max() < 0.15, name
        assert 0.9 < flat.std(1).median() < 1.1, name


def test_seed_and_configuration_make_the_fingerprint(encoder, pictures):
    assert encoder.fingerprint() == Inception(size=75).fingerprint()
    assert len({encoder.fingerprint(), Inception(size=75, seed=1).fingerprint(),
                Inception(size=75, grid=2).fingerprint()}) == 3
    assert encoder.label == "untrained backbone (seed 0, batch-norm calibrated)"
    state = torch.random.get_rng_state()
    Inception(size=75, calibration=pictures)
    assert torch.equal(state, torch.random.get_rng_state())


def test_input_scaling_is_that_of_torchvision(encoder, pictures):
    from torchvision.models import Inception3
    with torch.random.fork_rng():
        reference = Inception3(aux_logits=False, init_weights=False, transform_input=True)
    reference.fc = torch.nn.Identity()
    reference.load_state_dict(encoder.trunk.state_dict())
    reference.eval()
    whole = Inception(size=75, layer="Mixed_7c", grid=1)  # the same seed, so the same weights
    mean, std = (torch.tensor(v)[:, None, None] for v in (inception.MEAN, inception.STD))
    x = torch.rand(2, 3, 75, 75)
    with torch.no_grad():
        want = reference((x - mean) / std)
        assert (whole(x)[1] - want).abs().max() < 1e-4 * want.abs().max()


def test_weights_from_files(encoder, pictures, tmp_path):
    state = {k: v.contiguous() for k, v in encoder.trunk.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", metadata={"architecture": "inception_v3"})
    torch.save(state | {"fc.weight": torch.zeros(5, 2048), "AuxLogits.x": torch.zeros(1)}, tmp_path / "w.pth")
    want = encoder(pictures)[0]
    for name in ("w.safetensors", "w.pth"):
        loaded = Inception(tmp_path / name, size=75)
        assert torch.equal(loaded(pictures)[0], want) and loaded.fingerprint() == encoder.fingerprint()
        assert loaded.label == f"weights {name}"
    save_file(state, tmp_path / "n.safetensors", metadata={"transform_input": "false"})
    normalised = Inception(tmp_path / "n.safetensors", size=75)
    assert not torch.allclose(normalised(pictures)[0], want)
    assert normalised.fingerprint() != encoder.fingerprint()


def test_weights_that_do_not_fit_are_refused(encoder, tmp_path):
    state = {k: v.contiguous() for k, v in encoder.trunk.state_dict().items()}
    name = "Conv2d_1a_3x3.conv.weight"
    cases = {"shape": state | {name: torch.zeros(16, 3, 3, 3)}, "extra": state | {"layer1.0": torch.zeros(2)},
             "short": {k: v for k, v in state.items() if k != name}}
    for key, value in cases.items():
        torch.save(value, tmp_path / f"{key}.pth")
    for key, words in (("shape", r"1 keys differ: Conv2d_1a_3x3.conv.weight: expected \(32, 3, 3, 3\), got"),
                       ("extra", r"layer1.0: expected absent, got \(2,\)"),
                       ("short", r"Conv2d_1a_3x3.conv.weight: expected \(32, 3, 3, 3\), got absent")):
        with pytest.raises(ValueError, match=words):
            Inception(tmp_path / f"{key}.pth", size=75)
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"architecture": "resnet50"})
    with pytest.raises(ValueError, match="architecture resnet50, expected inception_v3"):
        Inception(tmp_path / "a.safetensors", size=75)
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors", metadata={"transform_input": "yes"})
    with pytest.raises(ValueError, match="transform_input is 'yes' in the metadata"):
        Inception(tmp_path / "b.safetensors", size=75)
    for ending in ("pth", "safetensors"):
        (tmp_path / f"torn.{ending}").write_bytes((tmp_path / "short.pth").read_bytes()[:1000])
        with pytest.raises(ValueError, match=rf"torn.{ending}: not a complete file of plain tensors"):
            Inception(tmp_path / f"torn.{ending}", size=75)
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        Inception(tmp_path / "none.pth", size=75)
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="weights end in .safetensors or .pth, got .onnx"):
        Inception(tmp_path / "w.onnx", size=75)


def test_imagenet_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError, match="neither in .* nor could .*inception_v3_google"):
        Inception("imagenet")


@pytest.mark.parametrize("arguments, words", [
    ({"layer": "Mixed_5b"}, "layer is 'Mixed_5b', expected one of Mixed_6e, Mixed_7c"),
    ({"size": 64}, "size is 64 px, InceptionV3 needs at least 75"),
    ({"size": 75, "layer": "Mixed_7c"}, "grid is 3, but the map of Mixed_7c at 75 px is 1 a side"),
    ({"weights": "imagenet", "calibration": torch.zeros(1, 1, 75, 75)}, "calibration belongs to untrained"),
])
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        Inception(**arguments)


def test_bad_images_are_named(encoder):
    with pytest.raises(ValueError, match=r"shape \(2, 2, 32, 32\) of torch.float32, expected floats"):
        encoder(torch.zeros(2, 2, 32, 32))
    with pytest.raises(ValueError, match="expected floats"):
        encoder(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"lie in \[0, 255\], expected finite values in \[0, 1\]"):
        encoder(torch.tensor([0., 255.]).expand(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"in \[nan, nan\]"):
        encoder(torch.full((1, 1, 32, 32), float("nan")))


def test_bfloat16_is_close_where_it_is_fast(encoder, pictures):
    assert inception.fast_dtype("meta") == torch.float32
    if inception.fast_dtype("cpu") != torch.bfloat16:
        pytest.skip("this processor has no bfloat16 multiplication")
    half = Inception(size=75, dtype=torch.bfloat16)
    a, b = encoder(pictures)[0], half(pictures)[0]
    assert b.dtype == torch.float32 and half.fingerprint() != encoder.fingerprint()
    assert torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).min() > 0.97


# features ---------------------------------------------------------------------------------------------------

def stamps(positions, peak=200.0, psf=1.3, level=500.0, noise=1.0, size=32, seed=0):
    """One target: a frame for each position (x, y), Gaussian source and noise, (1, F, size, size)."""
    y, x = np.mgrid[:size, :size]
    frames = [peak * np.exp(-((x - px)**2 + (y - py)**2) / (2 * psf**2)) for px, py in positions]
    return (level + np.random.default_rng(seed).normal(0, noise, (1, len(frames), size, size)) + frames)


def column(values, names, name):
    return values[..., names.index(name)]


def test_stretch_has_its_formula_and_ignores_level_and_gain():
    x = stamps([(15, 16), (18, 14)])
    y = features.stretch(x)
    assert y.shape == x.shape and y.dtype == np.float32 and y.min() >= 0 and y.max() <= 1
    frame = x[0, 1]
    z = (frame - np.median(frame)) / (1.4826 * np.median(abs(frame - np.median(frame))))
    want = np.clip((np.arcsinh(z) + np.arcsinh(3)) / (np.arcsinh(100) + np.arcsinh(3)), 0, 1)
    assert np.allclose(y[0, 1], want, atol=1e-6)
    assert np.allclose(features.stretch(7 * x + 300), y, atol=1e-5)


def test_stretch_of_missing_pixels_and_constant_frames_is_background():
    x = stamps([(15, 16)])
    x[0, 0, :4] = np.nan
    grey = np.arcsinh(3) / (np.arcsinh(100) + np.arcsinh(3))
    assert np.allclose(features.stretch(x)[0, 0, :4], grey) and np.isfinite(features.stretch(x)).all()
    assert np.allclose(features.stretch(np.ones((1, 1, 8, 8))), grey)


def test_radiometry_of_a_known_source():
    out = features.radiometric(stamps([(15.3, 16.1), (17, 14)]))
    assert out.shape == (1, 2, len(features.RADIOMETRIC)) and out.dtype == np.float32
    get = lambda name: column(out, features.RADIOMETRIC, name)
    light = 200 * 2 * np.pi * 1.3**2 * (1 - np.exp(-4**2 / (2 * 1.3**2)))  # within 4 px
    assert np.allclose(get("flux"), light, rtol=0.03)
    assert np.allclose(get("background"), 500, atol=0.3) and np.allclose(get("noise"), 1, atol=0.15)
    assert np.allclose(get("peak_snr") * get("noise"), get("max") - get("background"), rtol=1e-3)
    assert np.allclose(get("width"), 1.3 * np.sqrt(2), rtol=0.12)


def test_motion_of_a_known_displacement():
    x = stamps([(15.3, 16.1), (19.0, 13.5)], noise=0.5)
    out = features.motion(x)
    assert out.shape == (1, len(features.MOTION))
    get = lambda name: column(out, features.MOTION, name)[0]
    assert (get("dx"), get("dy")) == pytest.approx((3.7, -2.6), abs=0.12)
    assert get("shift") == pytest.approx(np.hypot(3.7, 2.6), abs=0.12)
    assert abs(get("flux_difference")) < 60 and get("difference_peak") > 50 > -50 > get("difference_trough")
    same = features.motion(np.concatenate([x[:, :1], x[:, :1]], 1))
    assert column(same, features.MOTION, "shift")[0] == 0
    assert column(same, features.MOTION, "correlation")[0] == pytest.approx(1)
    assert column(same, features.MOTION, "difference_peak")[0] == 0


def test_the_search_follows_a_target_in_the_second_frame_only():
    x = stamps([(15.5, 16), (25.2, 16)])
    assert column(features.motion(x), features.MOTION, "dx")[0] == pytest.approx(9.7, abs=0.12)
    assert abs(column(features.motion(x, search=4), features.MOTION, "dx")[0]) < 5
    other = stamps([(25.2, 16), (15.5, 16)], peak=500)
    other += stamps([(15, 15.5), (15.5, 16)], peak=100, level=0, noise=0)
    assert np.allclose(features.centroid(other)[0, 0], (15, 15.5), atol=0.2)


def test_motion_takes_the_third_frame_as_the_difference():
    x = stamps([(16, 16), (16, 16), (16, 16)], noise=0.5)
    given = column(features.motion(x), features.MOTION, "difference_peak")[0]
    own = column(features.motion(x[:, :2]), features.MOTION, "difference_peak")[0]
    assert given > 20 * own


def test_features_are_per_target():
    x = np.concatenate([stamps([(15, 16), (18, 14)], seed=s, peak=50 + 40 * s) for s in range(4)])
    for function in (features.stretch, features.radiometric, features.motion):
        assert np.allclose(function(x)[2:3], function(x[2:3]), rtol=1e-6)


def test_image_tokens_and_projection(encoder):
    x = features.stretch(np.concatenate([stamps([(15, 16), (18, 14)], seed=s) for s in range(5)]))
    out = features.image_tokens(x, encoder, batch=3)
    assert out["grid"].shape == (5, 18, 768) and out["pooled"].shape == (5, 2, 768)
    tokens, _ = encoder(torch.from_numpy(x[:, 1:2]))
    assert np.allclose(out["grid"][:, 9:], tokens.numpy(), atol=1e-4)
    fitted = features.Projection.fit(out["grid"], 8)
    small = features.image_tokens(x, encoder, progress=lambda starts, label: starts, projection=fitted)
    assert small["grid"].shape == (5, 18, 8)
    assert np.allclose(small["grid"], fitted.apply(out["grid"]), atol=1e-3)


def test_projection_keeps_what_varies():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 20)) + 5
    pca = features.Projection.fit(rows, 3)
    scores = pca.apply(rows)
    back = scores @ np.linalg.pinv(pca.basis) + pca.mean
    assert np.allclose(back, rows, atol=1e-4)
    assert np.allclose(np.cov(scores.T), np.diag(np.diag(np.cov(scores.T))), atol=1e-5)
    for kind in ("pca", "random"):
        again = [features.Projection.fit(rows, 3, kind, seed=2, limit=300).basis for _ in range(2)]
        assert np.array_equal(*again)
        assert features.Projection.fit(rows, 3, kind).apply(rows).var(0).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("call, words", [
    (lambda x: features.stretch(x[0]), r"shape \(2, 32, 32\), expected \(n, F, H, W\)"),
    (lambda x: features.stretch(x, 1, 1), "low must lie below high, got 1 and 1"),
    (lambda x: features.stretch(np.where(x > 600, np.inf, x)), "values beyond 1e30, first in target 0"),
    (lambda x: features.motion(np.where(x > 600, -3.4e38, x)), "mark missing pixels with NaN"),
    (lambda x: features.stretch(np.stack([x[:, 0], x[:, 1] * np.nan], 1)), "frame 1 of target 0 has no"),
    (lambda x: features.radiometric(x[..., :16, :16]), "16x16 px leave"),
    (lambda x: features.motion(x, search=(1, 2, 3)), r"search is \(1, 2, 3\), expected a number or 2 of them"),
    (lambda x: features.motion(x[:, :1]), "needs 2 frames .* got 1"),
    (lambda x: features.image_tokens(x[0], None), r"shape \(2, 32, 32\), expected \(n, F, H, W\)"),
    (lambda x: features.Projection.fit(np.ones((4, 3)), 4), r"width is 4, expected 1\.\.3"),
    (lambda x: features.Projection.fit(np.ones((4, 3)), 2, "ica"), "kind is 'ica', expected 'pca'"),
    (lambda x: features.Projection.fit(np.eye(4), 2).apply(np.ones((1, 3))), "3 channels, the projection"),
])
def test_bad_features_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(stamps([(15, 16), (18, 14)]))
