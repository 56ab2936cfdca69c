"""Equations of the paper on experiments with CMI-Fusion: test_eq_<label> holds the equation labelled eq:<label>."""

import numpy as np
import pytest


def test_eq_cmi_response():
    pytest.importorskip("torch", reason="torch is not installed")
    from cmf.datasets.pictures import Picture
    from cmf.studies import fused

    draw = np.random.default_rng(0)
    scene, warm = draw.random((2, 8, 9)).astype(np.float32), draw.random((8, 9)) < 0.3
    made = {}

    class Answers:
        def fuse(self, visible, infrared, text):
            made.setdefault(text, draw.random((8, 9)))
            return Picture(made[text])

    several = fused.Several(["1"], ["day"], [Picture(scene[0])], [Picture(scene[1])], [warm], ["a car"])
    row = fused.respond(Answers(), several).iloc[0]
    assert row.compared == "heat against texture"
    f_a, m = made[row.sentence], warm.astype(float)
    others = [text for text in made if text not in (row.sentence, "", "a car", *fused.UNKNOWN)]
    f_b = made[others[0]]
    assert len(others) == 1
    assert row.inside == pytest.approx(255 * (m * (f_a - f_b)).mean() / m.mean())
    assert row.outside == pytest.approx(255 * ((1 - m) * abs(f_a - f_b)).mean() / (1 - m).mean())
