"""Redundancy and gain: information within classes and beside them, intervals, ranks, and what each method is asked."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cmf.studies import shared, trios
from cmf.training import Tensors

RNG = np.random.default_rng(0)


class Says(torch.nn.Module):
    """In place of a network: the same logits whatever it is shown, or those of a function of the batch."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.here = logits, torch.nn.Parameter(torch.zeros(()))    # says on which device it is

    def forward(self, batch):
        return dict(logits=self.logits(batch) if callable(self.logits) else self.logits)


def seen(shared_errors=0.0, n=600):
    """Two scores of two classes whose errors have a part in common; the fused one adds them."""
    rng = np.random.default_rng(1)
    label, common = np.arange(n) % 2, shared_errors * rng.normal(size=n)
    one, other = (label + common + rng.normal(size=n) for _ in "ab")
    right = [(x > cut) == label for x, cut in ((one + other, 1.0), (one, 0.5), (other, 0.5))]
    return shared.Seen(one[:, None], other[:, None], label, np.arange(n) // 3,
                       lambda units: np.array([r.reshape(-1, 3)[units].mean() for r in right]))


def test_what_modalities_share_is_the_class_or_the_errors():
    alike, apart = seen(2.0), seen(0.0)
    plain = [shared.information(x.one, x.other) for x in (alike, apart)]
    given = [shared.within(x.one, x.other, x.label) for x in (alike, apart)]
    assert plain[0] > plain[1] > 0.01 and given[0] > 0.3 and given[1] < 0.02
    two = np.hstack([alike.one, apart.one]), np.hstack([alike.other, apart.other])
    assert shared.information(*two) == pytest.approx(np.mean(plain))
    with pytest.raises(ValueError, match="the largest class has 12 things, expected 40 or more"):
        shared.within(alike.one[:12], alike.other[:12], np.zeros(12))


def test_jackknife_leaves_units_out_whole():
    x = np.random.default_rng(2).normal(5, 1, 400)
    whole, low, high = shared.jackknife(lambda rows: x[rows].mean(), np.arange(400))
    assert whole == pytest.approx(x.mean()) and (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.5)
    twice = shared.jackknife(lambda rows: x[rows // 2].mean(), np.repeat(np.arange(400), 2))
    assert np.allclose(twice, (whole, low, high)), "copies of a thing are not new things"
    assert shared.jackknife(lambda rows: 0.01 * x[rows].std() - 0.01, np.arange(400))[1] == 0.0


def test_a_setting_has_gain_and_redundancy():
    alike, apart = (shared.measured(seen(error), resamples=50) for error in (2.0, 0.0))
    assert apart["gain"] == pytest.approx(apart["fused"] - max(apart["one"], apart["other"])) and apart["n"] == 600
    assert apart["gain"] > alike["gain"] and apart["given"] < 0.02 < alike["given"]
    for name in ("gain", "plain", "given"):
        assert alike[f"{name}_low"] <= alike[name] <= alike[f"{name}_high"]
    assert alike["chance"] < 0.03, "with other partners nothing is shared within a class"


def test_ranks_say_whether_redundancy_orders_the_gains():
    table = pd.DataFrame([dict(method="A", gain=-k, plain=k**2, given=1.0) for k in range(8)]
                         + [dict(method="B", gain=k % 3, plain=k % 3, given=RNG.normal()) for k in range(8)])
    found = shared.ranks(table, resamples=400).set_index(["method", "predictor"])
    assert found.rho["A", "plain"] == pytest.approx(-1) and found.rho["A", "given"] == 0
    assert found.rho["B", "plain"] == pytest.approx(1) and found.settings.eq(8).all()
    assert found.p["A", "plain"] < 0.02 and found.p["A", "given"] == 1 and (found.p_holm >= found.p).all()
    assert (found.low <= found.rho).all() and (found.rho <= found.high + 1e-12).all()


def test_every_setting_has_a_row(monkeypatch):
    asked = []
    monkeypatch.setattr(shared, "METHODS", {"CMFS": lambda **dials: asked.append(dials) or seen()})
    monkeypatch.setattr(shared, "SETTINGS", {"CMFS": dict(light=("day", "night"), crowd=(0.5,))})
    monkeypatch.setattr(shared, "measured", lambda one: dict(gain=1.0))
    table = shared.table(("CMFS",))
    assert table.values.tolist() == [["CMFS", "day, crowd 0.5", 1.0], ["CMFS", "night, crowd 0.5", 1.0]]
    assert asked == [dict(light="day", crowd=0.5), dict(light="night", crowd=0.5)]


def test_targets_are_judged_by_class(monkeypatch):
    label = torch.arange(300) % 6
    right = lambda share: torch.nn.functional.one_hot(torch.where(torch.rand(300) < share, label, 0), 6).float() * 3
    torch.manual_seed(0)
    logits = [right(share) + 0.1 * torch.randn(300, 6) for share in (1.0, 0.6, 0.3)]
    monkeypatch.setattr(trios, "targets", lambda **dials: dict(test=Tensors(labels=label)))
    monkeypatch.setattr(trios, "sacmf", lambda sets: dict(zip(
        ("SA-CMF", *trios.ALONE["SA-CMF"]), map(Says, logits), strict=True)))
    found = shared.sacmf()
    fused, one, other = found.measure(np.arange(300))
    assert fused == 1 and one > other and found.one.shape == (300, 6) and np.isfinite(found.other).all()


def test_segments_are_judged_by_clip(monkeypatch):
    here = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    up = (torch.arange(5) % 2).expand(3, 5).float() * here
    monkeypatch.setattr(trios, "clips", lambda **dials: SimpleNamespace(
        table=Tensors(segments=here, frame_labels=up)))
    monkeypatch.setattr(trios, "cmaf", lambda: dict(zip(
        ("CMAF", *trios.ALONE["CMAF"]), map(Says, (up, -up, torch.rand(3, 5))), strict=True)))
    found = shared.cmaf()
    assert found.unit.tolist() == [0] * 5 + [1] * 3 + [2] * 4 and found.one.shape == (12, 1)
    assert found.measure(np.array([0, 0, 2]))[:2].tolist() == [1.0, 0.0]


@pytest.fixture
def pictures():
    label = torch.zeros(3, 32, 48, dtype=torch.uint8)
    label[:, 8:16, 16:40] = 3
    grey = torch.from_numpy(np.random.default_rng(3).integers(0, 255, (3, 4, 32, 48), dtype=np.uint8))
    return dict(visible=grey[:, :3], infrared=grey[:, 3:], label=label)


def test_pixels_are_judged_by_picture(monkeypatch, pictures):
    truth = torch.nn.functional.one_hot(pictures["label"].long(), 9).permute(0, 3, 1, 2).float()
    known = {float(v.float().sum()): t for v, t in zip(pictures["visible"], truth, strict=True)}
    right = Says(lambda batch: torch.stack([known[float((v * 255).round().sum())] for v in batch["visible"]]))
    wrong = Says(lambda batch: torch.rand(len(batch["visible"]), 9, 32, 48))
    monkeypatch.setattr(trios, "scenes", lambda **dials: pictures)
    monkeypatch.setattr(trios, "cmfs", lambda: dict(zip(("CMFS", *trios.ALONE["CMFS"]), (right, wrong, right),
                                                        strict=True)))
    found = shared.cmfs(light="day", weather="clear")
    assert found.one.shape == (3 * shared.EACH, 1) and np.bincount(found.unit).tolist() == [shared.EACH] * 3
    assert found.measure(np.arange(3))[[0, 2]].tolist() == [1.0, 1.0] and found.measure(np.arange(3))[1] < 0.3
    assert (found.other[found.label == 1] > found.other[found.label == 0].max()).all()


def test_blocks_have_edges_of_both_sources(monkeypatch, pictures):
    pictures["infrared"][:, :, :, :24] = 90                                  # flat on the left
    fuser = SimpleNamespace(fuse=lambda v, u: SimpleNamespace(luma=np.maximum(v, u)))
    monkeypatch.setattr(trios, "scenes", lambda **dials: pictures)
    monkeypatch.setattr(trios, "fuser", lambda: fuser)
    found = shared.cmi_fusion(light="day", weather="clear")
    assert found.one.shape == (3 * 24, 1) and set(found.label) == {0, 1} and (found.other == 0).mean() > 0.2
    fused, one, other = found.measure(np.arange(3))
    assert fused > max(one, other) and min(one, other) > 0, "a copy has nothing of the other source"
