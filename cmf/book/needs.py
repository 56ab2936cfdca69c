"""What a profile needs beside the code, and what of it is not here: variables, data sets and weights, a GPU."""

import os
from collections.abc import Mapping, Sequence

from cmf import catalogue


def lack(word: str, profile: str) -> str | None:
    """Why a need is not met, with what mends it; None where it is met.

    word: the name of an environment variable in capitals; "gpu"; or a data set or weights of the catalogue.

    Raises:
        ValueError: a word that is none of these.
    """
    if word == "gpu":
        return None if _gpu() else "no GPU that torch can use is here; run this where `python -m cmf doctor` lists one"
    if word == word.upper():
        return None if os.environ.get(word) else (
            f"the environment variable {word} is not set; set it, for instance: make figures PROFILE={profile} "
            f"{word}=/path/to/data")
    try:
        catalogue.find(word)
    except FileNotFoundError as reason:
        return str(reason)
    return None


def check(profile: str, needs: Mapping[str, Sequence[str]]) -> None:
    """See that all needs of some notebooks are met, by notebook.

    Raises:
        ValueError: a word that names nothing, or needs that are not met: all of them in one message, each with the
            notebooks that have it and what mends it.
    """
    asking: dict[str, list[str]] = {}
    for book, words in needs.items():
        for word in words:
            asking.setdefault(word, []).append(book)
    lacks = {word: lack(word, profile) for word in asking}
    lines = [f"  {', '.join(asking[word])}: {why}" for word, why in lacks.items() if why]
    if lines:
        raise ValueError(f"profile {profile} lacks {len(lines)} of what it needs; nothing has been run. `ONLY` chooses "
                         "notebooks\n" + "\n".join(lines))


def _gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
