"""The small encoders' training: targets, masks, crops, inheritance, scores with known answers, folders, cards."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small_transformers as small
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from cmf import catalogue, processes, runs, training
from cmf.encoders import frozen, vocabulary
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.simulate import street
from cmf.studies import twins, twins_cards, twins_data, twins_models, twins_scores


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def test_equal_captions_share_the_target():
    ids = torch.tensor([[3, 5, 4], [3, 6, 4], [3, 5, 4]])
    target = twins_models.shared_targets(ids)
    assert torch.allclose(target, torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]))


def test_contrastive_loss_is_that_of_transformers_where_no_caption_repeats():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    out = dict(image=unit(6, 8), text=unit(6, 8, seed=1), scale=torch.tensor(5.0), ids=torch.arange(6)[:, None])
    logits = 5.0 * out["text"] @ out["image"].T
    assert torch.isclose(twins_models.contrastive(out, {})["loss"], image_text_contrastive_loss(logits))


def test_a_repeated_caption_is_no_negative():
    image = unit(2, 8)[[0, 0]]  # the same picture and caption twice
    out = dict(image=image, text=image, scale=torch.tensor(100.0), ids=torch.tensor([[5], [5]]))
    loss = twins_models.contrastive(out, {})["loss"]
    assert torch.isclose(loss, torch.log(torch.tensor(2.0)))  # of the shared target itself: no gradient is left
    image = image.clone().requires_grad_()
    twins_models.contrastive(out | dict(image=image), {})["loss"].backward()
    assert image.grad.abs().max() < 1e-5


def test_masks_follow_the_seed_and_spare_special_tokens():
    ids = torch.randint(5, 90, (400, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -2], ids[:, -1] = vocabulary.CLS, vocabulary.SEP, vocabulary.PAD
    hidden, labels = twins_models.hide(ids, 90, 0.15, torch.Generator().manual_seed(1))
    again, _ = twins_models.hide(ids, 90, 0.15, torch.Generator().manual_seed(1))
    asked = labels != -100
    assert torch.equal(hidden, again) and torch.equal(hidden[~asked], ids[~asked])
    assert not asked[:, [0, -2, -1]].any() and asked.any(1).all() and torch.equal(labels[asked], ids[asked])
    share = asked[:, 1:-2].float().mean()
    assert 0.14 < share < 0.20  # a little more than 0.15: at least one a text
    masked = (hidden[asked] == vocabulary.MASK).float().mean()
    assert 0.65 < masked < 0.85


def test_crops_stay_inside_and_the_cover_follows():
    torch.manual_seed(0)
    pictures = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    pictures[:, 16:32, 32:48] = 255
    cover = torch.zeros(16, 1, 32, 32, dtype=torch.uint8)
    cover[:, 0, 8:16, 16:24] = 255
    x, moved = twins_models.vary(pictures, cover)
    white = (x.mean(1, keepdim=True) > 0.5).float()
    there = torch.nn.functional.interpolate((moved > 0.5).float(), (64, 64))
    overlap = (white * there).sum((1, 2, 3)) / torch.maximum(white, there).sum((1, 2, 3))
    assert x.shape == (16, 3, 64, 64) and overlap.min() > 0.75
    assert len({int(w.sum()) for w in white}) > 4  # they do differ


def test_one_caption_of_each_picture_is_picked():
    ids = torch.tensor([[[3, 5, 4, 0], [3, 6, 4, 0]], [[3, 7, 4, 0], [3, 8, 4, 0]]], dtype=torch.int16)
    torch.manual_seed(0)
    seen = torch.stack([twins_models.pick(ids) for _ in range(40)])
    assert seen.shape == (40, 2, 3) and seen.dtype == torch.long
    assert set(seen[:, 0, 1].tolist()) == {5, 6} and set(seen[:, 1, 1].tolist()) == {7, 8}


def test_blip_starts_from_what_clip_sees():
    torch.manual_seed(0)
    clip = twins_models.build("clip", 120).eval()
    blip = twins_models.build("blip", 120).eval()
    torch.nn.init.normal_(clip.vision_model.pre_layrnorm.weight, 1.0, 0.1)
    torch.nn.init.normal_(clip.vision_model.pre_layrnorm.bias, 0.0, 0.1)
    pictures = torch.randint(0, 256, (6, 128, 128, 3), dtype=torch.uint8)
    x = twins_models.normalised(pictures.permute(0, 3, 1, 2).float() / 255)

    def both():
        seen = clip.vision_model.post_layernorm(clip.vision_model(pixel_values=x).last_hidden_state)
        return seen, blip.vision_model(pixel_values=x).last_hidden_state

    with torch.no_grad():
        seen, before = both()
        twins_models.inherit(blip, clip, pictures)
        seen, after = both()
    error = lambda other: float((seen - other).abs().mean() / seen.abs().mean())
    assert error(before) > 0.5 and error(after) < 0.08


def test_positions_start_as_waves_that_tell_places_apart():
    code = twins_models.waves(8, 128)
    built = twins_models.build("clip", 120).vision_model.embeddings
    assert torch.allclose(built.position_embedding.weight[1:], 0.3 * code)
    distance = torch.cdist(code, code)
    near, far = distance[0, 1], distance[0, 63]
    assert code.shape == (64, 128) and 0 < near < far and (distance + torch.eye(64)).min() > 0.1
    filters = built.patch_embedding.weight.reshape(128, -1)
    assert torch.allclose(filters @ filters.T, torch.eye(128), atol=1e-4)


def test_without_texts_only_the_vision_tower_is_trained():
    clip = twins_models.build("clip", 120)
    torch.manual_seed(0)
    batch = dict(pictures=torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8),
                 cover=torch.randint(0, 256, (2, 8, 32, 32), dtype=torch.uint8))
    terms = twins_models.contrastive(twins_models.Contrast(clip, 8)(batch), batch)
    terms["loss"].backward()
    assert set(terms) == {"loss", "patches"} and terms["loss"] == terms["patches"]
    assert all(p.grad is None for p in clip.text_model.parameters())
    assert clip.vision_model.embeddings.patch_embedding.weight.grad.abs().max() > 0


def test_the_decoder_learns_alone_from_what_was_seen():
    blip = twins_models.build("blip", 120).eval()
    wrapped = twins_models.Captioner(blip)
    pictures = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    seen = wrapped.look(pictures, batch=2)
    x = twins_models.normalised(pictures.permute(0, 3, 1, 2).float() / 255)
    assert seen.shape == (3, 65, 128) and torch.allclose(
        seen.float(), blip.vision_model(pixel_values=x).last_hidden_state, atol=0.01)
    ids = torch.tensor([[[3, 7, 8, 4]]] * 3, dtype=torch.int16)
    loss = wrapped(dict(seen=seen, tokens=ids))["loss"]
    loss.backward()
    assert all(p.grad is None for p in blip.vision_model.parameters())
    expected = blip(pixel_values=x, input_ids=ids[:, 0].long(), labels=ids[:, 0].long()).loss
    assert torch.isclose(loss, expected, atol=1e-3)


def test_small_encoders_are_built_the_same_from_a_seed():
    one, two, other = (twins_models.build("distilbert", 120, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_few_steps_teach_each_of_them(tmp_path):
    """Four pictures of one colour with its name: a few epochs through the one loop, saved, read and asked."""
    colours = dict(red=(200, 20, 20), green=(20, 200, 20), blue=(20, 20, 200), white=(230, 230, 230))
    tokenizer = vocabulary.wrap(vocabulary.build(["a", "wall", *colours]))
    pictures = torch.tensor(list(colours.values()), dtype=torch.uint8)[:, None, None].expand(4, 32, 32, 3).contiguous()
    captions = [[f"a {name} wall"] for name in colours]
    table = training.Tensors(pictures=pictures, tokens=twins_models.tokens(tokenizer, captions))
    recipe = training.Recipe(epochs=60, batch=4, lr=3e-3, precision="no")

    def fresh(kind):
        config = small.config(kind)
        (getattr(config, "text_config", None) or config).vocab_size = len(tokenizer)
        torch.manual_seed(0)
        import transformers

        return getattr(transformers, kind.MODEL)(config)

    clip, blip = fresh(CLIP), fresh(BLIP)
    training.fit(twins_models.Contrast(clip), table, twins_models.contrastive, recipe)
    training.fit(twins_models.Captioner(blip), table, twins.given, replace(recipe, epochs=120, lr=6e-3))
    read = CLIP(CLIP.save(tmp_path / "clip.safetensors", clip, tokenizer, small.PICTURE))
    texts = [own[0] for own in captions]
    assert (read.images(pictures).pooled @ read.texts(texts).pooled.T).argmax(1).tolist() == [0, 1, 2, 3]
    read = BLIP(BLIP.save(tmp_path / "blip.safetensors", blip, tokenizer, small.PICTURE))
    assert read.captions(pictures) == texts
    bert = fresh(DistilBERT)
    rows = training.Tensors(tokens=twins_models.tokens(tokenizer, captions * 8)[:, 0])
    judged = lambda: twins_scores.perplexity(
        DistilBERT(DistilBERT.save(tmp_path / "bert.safetensors", bert, tokenizer)), texts * 9)
    before = judged()
    training.fit(twins_models.Masked(bert), rows, twins.given, recipe)
    assert judged() < min(0.3 * before, 8)


def test_retrieval_with_known_answers():
    images = torch.eye(4)
    captions = ["a", "b", "c", "d"]
    perfect = twins_scores.retrieval(images, torch.eye(4), captions, range(4))
    assert perfect["image_to_text_r1"] == perfect["text_to_image_r1"] == 1 and perfect["pictures"] == 4
    turned = torch.eye(4)[[1, 2, 3, 0]]  # caption k lies where picture k + 1 is
    assert twins_scores.retrieval(images, turned, captions, range(4))["image_to_text_r1"] == 0
    assert twins_scores.retrieval(images, turned, captions, range(4))["image_to_text_r5"] == 1  # of four
    same = twins_scores.retrieval(images, turned, ["a"] * 4, range(4))
    assert same["image_to_text_r1"] == same["text_to_image_r1"] == 1  # word for word the same is right
    two = twins_scores.retrieval(images[:2], torch.eye(4)[[0, 2, 1, 3]], captions, [0, 0, 1, 1], ks=(1,))
    assert two["image_to_text_r1"] == 1 and two["captions"] == 4


def test_retrieval_by_chance():
    n = 400
    found = twins_scores.retrieval(unit(n, 64), unit(n, 64, seed=1), [str(k) for k in range(n)], range(n), ks=(1, 40))
    assert abs(found["text_to_image_r40"] - 0.1) < 0.05 and found["image_to_text_r1"] < 0.02


def test_retrieval_refusals():
    with pytest.raises(ValueError, match="3 embeddings, 2 captions and 3 owners"):
        twins_scores.retrieval(unit(3, 4), unit(3, 4), ["a", "b"], range(3))
    with pytest.raises(ValueError, match="captions belong to 2 pictures, there are 3"):
        twins_scores.retrieval(unit(3, 4), unit(3, 4), ["a", "b", "c"], [0, 1, 1])


def test_area_under_curve_against_scikit_learn():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 9, 60), rng.random(60) < 0.4  # with ties
    assert np.isclose(twins_scores.area_under_curve(score, positive), roc_auc_score(positive, score))
    assert np.isnan(twins_scores.area_under_curve(score, np.ones(60, bool)))


def test_f1():
    assert twins_scores.f1(np.array([True, True, False]), np.array([True, False, True])) == 0.5


def test_cover_says_how_much_of_a_cell_is_of_a_kind():
    labels = np.zeros((1, 128, 160), np.uint8)
    labels[0, :4, :5] = 2  # the first cell is a car
    labels[0, 4:6, :5] = 1  # half the one below, a person
    found = twins_data.cover(labels)
    assert found.shape == (1, len(street.KINDS), 32, 32)
    assert found[0, 1, 0, 0] == 255 and found[0, 0, 1, 0] == 128 and int(found.sum()) == 255 + 128


def test_truthful_captions_score_perfectly():
    """The reader of captions agrees with the grammar that wrote them."""
    pairs = street.simulate_pairs(12, "test", 5, (128, 160), street.Dials(captions=2))
    data = twins_data.Captioned(torch.zeros(12, 8, 8, 3, dtype=torch.uint8), [list(c) for c in pairs.captions], None, [
        dict(light=street.LIGHTS[light], weather=street.WEATHERS[sky], counts=counts.tolist())
        for light, sky, counts in zip(pairs.truth["light"], pairs.truth["weather"], pairs.truth["counts"],
                                      strict=True)])

    class Truthful:
        def captions(self, pictures):
            return [own[1] for own in data.captions]

    rows = {r["score"]: r["value"] for r in twins_scores.of_blip(Truthful(), data)}
    assert rows == dict(caption_light=1.0, caption_weather=1.0, caption_kinds_f1=1.0, caption_counts=1.0)


def test_plain_sentences_say_all_facts():
    counts = [2, 1, 0, 0, 0, 0, 0, 3]
    text = twins_data.plain(dict(light="dusk", weather="clear", counts=counts))
    assert text == "two people, a car and three speed bumps on a street at dusk in clear weather."
    assert street.counts_in(text) == dict(person=2, car=1, bump=3)
    assert twins_data.plain(dict(light="day", weather="fog", counts=[0] * 8)).startswith("nothing moves on a street")


def test_scenes_are_rendered_once_and_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    one = twins_data._street_part("validation", 3, 0)
    two = twins_data._street_part("validation", 3, 0)
    assert np.array_equal(one["pictures"], two["pictures"]) and one["captions"] == two["captions"]
    assert one["pictures"].shape == (3, 128, 128, 3) and one["cover"].shape == (3, 8, 32, 32)
    assert len(one["captions"][0]) == 4 and set(one["facts"][0]) == {"light", "weather", "counts"}
    clips = twins_data._clip_part("validation", 1, 0)
    assert clips["pictures"].shape == (twins_data.FRAMES, 128, 128, 3) and len(clips["captions"][0]) == 4


def test_scenes_of_several_processes_come_in_order_and_from_the_cache_later(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(twins_data, "CHUNK", 1)
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 2)
    found = twins_data.scenes("validation", 2, seed=3)
    one, two = (twins_data._street_part("validation", 1, seed) for seed in (3000, 3001))
    assert np.array_equal(found.pictures.numpy(), np.concatenate([one["pictures"], two["pictures"]]))
    assert found.captions == one["captions"] + two["captions"] and found.facts == one["facts"] + two["facts"]
    monkeypatch.setattr(processes, "spread", lambda *_: pytest.fail("rendered again"))
    assert np.array_equal(twins_data.scenes("validation", 2, seed=3).pictures, found.pictures)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 30 + k, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
        rows += [dict(split="train" if k < 4 else "val", image=f"{k}.png", caption=f"picture {word} of a dog")
                 for word in ("one", "two")]
    pd.DataFrame(rows).to_csv(tmp_path / "captions.csv", index=False)
    return tmp_path


def test_a_folder_of_images(images):
    found = twins_data.folder(images)
    assert {k: len(v) for k, v in found.items()} == dict(train=4, val=2)
    assert found["val"].pictures.shape == (2, 128, 128, 3) and len(found["train"].captions[0]) == 2
    scores = twins.flickr_retrieval(images, epochs=1)
    assert scores["pictures"] == 2 and scores["captions"] == 4 and 0 <= scores["text_to_image_r1"] <= 1


def test_folders_that_are_refused(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="no captions.csv in"):
        twins_data.folder(tmp_path / "nowhere")
    table = pd.read_csv(images / "captions.csv")
    table.drop(columns="split").to_csv(images / "captions.csv", index=False)
    with pytest.raises(ValueError, match="has the splits train, expected train and another one"):
        twins.flickr_retrieval(images)
    (images / "images" / "3.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="3.png is no readable image"):
        twins_data.folder(images)
    (images / "images" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match="names 0.png, which is not in"):
        twins_data.folder(images)
    table.rename(columns=dict(caption="text")).to_csv(images / "captions.csv", index=False)
    with pytest.raises(ValueError, match="has columns split, image, text and 12 rows"):
        twins_data.folder(images)


def test_flickr8k_is_read():
    try:
        path = catalogue.find("flickr8k")
    except FileNotFoundError:
        pytest.skip("the 900 real pictures are not here; set CMF_DATA to a folder with flickr8k")
    found = twins_data.folder(path)
    assert {k: len(v) for k, v in found.items()} == dict(train=800, val=100)
    assert all(len(own) == 5 for own in found["val"].captions)


def test_committed_weights_are_whole():
    """They load, agree with their vocabulary, are small, and their cards carry the numbers of the table."""
    scores = runs.read_result("encoders", "demo")
    total = 0
    for name, kind in twins.KINDS.items():
        path = frozen.TRAINED / kind.SMALL
        encoder = kind("small")
        total += path.stat().st_size
        assert "small" in encoder.label
        assert len(encoder.tokenizer) == getattr(encoder.model.config, "text_config", encoder.model.config).vocab_size
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        for row in scores[scores.encoder == name].itertuples():
            assert f"| {row.score} | {row.value:.4g} | {row.tolerance:g} |" in card
    assert total < 15e6
    words = twins_data.known_words([])
    rows = encoder.tokenizer(words, add_special_tokens=False)["input_ids"]
    split = [word for word, ids in zip(words, rows, strict=True) if len(ids) > 1]
    assert len(split) < 0.03 * len(words), f"`make encoders` should learn {split}: words of the grammars are tokens"


def test_cards_and_comparison(tmp_path):
    path = small.write(tmp_path, CLIP).rename(tmp_path / "clip_small.safetensors")
    with pytest.raises(ValueError, match="no score of clip among those of blip"):
        twins_cards.write(path, pd.DataFrame([twins_scores.row("blip", "x", 1, 1, 1, 1)]))
    stated = pd.DataFrame([twins_scores.row("clip", score, 0.5, 0.1, 0.1, 9) for score in "ab"])
    found = stated.assign(value=[0.59, 0.39])
    assert twins_cards.compare(stated, found).within.tolist() == [True, False]
