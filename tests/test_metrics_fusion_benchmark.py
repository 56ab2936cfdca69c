"""Seconds of the fusion measures at 480 x 640 on one core, beside kept libraries in one run (pytest -m benchmarks -s).

Every time is the best of a few repeats on this process's CPU clock, one thread each.
"""

import importlib

import cv2
import numpy as np
import pytest
import torch
from cpu_seconds import seconds
from fusion_pictures import pair

from cmf.metrics.fusion import MEASURES, Triple, evaluate

pytestmark = pytest.mark.benchmarks


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def triple():
    infrared, visible = (np.tile(picture, (3, 3))[:480, :640] for picture in pair())
    return infrared, visible, np.maximum(infrared, visible)


def test_the_set_takes_an_eighth_of_the_time_of_a_kept_vif(triple):
    piq = pytest.importorskip("piq", reason="piq is not installed: nothing to compare with")
    fast = [name for name in MEASURES if not name.startswith("FMI")]
    print(f"\n{'one measure':<14}{'ms':>8}")
    for name in MEASURES:
        print(f"{name:<14}{1e3 * seconds(lambda name=name: MEASURES[name].of(Triple(*triple, 255)))[0]:>8.1f}")
    whole, _ = seconds(lambda: evaluate(*triple, names=fast))
    feature, _ = seconds(lambda: evaluate(*triple, names=("FMI",)))
    theirs, _ = seconds(lambda: [OTHERS["piq VIF"][2](piq, picture, triple[2]) for picture in triple[:2]], repeats=1)
    for title, time in (("all but FMI", whole), ("FMI", feature), ("piq VIF", theirs)):
        print(f"{title:<14}{1e3 * time:>8.1f}")
    assert whole <= theirs / 8


def _tensors(*pictures):
    return [torch.tensor(picture)[None, None] for picture in pictures]


def _scikit(library, a, f):
    return library.structural_similarity(a, f, data_range=255, gaussian_weights=True, sigma=1.5,
                                         use_sample_covariance=False)


OTHERS = {  # library, measure: module, call of a source and the fused picture, whether ours is the sum of both sources
    "scikit-image SSIM": ("skimage.metrics", "SSIM", _scikit),
    "piq SSIM": ("piq", "SSIM", lambda m, a, f: m.ssim(*_tensors(a, f), data_range=255., downsample=False)),
    "piq MS-SSIM": ("piq", "MS-SSIM", lambda m, a, f: m.multi_scale_ssim(*_tensors(a, f), data_range=255.)),
    "piq VIF": ("piq", "VIF", lambda m, a, f: m.vif_p(*_tensors(f, a), data_range=255.)),
    "torchmetrics VIF": ("torchmetrics.functional.image", "VIF",
                         lambda m, a, f: m.visual_information_fidelity(*_tensors(f, a), sigma_n_sq=2.0)),
    "torchmetrics SSIM": ("torchmetrics.functional.image", "SSIM",
                          lambda m, a, f: m.structural_similarity_index_measure(*_tensors(f, a), data_range=255.0))}


def test_beside_kept_libraries(triple):
    a, b, f = triple
    print(f"\n{'':<20}{'theirs, ms':>12}{'ours, ms':>10}{'ratio':>8}{'theirs':>10}{'ours':>10}")
    missing = []
    for title, (module, name, call) in OTHERS.items():
        try:
            library = importlib.import_module(module)
        except ImportError:
            missing.append(title)
            continue
        theirs, values = seconds(lambda library=library, call=call: [float(call(library, x, f)) for x in (a, b)])
        ours, got = seconds(lambda name=name: evaluate(*triple, names=(name,))[name])
        value = sum(values) / (1 if name == "VIF" else 2)
        print(f"{title:<20}{1e3 * theirs:>12.1f}{1e3 * ours:>10.1f}{theirs / ours:>8.1f}{value:>10.5f}{got:>10.5f}")
        assert got == pytest.approx(value, rel=5e-3)  # torchmetrics mirrors the border where the others cut it
    if len(missing) == len(OTHERS):
        pytest.skip("scikit-image, piq and torchmetrics are not installed: nothing to compare with")
    print(*(f"{title}: not installed" for title in missing), sep="\n")
