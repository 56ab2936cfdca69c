"""`make encoders` in small: weights, vocabulary, cards and scores are written together, and checked again."""

from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from cmf import runs
from cmf.simulate import street
from cmf.studies import twins, twins_data


@pytest.fixture
def any_precision():
    """One process keeps to one precision; other tests here train with another one."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def test_training_writes_weights_cards_and_scores_and_checks_them(any_precision, tmp_path, monkeypatch, capsys):
    """The three of real size, one pass over few pictures of noise: only the steps, not what is learnt."""
    def captioned(split, pictures, clips=0, seed=0):
        counts = [[k % 2, 1 - k % 2, *[0] * (len(street.KINDS) - 2)] for k in range(24)]
        facts = [dict(light=street.LIGHTS[k % 3], weather=street.WEATHERS[0], counts=counts[k]) for k in range(24)]
        captions = [[twins_data.plain(one)] * 2 for one in facts]
        noise = torch.Generator().manual_seed(seed)
        shape = (24, len(street.KINDS), 32, 32)
        return twins_data.Captioned(torch.randint(0, 256, (24, 128, 128, 3), dtype=torch.uint8, generator=noise),
                                    captions, torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise), facts)

    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    monkeypatch.setattr(twins, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(twins.measure, "__defaults__", (None, tmp_path / "trained"))
    (tmp_path / "trained").mkdir()
    monkeypatch.setattr(twins_data, "scenes", captioned)
    monkeypatch.setattr(twins_data, "onlooker", lambda split, clips, seed=0: ["a man walks past a red car"] * 4)
    monkeypatch.setattr(twins, "RECIPES", {k: replace(r, epochs=1, batch=12) for k, r in twins.RECIPES.items()})
    monkeypatch.setattr(twins, "FIRST", {k: v | dict(epochs=1) for k, v in twins.FIRST.items()})
    assert twins.main([]) == 0
    names = {path.name for path in (tmp_path / "trained").iterdir()}
    made = {f"{kind}_small.{end}" for kind in twins.KINDS for end in ("md", "safetensors")}
    assert names == made | {"vocabulary.json"}
    stated = runs.read_result("encoders", "demo")
    judged = stated[stated.score != "caption_counts"]  # of the kinds that are there and named, and it names none
    assert set(stated.encoder) == set(twins.KINDS) and judged.value.notna().all()
    card = (tmp_path / "trained" / "clip_small.md").read_text()
    assert "# clip_small.safetensors" in card and "| licence | MIT |" in card and "zero_shot_light" in card
    assert twins.main(["--check", "--only", "distilbert"]) == 0 and "perplexity_street" in capsys.readouterr().out
    runs.write_result("encoders", stated.assign(value=stated.value + 1e3), profile="demo")
    assert twins.main(["--check", "--only", "distilbert"]) == 1
    assert "a score lies outside its tolerance" in capsys.readouterr().out
