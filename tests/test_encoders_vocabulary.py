"""The small encoders' tokenizer: words, letters, what it cannot write, and its file."""

import pytest
from small_transformers import WORDS

from cmf.encoders import vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.wrap(vocabulary.build(WORDS))


def test_known_words_are_one_token_and_come_back(tokenizer):
    text = "two red cars, a person."
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == vocabulary.CLS and ids[-1] == vocabulary.SEP and len(ids) == 5 + 2 + 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_other_words_are_letters_and_come_back_lower_case(tokenizer):
    ids = tokenizer("A Zebra at 7")["input_ids"]
    assert vocabulary.UNK not in ids and len(ids) == 2 + 1 + 5 + 1 + 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a zebra at 7"


def test_a_strange_character_is_unknown(tokenizer):
    assert tokenizer("a \u2603 person")["input_ids"][2] == vocabulary.UNK


def test_special_numbers_are_those_of_the_constants(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(vocabulary.SPECIAL)) == [0, 1, 2, 3, 4]
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (vocabulary.SEP, vocabulary.CLS)


def test_the_file_is_the_same_tokenizer_and_written_twice_the_same_bytes(tokenizer, tmp_path):
    one = vocabulary.save(tmp_path / "one.json", vocabulary.build(WORDS))
    two = vocabulary.save(tmp_path / "two.json", vocabulary.build(reversed(WORDS)))
    assert one.read_bytes() == two.read_bytes()
    read = vocabulary.load(one)
    assert vocabulary.sha256(read) == vocabulary.sha256(tokenizer)
    assert read("red zebra")["input_ids"] == tokenizer("red zebra")["input_ids"]
    assert vocabulary.sha256(vocabulary.wrap(vocabulary.build([*WORDS, "bus"]))) != vocabulary.sha256(tokenizer)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="expected some of the letters a to z"):
        vocabulary.build([])
    with pytest.raises(ValueError, match=r"words are \['Two words'\]"):
        vocabulary.build(["Two words", "red"])
    with pytest.raises(FileNotFoundError, match="no tokenizer at .* `make encoders`"):
        vocabulary.load(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        vocabulary.load(tmp_path / "torn.json")
