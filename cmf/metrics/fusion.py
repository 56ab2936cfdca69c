"""Measures of a picture fused from two, in one convention.

Axes: H rows, W columns. A infrared, B visible (or any two sources), F fused: (H, W), luma of colour pictures. Every
function takes (infrared, visible, fused, data_range); the range is never guessed. Values count on the scale 0..255:
a picture in [0, 1] with data_range=1 has the same measures as its 8-bit twin, but for rounding.

Public toolboxes differ from each other, so that numbers of two of them must not stand in one table. Here: MI in nats
(bits: 1.4427 times), VIF as the sum of both sources with centred windows, SSIM as the mean of both with a range of
255, PSNR with a peak of 255, Nabf with its arguments in order, no stretching of the fused picture before it is scored
(Qcb and Qcv stretch all three by their definition).

0/0 is decided, not NaN: a correlation with a constant picture is 0; NMI and VIF of a constant source count as
identical when the fused picture is constant too and as nothing shared when it is not; a term without edges is 0.
PSNR of identical pictures is infinite. Below the size that a measure needs (VIF 41, SSIM 11, MS-SSIM 161, FMI 3 pixels
on the shorter side) it is NaN.
"""

from cmf.metrics.fusion_edges import edges_invented, edges_kept
from cmf.metrics.fusion_features import feature_information, gradient_information
from cmf.metrics.fusion_information import (
    average_gradient,
    correlation,
    cross_entropy,
    deviation,
    difference_correlation,
    entropy,
    mutual_information,
    normalised_mutual_information,
    peak_signal_to_noise,
    spatial_frequency,
)
from cmf.metrics.fusion_perception import contrast_kept, regions_apart
from cmf.metrics.fusion_structure import multiscale_similarity, structural_similarity, visual_information_fidelity
from cmf.metrics.fusion_triple import Measure, Triple

MEASURES: dict[str, Measure] = {function.measure.name: function.measure for function in (
    entropy, deviation, spatial_frequency, average_gradient, mutual_information, normalised_mutual_information,
    correlation, difference_correlation, visual_information_fidelity, edges_kept, edges_invented,
    structural_similarity, multiscale_similarity, peak_signal_to_noise, cross_entropy, contrast_kept, regions_apart,
    feature_information, gradient_information)}


def chosen(names=None) -> tuple[str, ...]:
    """Names of measures in the order given, each once; all of them for None. Raises ValueError on an unknown name."""
    names = tuple(MEASURES) if names is None else tuple(dict.fromkeys(names))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise ValueError(f"unknown measure {', '.join(map(repr, unknown)) or '(none named)'}; choose from "
                         f"{', '.join(MEASURES)}")
    return names


def evaluate(infrared, visible, fused, data_range=255, names=None) -> dict[str, float]:
    """All measures of one fused picture, or those named; what several need is computed once.

    Args:
        infrared, visible, fused: (H, W) of one shape, values in 0..data_range; which source is called infrared
            changes no measure.
        data_range: the value of white: 255 for 8 bit, 1 for floats in [0, 1].
        names: of MEASURES; None: all. Without "FMI" and "FMI_gradient" it takes half the time.

    Returns:
        The values by name; NaN where the picture is too small for a measure (see above), infinite PSNR of identical
        pictures.

    Raises:
        TypeError, ValueError: as `Triple`; an unknown name.

    Example:
        >>> import numpy as np
        >>> a = np.tile(np.arange(64.), (64, 1))
        >>> scores = evaluate(a, a.T, np.maximum(a, a.T), names=("SD", "SSIM"))
        >>> round(scores["SD"], 3)
        15.084
    """
    names = chosen(names)
    triple = Triple(infrared, visible, fused, data_range)
    return {name: MEASURES[name].of(triple) for name in names}
