"""What the frozen transformers share: where weights lie, what must agree, batches, pictures, fingerprint.

Axes: n pictures or texts, L tokens, D channels, H height, W width.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf import catalogue, weights
from cmf.encoders import vocabulary

TRAINED = Path(__file__).parents[1] / "trained"  # the project's own small weights
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of CLIP and BLIP


@dataclass(frozen=True)
class Encoded:
    """What an encoder says about n pictures or texts; on the CPU, float32."""

    tokens: Tensor           # (n, L, D) last hidden states
    mask: Tensor             # (n, L) bool: the token exists, it is no padding
    special: Tensor          # (n, L) bool: class, start and end tokens
    pooled: Tensor           # (n, D') one vector each
    ids: Tensor | None = None  # (n, L) long: numbers of the text tokens

    @property
    def ordinary(self) -> Tensor:
        """(n, L) bool: patches or word pieces, neither padding nor special."""
        return self.mask & ~self.special


def pixels(pictures, side: int, fit: str = "squeeze") -> Tensor:
    """Pictures as normalised floats (n, 3, side, side), resized bicubically with antialiasing.

    Args:
        pictures: uint8 (n, H, W, 3), or a list of uint8 (H, W, 3) of any sizes; arrays or tensors.
        side: pixels of the square result.
        fit: "squeeze" the whole picture into the square, or "crop": shorter side to `side`, then the centre.

    Raises:
        ValueError: another shape, another type of numbers, no picture or an empty one.
    """
    if isinstance(pictures, list | tuple):
        if len(pictures) and len({np.shape(p) for p in pictures}) == 1:
            pictures = torch.stack([torch.as_tensor(p) for p in pictures])
        elif len(pictures):
            return torch.cat([pixels(torch.as_tensor(p)[None], side, fit) for p in pictures])
    x = torch.as_tensor(np.asarray(pictures) if isinstance(pictures, list | tuple) else pictures).cpu()
    if x.ndim != 4 or x.shape[-1] != 3 or x.dtype != torch.uint8 or 0 in x.shape:
        raise ValueError(f"pictures have shape {tuple(x.shape)} of {x.dtype}, expected uint8 (n, H, W, 3) with at "
                         "least one picture, or a list of (H, W, 3); stack a grey picture three times")
    x = x.permute(0, 3, 1, 2)  # (n, 3, H, W)
    h, w = x.shape[2:]
    size = (side, side)
    if fit == "crop":
        size = (side, int(side * w / h)) if h <= w else (int(side * h / w), side)
    if (h, w) != size:
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    x = x[:, :, top:top + side, left:left + side].float() / 255
    return (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]


class Frozen(nn.Module):
    """A transformer of others' making, frozen and always in evaluation mode.

    Args:
        weights: "small": the project's own, trained on generated scenes (`make encoders`);
            a name on the Hugging Face hub ("owner/name"), taken from CMF_DATA, the cache folder or the hub;
            a folder with config.json, tokenizer files and model.safetensors;
            a .safetensors file of this class's `save`, with vocabulary.json beside it.
        device: "cpu", "cuda", ...; default a GPU where there is one.
        precision: "float32", "bf16" (mixed), or "auto": bf16 on a GPU that has it.
        batch: pictures or texts at a time.
        activation: the one the weights were trained with; default that of the published weights.

    Raises:
        FileNotFoundError: the weights are not here and could not be fetched.
        ValueError: weights of another architecture, activation, vocabulary or shape.
    """

    MODEL = CONFIG = HUB = ACTIVATION = SMALL = ""  # classes of transformers; published name; own file
    OPTIONAL: tuple[str, ...] = ()  # tensors that published weights may lack

    def __init__(self, weights: str | Path = "small", *, device=None, precision: str = "auto", batch: int = 64,
                 activation: str | None = None):
        super().__init__()
        if precision not in ("auto", "float32", "bf16"):
            raise ValueError(f"precision is {precision!r}, expected 'auto', 'float32' or 'bf16'")
        self.source, self.batch = str(weights), batch
        self.wanted = activation or self.ACTIVATION
        path = TRAINED / self.SMALL if weights == "small" else Path(weights)
        if path.suffix == ".safetensors":
            self.model, self.tokenizer, self.picture = self._own(path)
        else:
            self.model, self.tokenizer, self.picture = self._published(str(weights))
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        native = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.mixed = precision == "bf16" or (precision == "auto" and native)
        self.requires_grad_(False).to(device).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode whatever `mode` says: the encoder is frozen."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def label(self) -> str:
        """What to print beside results made with these weights."""
        return f"{type(self).__name__}, " + ("small, trained on generated scenes" if self.source == "small"
                                             else self.source)

    def fingerprint(self) -> str:
        """sha256 (hex) of weights, configuration, tokenizer and precision."""
        plain = self.model.config.to_diff_dict()
        for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures"):
            plain.pop(volatile, None)
        h = hashlib.sha256(json.dumps([self.MODEL, plain, self.picture, self.mixed], sort_keys=True,
                                      default=str).encode())
        h.update(vocabulary.sha256(self.tokenizer).encode())
        for name, value in sorted(self.model.state_dict().items()):
            h.update(name.encode())
            h.update(value.detach().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()

    def strings(self, encoded: Encoded) -> list[list[str]]:
        """The tokens of encoded texts as strings, padding left out."""
        rows = zip(encoded.ids, encoded.mask, strict=True)
        return [self.tokenizer.convert_ids_to_tokens(ids[mask].tolist()) for ids, mask in rows]

    @classmethod
    def save(cls, path: str | Path, model: nn.Module, tokenizer, picture: dict | None = None, **facts: str) -> Path:
        """Write a model of class `MODEL` in float16 with what a reader must know; `vocabulary.json` goes beside it.

        Args:
            path: *.safetensors.
            tokenizer: of cmf.encoders.vocabulary.
            picture: how pictures are prepared: dict(side=pixels, fit="squeeze" or "crop").
            facts: further words to keep with the weights.
        """
        path = Path(path)
        vocabulary.save(path.with_name(vocabulary.FILE), tokenizer.backend_tokenizer)
        config = dict(model=_plain(model.config), picture=picture or {})
        return weights.save(path, _half(model), config, activation=_activation(model.config),
                            vocabulary=vocabulary.sha256(tokenizer), **facts)

    def _own(self, path: Path):
        import transformers

        if not path.is_file():
            raise FileNotFoundError(f"no weights at {path}; run `make encoders`, which trains the small ones, or give "
                                    f"a hub name such as {self.HUB!r}")
        facts = weights.facts(path)
        if facts["architecture"] != self.MODEL:
            raise ValueError(f"{path} holds weights of {facts['architecture']}, expected {self.MODEL}")
        config = getattr(transformers, self.CONFIG)(**facts["config"]["model"])
        built, stated = _activation(config), facts.get("activation")
        if not built == stated == self.wanted:
            raise ValueError(f"{path} was trained with activation {stated}, its configuration builds {built} and "
                             f"{self.wanted} is expected; the outputs would silently differ, so give weights trained "
                             f"with {self.wanted} or say activation={stated!r}")
        tokenizer = vocabulary.load(path.with_name(vocabulary.FILE))
        found = vocabulary.sha256(tokenizer)
        if found != facts.get("vocabulary"):
            raise ValueError(f"{path} was trained with the vocabulary {str(facts.get('vocabulary'))[:12]}, but "
                             f"{vocabulary.FILE} beside it is {found[:12]}; words would take others' meanings, put "
                             "the right file there")
        model = weights.load(path, getattr(transformers, self.MODEL)(config))
        return model, tokenizer, facts["config"]["picture"]

    def _published(self, name: str):
        import transformers

        folder = Path(name)
        if not folder.is_dir():
            folder = self._fetch(name)
        config, tokenizer = self._describe(folder)
        try:
            model, loading = getattr(transformers, self.MODEL).from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32,
                ignore_mismatched_sizes=True, local_files_only=True)  # refused below, with its name
        except OSError as error:
            raise FileNotFoundError(f"{folder} has no complete model.safetensors ({_first(error)}); fetch it again, "
                                    "or use weights='small'") from error
        wrong = sorted([k for k in loading["missing_keys"] if not k.startswith(self.OPTIONAL)]
                       + [f"{k} {tuple(there)}, expected {tuple(here)}" for k, there, here in
                          loading["mismatched_keys"]])
        if wrong:
            raise ValueError(f"{folder} does not fit {self.MODEL}: {len(wrong)} tensors are missing or of another "
                             f"shape, first {wrong[0]}; give the files of {self.HUB}")
        return model, tokenizer, self._geometry(config)

    def _describe(self, folder: Path):
        """Configuration and tokenizer of a folder, or ValueError when they are not of this class or do not agree."""
        import transformers

        try:
            stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{folder} has no readable config.json ({_first(error)}); give the whole folder "
                                    f"of {self.HUB}, or use weights='small'") from error
        kind = getattr(transformers, self.CONFIG).model_type
        if stated.get("model_type") != kind:
            raise ValueError(f"{folder} holds a model of type {stated.get('model_type')!r}, expected {kind!r}")
        config = getattr(transformers, self.CONFIG).from_pretrained(folder)
        if _activation(config) != self.wanted:
            raise ValueError(f"{folder} is configured with activation {_activation(config)}, expected {self.wanted}; "
                             "if its weights were trained so, say activation=" + repr(_activation(config)))
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
            raise FileNotFoundError(f"{folder} has no tokenizer files (tokenizer.json, vocab.txt or vocab.json); fetch "
                                    "it again, or use weights='small'")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        text = getattr(config, "text_config", config)
        if len(tokenizer) > text.vocab_size or not self._agrees(tokenizer, text):
            raise ValueError(f"{folder}: a tokenizer of {len(tokenizer)} pieces does not belong to a model of "
                             f"{text.vocab_size}; give the tokenizer files the weights were trained with")
        return config, tokenizer

    def _agrees(self, tokenizer, text) -> bool:
        """Do the special tokens have the numbers that the configuration states?"""
        return tokenizer.pad_token_id == text.pad_token_id

    def _geometry(self, config) -> dict:
        """How the published weights take their pictures."""
        return {}

    def _fetch(self, name: str) -> Path:
        """Folder of a hub name: from CMF_DATA or the cache folder, else through the hub's own cache."""
        try:
            return catalogue.find(name.rpartition("/")[2])
        except (FileNotFoundError, ValueError) as error:
            here = error
        try:
            if name.startswith((".", "/", "~")) or name.count("/") > 1:
                raise OSError("it is no name on the hub and no folder")
            return Path(download(name))
        except Exception as error:  # no network, no such name, no permission: many kinds
            known = f"; {here}" if isinstance(here, FileNotFoundError) else ""
            raise FileNotFoundError(
                f"weights {name!r} are not here and could not be fetched ({_first(error)}){known}. Give a folder with "
                "config.json, tokenizer files and model.safetensors, or use weights='small', the project's own"
            ) from error

    def _batches(self, items, label: str, progress=None):
        """Slices of `items`, `batch` at a time, with a bar after 3 seconds."""
        from tqdm import tqdm

        starts = range(0, len(items), self.batch)
        bar = progress(starts, label) if progress else tqdm(starts, desc=label, delay=3, leave=False)
        return (items[s:s + self.batch] for s in bar)

    def _cast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed)

    def _tokenize(self, texts: Sequence[str], limit: int):
        """Numbers (n, L), mask and special tokens (n, L) bool, padded to the longest text.

        Warns when a text is longer than `limit` tokens: the rest is not read.
        """
        if isinstance(texts, str) or not len(texts) or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"texts are {type(texts).__name__} {str(texts)[:40]!r}, expected a list of strings with "
                             "at least one")
        rows = self.tokenizer(list(texts), add_special_tokens=True)["input_ids"]
        long = sum(len(row) > limit for row in rows)
        if long:
            warnings.warn(f"{long} of {len(rows)} texts are longer than {limit} tokens and are cut there", stacklevel=3)
        cut = [row if len(row) <= limit else [*row[:limit - 1], row[-1]] for row in rows]
        ids = torch.full((len(cut), max(map(len, cut))), self.tokenizer.pad_token_id or 0)  # (n, L)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for k, row in enumerate(cut):
            ids[k, :len(row)] = torch.tensor(row)
            mask[k, :len(row)] = True
        special = torch.zeros_like(mask)
        special[:, 0] = True
        special[torch.arange(len(cut)), mask.sum(1) - 1] = True  # start and end
        return ids, mask, special


def download(name: str) -> str:
    """Folder of the files of `name` in the hub's cache; fetched when they are not there."""
    from huggingface_hub import snapshot_download

    patterns = ["config.json", "generation_config.json", "model.safetensors", "*token*", "vocab*", "merges.txt"]
    return snapshot_download(name, allow_patterns=patterns)


def _first(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _activation(config) -> str:
    """The activation of a configuration; both of a two-tower model's when they differ."""
    towers = [getattr(config, key) for key in ("vision_config", "text_config") if hasattr(config, key)] or [config]
    return "/".join(sorted({getattr(c, "hidden_act", None) or c.activation for c in towers}))


def _plain(config) -> dict:
    """The part of a configuration from which the same model is built."""
    plain = config.to_diff_dict()
    for part in (plain, *(v for v in plain.values() if isinstance(v, dict))):
        for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures"):
            part.pop(volatile, None)
    return plain


def _half(model: nn.Module) -> nn.Module:
    """A copy in float16 whose tied tensors are separate, as a file needs them."""
    import copy

    model, seen = copy.deepcopy(model).half(), set()
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if value.data_ptr() in seen:
                setattr(module, name, nn.Parameter(value.detach().clone()))
            seen.add(value.data_ptr())
    return model
