"""Fusion measures beside slow obvious computations and, where they are installed, beside kept libraries."""

import numpy as np
import pytest
from fusion_pictures import triples
from scipy.signal import convolve2d
from scipy.stats import entropy

from cmf.metrics.fusion import evaluate
from cmf.metrics.fusion_triple import Triple

TRIPLES = triples()
SMALL = tuple(picture[20:57, 40:86] for picture in TRIPLES["max"])  # odd times even sides


def window(size, sigma):
    x = np.arange(size) - size // 2
    kernel = np.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def moments(x, y, kernel):
    blur = lambda picture: convolve2d(picture, kernel, "valid")
    return (blur(x), blur(y), blur(x * x) - blur(x) ** 2, blur(y * y) - blur(y) ** 2,
            blur(x * y) - blur(x) * blur(y))


def test_entropy_and_information_from_histograms():
    a, b, f = TRIPLES["mean"]
    nats = lambda *p: entropy(np.histogramdd([x.ravel() for x in p], [np.arange(257)] * len(p))[0].ravel())
    shared = [nats(x) + nats(f) - nats(x, f) for x in (a, b)]
    got = evaluate(a, b, f, names=("EN", "MI", "NMI"))
    assert got["EN"] == pytest.approx(nats(f) / np.log(2), rel=1e-12)
    assert got["MI"] == pytest.approx(sum(shared), rel=1e-9)
    assert got["NMI"] == pytest.approx(2 * sum(s / (nats(x) + nats(f)) for s, x in zip(shared, (a, b), strict=True)))


def test_cross_entropy_level_by_level():
    a, b, f = SMALL
    total = 0
    for source in (a, b):
        for level in range(256):
            p, q = (source == level).mean(), (f == level).mean()
            total += p * np.log2(p / q) if p and q else 0
    assert evaluate(a, b, f, names=["CE"])["CE"] == pytest.approx(total / 2, rel=1e-12)


def test_correlations_by_numpy():
    a, b, f = TRIPLES["max"]
    corr = lambda x, y: np.corrcoef(x.ravel(), y.ravel())[0, 1]
    got = evaluate(a, b, f, names=("CC", "SCD", "SD", "PSNR"))
    assert got["CC"] == pytest.approx((corr(a, f) + corr(b, f)) / 2)
    assert got["SCD"] == pytest.approx(corr(f - b, a) + corr(f - a, b))
    assert got["SD"] == pytest.approx(f.std())
    assert got["PSNR"] == pytest.approx(10 * np.log10(2 * 255**2 / (((a - f) ** 2).mean() + ((b - f) ** 2).mean())))


def test_similarity_by_two_dimensional_windows():
    a, b, f = SMALL
    values = []
    for x in (a, b):
        m, n, u, v, c = moments(x, f, window(11, 1.5))
        values.append(((2 * m * n + 6.5025) * (2 * c + 58.5225) / ((m**2 + n**2 + 6.5025) * (u + v + 58.5225))).mean())
    assert evaluate(a, b, f, names=["SSIM"])["SSIM"] == pytest.approx(np.mean(values), rel=1e-10)


def test_fidelity_by_two_dimensional_windows():
    a, b, f = TRIPLES["max"]
    values = []
    for x in (a, b):
        y, up, down = f, 0.0, 0.0
        for size in (17, 9, 5, 3):
            kernel = window(size, size / 5)
            if size < 17:
                x, y = (convolve2d(p, kernel, "valid")[::2, ::2] for p in (x, y))
            _, _, u, v, c = moments(x, y, kernel)
            gain = np.where(u > 1e-10, np.maximum(c, 0) / np.maximum(u, 1e-10), 0)
            rest = np.maximum(v - gain * c, 1e-10)
            up += np.log(1 + gain**2 * u / (rest + 2)).sum()
            down += np.log(1 + np.maximum(u, 0) / 2).sum()
        values.append(up / down)
    assert evaluate(a, b, f, names=["VIF"])["VIF"] == pytest.approx(sum(values), rel=1e-6)


def edge(picture, mode):
    padded = np.pad(picture, 1, mode)
    x = convolve2d(padded, np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]), "valid")
    y = convolve2d(padded, np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]), "valid")
    return x, y, np.hypot(x, y)


def test_edges_pixel_by_pixel():
    edges = [edge(p, "constant") for p in SMALL]
    up = down = 0.0
    for i, j in np.ndindex(SMALL[0].shape):
        (_, _, gf), *sources = [tuple(part[i, j] for part in e) for e in (edges[2], edges[0], edges[1])]
        angle = lambda e, i=i, j=j: np.pi / 2 if e[0][i, j] == 0 else np.arctan(-e[1][i, j] / e[0][i, j])
        for (_, _, g), e in zip(sources, edges[:2], strict=True):
            ratio = gf if np.isclose(g, gf, rtol=1e-14) else min(g, gf) / max(g, gf)
            agreement = 1 - abs(angle(e) - angle(edges[2])) / (np.pi / 2)
            quality = .9994 / (1 + np.exp(-15 * (ratio - .5))) * .9879 / (1 + np.exp(-22 * (agreement - .8)))
            up, down = up + quality * g, down + g
    assert evaluate(*SMALL, names=["Qabf"])["Qabf"] == pytest.approx(up / down, rel=1e-9)


def test_invented_edges_pixel_by_pixel():
    edges = [edge(p, "reflect") for p in SMALL]
    up = down = 0.0
    for i, j in np.ndindex(SMALL[0].shape):
        values = [(x[i, j], y[i, j], g[i, j] / 8) for x, y, g in edges]
        gf = values[2][2]
        angle = lambda v: 0 if v[0] == v[1] == 0 else np.arctan2(*v[:2]) if v[1] > 0 else np.arctan2(-v[0], -v[1])
        for v in values[:2]:
            weight = v[2] ** 1.5 if v[2] >= 2 else .001
            down += weight
            if gf > max(values[0][2], values[1][2]):
                agreement = abs(abs(angle(v) - angle(values[2])) - np.pi / 2) * 2 / np.pi
                quality = .9999 / (1 + np.exp(-19 * (v[2] / gf - .5))) * .9995 / (1 + np.exp(-22 * (agreement - .5)))
                up += (1 - np.sqrt(quality)) * weight
    assert evaluate(*SMALL, names=["Nabf"])["Nabf"] == pytest.approx(up / down, rel=1e-6)


def stretched(picture):
    return np.floor((picture - picture.min()) / np.ptp(picture) * 255 + 0.5)


def filtered(picture, gain, unit):
    """Full complex spectrum times a gain of the radial frequency; unit: pixels a side for one cycle at Nyquist."""
    v, u = (2 * np.fft.fftfreq(side) * side / unit for side in picture.shape)
    return np.fft.ifft2(np.fft.fft2(picture) * gain(np.hypot(*np.meshgrid(u, v)))).real


@pytest.mark.parametrize("crop", [(37, 46), (48, 63), (192, 256)])
def test_measures_after_the_eye_from_full_spectra(crop):
    a, b, f = (stretched(p[:crop[0], :crop[1]]) for p in TRIPLES["max"])
    x = np.arange(-15, 16)
    plain = [np.exp(-(x[:, None] ** 2 + x**2) / (2 * s * s)) / (2 * np.pi * s * s) for s in (2, 4)]
    contrasts = []
    for picture in (a, b, f):
        seen = filtered(picture, lambda r: np.exp(-(r / 15.387) ** 2) - .7622 * np.exp(-(r / 1.3456) ** 2), 30)
        c = abs(np.divide(*(convolve2d(seen, kernel, "same") for kernel in plain)) - 1)
        contrasts.append(c**3 / (c**2 + 1e-4))
    p, q, r = contrasts
    kept = [np.minimum(s, r) / np.maximum(s, r) for s in (p, q)]
    got = evaluate(a, b, f, names=("Qcb", "Qcv"))
    assert got["Qcb"] == pytest.approx(((p**2 * kept[0] + q**2 * kept[1]) / (p**2 + q**2)).mean(), rel=1e-6)
    up = down = 0.0
    for s in (a, b):
        apart = filtered(s - f, lambda r: 2.6 * (.0192 + .144 * r) * np.exp(-(.144 * r) ** 1.1), 8)
        strength = edge(s, "constant")[2]
        for i in range(0, crop[0], 16):
            for j in range(0, crop[1], 16):
                weight = (strength[i:i + 16, j:j + 16] ** 5).sum()
                up += weight * (apart[i:i + 16, j:j + 16] ** 2).sum() / 256
                down += weight
    assert got["Qcv"] == pytest.approx(up / down, rel=1e-9)


def window_information(s, f):
    """Normalised information of two windows of nine numbers, cell by cell of their joint distribution."""
    if (s == f).all():
        return 1.0
    p, q = ((x - x.min()) / np.ptp(x) if np.ptp(x) else np.ones(9) for x in (s, f))
    p, q = p / p.sum(), q / q.sum()
    c = np.corrcoef(p, q)[0, 1] if np.ptp(p) > 1e-9 and np.ptp(q) > 1e-9 else 0.0
    k = np.arange(1, 10)
    scale = np.sqrt((k**2 @ p - (k @ p) ** 2) * (k**2 @ q - (k @ q) ** 2))
    big_p, big_q = np.cumsum(p), np.cumsum(q)
    bound = np.minimum.outer(big_p, big_q) if c >= 0 else np.maximum(np.add.outer(big_p, big_q) - 1, 0)
    most = (bound - np.outer(big_p, big_q)).sum()
    weight = c * scale / most if c != 0 and abs(most) > 1e-9 and scale > 0 else 0.0
    bound = np.pad(bound, ((1, 0), (1, 0)))
    joint = weight * np.diff(np.diff(bound, axis=0), axis=1) + (1 - weight) * np.outer(p, q)
    nats = lambda x: -(x * np.log(np.where(abs(x) > 1e-15, abs(x), 1))).sum()
    total = nats(p) + nats(q)
    return 2 * (total - nats(joint)) / total if total > 0 else 0.0


@pytest.mark.parametrize("name", ["FMI", "FMI_gradient"])
def test_feature_information_window_by_window(name):
    pictures = [p.copy() for p in SMALL]
    pictures[0][5:12, 5:12] = 40
    pictures[2][5:12, 9:16] = 90    # windows that are flat in one, in both, and equal
    features = pictures if name == "FMI" else [np.gradient(p, axis=1) for p in pictures]
    h, w = features[0].shape
    cut = lambda x, i, j: x[i:i + 3, j:j + 3].T.ravel()
    values = [window_information(cut(s, i, j), cut(features[2], i, j)) for s in features[:2]
              for i in range(h - 2) for j in range(w - 2)]
    assert evaluate(*pictures, names=[name])[name] == pytest.approx(np.mean(values), rel=1e-5)


def test_what_measures_share_is_made_once():
    triple, made = Triple(*TRIPLES["max"], 255), []
    make = lambda given: made.append(given) or 3
    assert triple.once(make) == triple.once(make) == 3 and made == [triple]


# ---- kept libraries

def test_scikit_image_agrees():
    metrics = pytest.importorskip("skimage.metrics", reason="comparing SSIM needs scikit-image")
    a, b, f = TRIPLES["max"]
    theirs = [metrics.structural_similarity(x, f, data_range=255, gaussian_weights=True, sigma=1.5,
                                            use_sample_covariance=False) for x in (a, b)]
    assert evaluate(a, b, f, names=["SSIM"])["SSIM"] == pytest.approx(np.mean(theirs), rel=1e-6)


@pytest.mark.parametrize("name", ["SSIM", "MS-SSIM", "VIF"])
def test_piq_agrees(name):
    piq = pytest.importorskip("piq", reason=f"comparing {name} needs piq")
    torch = pytest.importorskip("torch")
    a, b, f = TRIPLES["max"]
    call = {"SSIM": lambda x, y: piq.ssim(x, y, data_range=255., downsample=False),
            "MS-SSIM": lambda x, y: piq.multi_scale_ssim(x, y, data_range=255.),
            "VIF": lambda x, y: piq.vif_p(y, x, data_range=255.)}[name]
    theirs = [float(call(torch.tensor(x)[None, None], torch.tensor(f)[None, None])) for x in (a, b)]
    want = sum(theirs) / (1 if name == "VIF" else 2)
    assert evaluate(a, b, f, names=[name])[name] == pytest.approx(want, rel=1e-4)


def test_torchmetrics_agrees():
    image = pytest.importorskip("torchmetrics.functional.image", reason="comparing VIF needs torchmetrics")
    torch = pytest.importorskip("torch")
    a, b, f = TRIPLES["max"]
    tensor = lambda x: torch.tensor(x)[None, None]
    theirs = sum(float(image.visual_information_fidelity(tensor(f), tensor(x), sigma_n_sq=2.0)) for x in (a, b))
    assert evaluate(a, b, f, names=["VIF"])["VIF"] == pytest.approx(theirs, rel=1e-4)
