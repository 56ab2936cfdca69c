"""The tokenizer of the small encoders: lower case, whole words of the captions, letters for every other word.

It is a WordPiece tokenizer of the `tokenizers` library, written down as one JSON file. A word of the captions is one
token; another word falls apart into letters; a character that is no letter, digit or common mark becomes [UNK].
"""

import hashlib
import json
import os
import re
import string
from collections.abc import Iterable
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")  # their places are their numbers; CLIP gives eos 2 a meaning
PAD, UNK, MASK, CLS, SEP = range(5)
MARKS = ".,;:!?'\"-()/&%"
FILE = "vocabulary.json"


def words(captions: Iterable[str]) -> list[str]:
    """The words of `captions` in lower case, sorted, each once.

    >>> words(["A red car.", "a person by a car"])
    ['a', 'by', 'car', 'person', 'red']
    """
    return sorted({word for text in captions for word in re.findall(r"[a-z]+", text.lower())})


def build(known: Iterable[str]):
    """A `tokenizers.Tokenizer` in which each word of `known` is one token.

    Args:
        known: words of lower-case letters a to z; order and repetition do not matter.

    Raises:
        ValueError: no words, or a word with other characters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    known = sorted(set(known))
    wrong = [word for word in known if not re.fullmatch(r"[a-z]+", word)]
    if wrong or not known:
        raise ValueError(f"words are {wrong[:3] if wrong else 'none'}, expected some of the letters a to z each; "
                         "take them from captions with cmf.encoders.vocabulary.words")
    letters = string.ascii_lowercase + string.digits
    pieces = [*SPECIAL, *MARKS, *letters, *(f"##{c}" for c in letters), *(w for w in known if len(w) > 1)]
    numbers = {piece: k for k, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=40))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def save(path: str | Path, tokenizer) -> Path:
    """Write a tokenizer of `build` as one JSON file, aside and then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def load(path: str | Path):
    """The tokenizer in a file of `save`, as transformers takes it (PreTrainedTokenizerFast).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}; it lies beside the weights as {FILE} and is written by "
                                "`make encoders`")
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} holds no tokenizer ({error}); write it with cmf.encoders.vocabulary.save") from error
    return wrap(found)


def wrap(tokenizer):
    """A tokenizer of `build` as transformers takes it (PreTrainedTokenizerFast)."""
    from transformers import PreTrainedTokenizerFast

    pad, unknown, mask, start, end = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, mask_token=mask,
                                   cls_token=start, sep_token=end, bos_token=start, eos_token=end,
                                   clean_up_tokenization_spaces=True)


def sha256(tokenizer) -> str:
    """Hash (hex) of a tokenizer of transformers: every piece with its number."""
    pieces = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()
