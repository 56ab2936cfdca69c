"""DistilBERT: token states, mean over words, padding."""

import pytest
import small_transformers as small
import torch

from cmf.encoders.distilbert import DistilBERT

TEXTS = ["a person", "two red cars on a wet street at night", ""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return DistilBERT(small.write(tmp_path_factory.mktemp("bert"), DistilBERT), precision="float32", device="cpu",
                      batch=2)


def test_texts_do_not_depend_on_padding(bert):
    out = bert.texts(TEXTS)
    assert out.tokens.shape == (3, 11, 16) and out.pooled.shape == (3, 16)
    for k, text in enumerate(TEXTS):
        alone = bert.texts([text])
        length = alone.ids.shape[1]
        assert torch.allclose(out.tokens[k, :length], alone.tokens[0], atol=1e-5)
        assert torch.allclose(out.pooled[k], alone.pooled[0], atol=1e-5)
        assert not out.tokens[k, length:].any()


def test_the_mean_leaves_special_tokens_out(bert):
    out = bert.texts(TEXTS)
    assert torch.allclose(out.pooled[0], out.tokens[0, 1:3].mean(0), atol=1e-6)
    assert torch.allclose(out.pooled[2], out.tokens[2, :2].mean(0), atol=1e-6)  # an empty text has no other


def test_agrees_with_transformers(bert):
    import transformers

    ids = bert.texts(["a wet street"]).ids
    made = small.model(DistilBERT).half().float()
    assert isinstance(bert.model.distilbert, transformers.DistilBertModel)
    assert torch.allclose(made.distilbert(input_ids=ids).last_hidden_state, bert.texts(["a wet street"]).tokens,
                          atol=1e-5)


def test_long_texts_are_cut_with_a_warning(bert):
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than 48 tokens"):
        assert bert.texts(["a red car " * 20]).ids.shape == (1, 48)


def test_no_texts_are_refused(bert):
    with pytest.raises(ValueError, match="expected a list of strings"):
        bert.texts([])
