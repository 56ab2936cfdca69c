"""Weights on disk: safetensors that state their architecture, and refuse another one.

A file holds the tensors of a state dict and, as text, the name of the architecture, its configuration, any
further facts (data, scores, licence), and the sha256 of all that.
"""

import hashlib
import json
import os
from dataclasses import asdict, is_dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, uint8


def save(path: str | Path, model: nn.Module, config, **facts: str) -> Path:
    """Write the state dict of `model` aside, then rename.

    Args:
        path: file to write, usually *.safetensors.
        config: dataclass or dict of plain values from which the model was built.
        facts: further words to keep with the weights.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    plain = asdict(config) if is_dataclass(config) else dict(config)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    words = dict(architecture=type(model).__name__, config=json.dumps(plain, sort_keys=True), **facts)
    save_file(tensors, part, metadata=words | dict(sha256=_sha256(tensors, words)))
    os.replace(part, path)
    return path


def facts(path: str | Path) -> dict:
    """What a weights file says of itself: architecture, config (a dict) and further facts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file, or does not state its architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train them, or give the path of a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            found = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}); fetch or train it again") from error
    if "architecture" not in found or "config" not in found:
        raise ValueError(f"{path} does not state its architecture and config; write it with cmf.weights.save")
    found.pop("sha256", None)    # of the whole content, for `load`
    try:
        return found | dict(config=json.loads(found["config"]))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its config cannot be read ({error}); fetch or train it again") from error


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Fill `model` from `path`; nothing is loaded unless everything fits.

    Raises:
        FileNotFoundError, ValueError: as `facts`; also ValueError for another architecture, and for missing,
            unknown or differently shaped tensors, the first of them named with both shapes, or a content that does
            not have the sha256 that the file states.
    """
    stated, own = facts(path)["architecture"], type(model).__name__
    if stated != own:
        raise ValueError(f"{path} holds weights of {stated}, expected {own}; give weights of a {own}")
    with safe_open(Path(path), "pt") as file:
        tensors, words = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())
    if words.pop("sha256", None) not in (None, _sha256(tensors, words)):     # files from before it was stated have none
        raise ValueError(f"{path} is damaged: its content does not have the sha256 that it states; fetch or train it "
                         "again")
    expected = model.state_dict()
    for name in sorted(set(expected) | set(tensors)):
        there, here = (tuple(d[name].shape) if name in d else "absent" for d in (tensors, expected))
        if there != here:
            raise ValueError(f"{path} does not fit this {own}: {name} is {there} in the file and {here} in the "
                             "model; build the model from the file's own config")
    model.load_state_dict(tensors)
    return model.eval()


def _sha256(tensors: dict[str, Tensor], words: dict[str, str]) -> str:
    total = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(uint8).numpy())
    return total.hexdigest()
