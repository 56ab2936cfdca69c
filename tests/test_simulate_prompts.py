"""Prompts of the five families: disjoint splits, one order, refusals."""

import numpy as np
import pytest

from cmf.simulate import prompts


@pytest.mark.parametrize("family", prompts.FAMILIES)
def test_splits_are_disjoint_and_whole(family):
    parts = [prompts.prompts(family, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(prompts.sentences(family)) == len(set().union(*parts))
    assert all(len(part) >= 20 for part in parts)


def test_no_sentence_belongs_to_two_families():
    found = [s for family in prompts.FAMILIES for s in prompts.sentences(family)]
    assert len(found) == len(set(found))


def test_two_calls_give_one_order_and_a_seed_one_sentence():
    assert prompts.prompts("heat", "test") == prompts.prompts("heat", "test")
    assert prompts.draw("texture", np.random.default_rng(4)) == prompts.draw("texture", np.random.default_rng(4))


def test_every_word_is_made_of_letters():
    assert all(word.isalpha() for word in prompts.words())


def test_foreign_sentences_share_no_random_word_and_nothing_told_of_between_splits():
    made = {split: prompts.foreign(200, split, seed=1) for split in prompts.SPLITS}
    assert made["train"] == prompts.foreign(200, "train", seed=1) != prompts.foreign(200, "train", seed=2)
    random = {split: {word for k in (1, 2, 3) for said in found[k::4] for word in said.split()} - set(prompts._SMALL)
              for split, found in made.items()}
    told = {split: {part for part in prompts._THINGS if any(part in said for said in found)}
            for split, found in made.items()}
    for parts in (random, told):
        assert all(parts.values()) and sum(map(len, parts.values())) == len(set().union(*parts.values()))
    assert all(said.strip() == said and said for found in made.values() for said in found)
    asking = {said for family in prompts.FAMILIES for said in prompts.sentences(family)}
    assert not asking & {said for found in made.values() for said in found}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no family of prompts 'warm'; there are balanced, heat"):
        prompts.sentences("warm")
    with pytest.raises(ValueError, match="no split 'dev' of the prompts"):
        prompts.prompts("heat", "dev")
    with pytest.raises(ValueError, match="no split 'dev' of the prompts; there are train, validation, test"):
        prompts.foreign(3, "dev")
