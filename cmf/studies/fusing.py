"""Two pictures and a sentence to one picture: CMI-Fusion's weights, the words, pictures of any size, and colour.

A picture that would need too much memory is fused in tiles that overlap. All of them rest on what the network takes
from a reduced copy of the whole picture, so that they see one scene; over the middle of an overlap one tile's share
falls and the next one's rises as half a raised cosine, and the outermost pixels of a tile, to which its edge reaches,
count nothing.

Axes: H, W rows and columns, L text tokens, D text width.
"""

import math
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cmf import weights
from cmf.datasets.pictures import Picture, luma_chroma
from cmf.encoders.clip import CLIP
from cmf.methods.cmi_fusion import MULTIPLE, CMIFusion, Shape

TRAINED = Path(__file__).resolve().parents[1] / "trained" / "cmi_fusion.safetensors"
MARGIN, RAMP = 48, 32  # pixels at a tile's edge that count for nothing, and that it shares with its neighbour
OVERLAP = 2 * MARGIN + RAMP
TILE = 768**2         # pixels of a tile, at most: larger ones take longer a pixel, smaller ones overlap more
BYTES = 1000          # of memory that the network needs a pixel, beside its weights (measured, with 80 words)
MEMORY = 2 << 30      # bytes: default limit of what the network needs at a time
COLOURED = 0.05       # chroma of colours that one sees; what JPEG adds to grey pictures stays below


@dataclass(frozen=True)
class Fused:
    """A fused picture, to be written with `cmf.datasets.pictures.write(path, f.luma, f.chroma, f.bits, f.alpha)`."""

    luma: np.ndarray             # (H, W) float32 in [0, 1]
    chroma: np.ndarray | None    # (H, W, 2) float32 Cb, Cr in [-.5, .5]; None: grey
    alpha: np.ndarray | None     # (H, W) float32, of the visible picture
    weight: np.ndarray           # (H, W) float32 in [0, 1]: share of the visible picture
    bits: int                    # 8, or 16 when one of the pictures has more than 8


class Fuser:
    """A network, the text encoder it was trained with, and the sentences it has read.

    Args:
        network: CMIFusion, or any module of the same forward.
        encoder: its text encoder, a `cmf.encoders.clip.CLIP`.
        device: "cpu", "cuda", ...; default a GPU where there is one. Sentences are read where the encoder is.
        facts: what the weights file says of itself. path: of that file.

    Raises:
        ValueError: a device that torch does not know or cannot use here.

    >>> fuser = Fuser.load()
    >>> fuser.fuse(visible, infrared, "highlight the warm people").luma.shape == visible.shape
    True
    """

    def __init__(self, network: torch.nn.Module, encoder, device=None, facts: dict | None = None,
                 path: Path | None = None):
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.network = network.eval().requires_grad_(False).to(self.device)
        except (RuntimeError, AssertionError) as reason:   # torch's, of unknown and of absent devices
            raise ValueError(f"device {str(device)!r} cannot be used here ({str(reason).splitlines()[0][:100]}); say "
                             "cpu, or cuda where there is a GPU") from reason
        self.encoder, self.facts, self.path = encoder, dict(facts or {}), path
        self._read: dict[str, dict] = {}

    @classmethod
    def load(cls, path: Path | str = TRAINED, device=None, encoder=None) -> "Fuser":
        """Read trained weights.

        Args:
            path: written by `cmf.weights.save` with the network's shape as config and the fact text_encoder.
            device: see `Fuser`.
            encoder: default CLIP with the project's small weights, on the CPU.

        Raises:
            FileNotFoundError: no weights there.
            ValueError: weights of another architecture, of a shape that cannot be built, or trained with another
                text encoder.
        """
        facts = weights.facts(path)
        if facts["architecture"] != CMIFusion.__name__:
            raise ValueError(f"{path} holds weights of {facts['architecture']}, expected {CMIFusion.__name__}; give "
                             "weights of a CMIFusion")
        try:
            network = CMIFusion(Shape(**facts["config"]))
        except (TypeError, ValueError, AttributeError) as reason:
            raise ValueError(f"{path} states a shape that cannot be built here ({reason}); train it again with this "
                             "version") from reason
        weights.load(path, network)
        encoder = encoder or CLIP("small", device="cpu", precision="float32")
        found, wanted = encoder.fingerprint(), facts.get("text_encoder")
        if found != wanted:
            raise ValueError(f"{path} was trained with the text encoder {str(wanted)[:12]}, and {encoder.label} is "
                             f"{found[:12]}; words would mean something else to it, use the encoder it was trained "
                             "with or train it again")
        return cls(network, encoder, device, facts, Path(path))

    def read(self, prompt: str = "") -> dict[str, torch.Tensor]:
        """`words` of one sentence, read once and kept."""
        said = plain(prompt)
        if said not in self._read:
            self._read[said] = {name: value.to(self.device) for name, value in words(self.encoder, [said]).items()}
        return self._read[said]

    def fuse(self, visible, infrared, prompt: str = "", memory: float = MEMORY) -> Fused:
        """Fuse two pictures of one size.

        The luma is fused; the colour is the visible picture's, or the infrared one's where only that is coloured
        (medical pairs: the functional picture's, whichever it is). The visible picture's alpha is kept.

        Args:
            visible, infrared: of `cmf.datasets.pictures.read`, or arrays (H, W) or (H, W, 3): uint8, uint16 or
                floats in [0, 1]. From one pixel on.
            prompt: what the picture should show; "": balanced.
            memory: bytes that the network may need at a time; a picture that needs more is fused in tiles.

        Raises:
            ValueError: pictures of different sizes, of another shape or range, with NaN, or empty; a prompt that is
                no string; memory too small for a tile.
        """
        visible, infrared = _picture(visible, "visible"), _picture(infrared, "infrared")
        (height, width), other = visible.luma.shape, infrared.luma.shape
        if (height, width) != other:
            raise ValueError(f"the visible picture is {height} x {width} and the infrared one {other[0]} x {other[1]} "
                             "(rows x columns); give pictures of one size, or resize one of them")
        fused, weight = self._fuse(visible.luma, infrared.luma, self.read(prompt), memory)   # (H, W) each
        if not np.isfinite(fused).all():
            raise ValueError("the network's answer is not finite; its weights are damaged, fetch or train them again")
        fused = fused.clip(0, 1)
        return Fused(fused, _colour(visible, infrared), visible.alpha, weight.clip(0, 1),
                     16 if max(visible.bits, infrared.bits) > 8 else 8)

    @torch.inference_mode()
    def _fuse(self, visible, infrared, told, memory):
        """The network's picture and weights (H, W), at once or in tiles that need at most `memory` bytes."""
        height, width = visible.shape
        rows, columns = (tiles(n, side) for n, side in zip(
            visible.shape, tile_size(height, width, memory), strict=True))
        one = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]     # (1, 1, H, W)
        both = torch.cat([one(visible), one(infrared)], 1)                                    # (1, 2, H, W)
        if len(rows) == len(columns) == 1:
            out = self._network(both, told)
            return out["fused"][0, 0].float().cpu().numpy(), out["weight"][0, 0].float().cpu().numpy()
        from tqdm import tqdm

        smaller = math.ceil(math.sqrt(height * width * BYTES / memory))
        scene = self._network(F.avg_pool2d(both, smaller, ceil_mode=True), told).get("scene")
        both = F.pad(both, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        whole = torch.zeros(2, *both.shape[2:])                                               # (2, H', W')
        places = [(r, c) for r in rows for c in columns]
        for (top, down), (left, across) in tqdm(places, desc="tiles", delay=3, leave=False):
            at = ..., slice(top, top + len(down)), slice(left, left + len(across))
            out = self._network(both[at], told, **({} if scene is None else dict(scene=scene)))
            part = torch.cat([out["fused"], out["weight"]], 1)[0].float().cpu()               # (2, h, w)
            whole[at] += part * torch.from_numpy(down)[:, None] * torch.from_numpy(across)
        return whole[:, :height, :width].numpy()

    def _network(self, both, told, **more):
        both = both.to(self.device)
        return self.network(dict(visible=both[:, :1], infrared=both[:, 1:], **told), **more)


def words(encoder, prompts) -> dict[str, torch.Tensor]:
    """What the network is told of n sentences: text (n, L, D), text_mask (n, L) bool, pooled (n, D').

    Only the pieces of words count, not the encoder's marks of start and end, so that the empty sentence, which asks
    for balance, says nothing. A sentence beyond the encoder's longest text is cut there, with a warning.
    Raises ValueError when one is no string.
    """
    told = encoder.texts([plain(prompt) for prompt in prompts])
    return dict(text=told.tokens, text_mask=told.ordinary, pooled=told.pooled)


def plain(prompt: str) -> str:
    """A prompt as it is read: control, format and surrogate characters and runs of space are single spaces.

    Raises ValueError when it is no string.

    >>> plain(" warm\\tpeople\\x00\\n")
    'warm people'
    """
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is {type(prompt).__name__} {str(prompt)[:40]!r}, expected a string")
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in prompt).split())


def tile_size(height: int, width: int, memory: float) -> tuple[int, int]:
    """Rows and columns of a tile that `memory` bytes allow; both sides of the picture when all of it fits.

    Raises:
        ValueError: not enough for a tile twice as large as the overlap.
    """
    pixels = memory / BYTES if memory > 0 else 0
    if height * width <= pixels:
        return height, width
    least = 2 * OVERLAP
    if pixels < least**2:
        raise ValueError(f"{memory / 2**20:.0f} MiB of memory are too little for a tile of {least} x {least} pixels; "
                         f"allow {math.ceil(least**2 * BYTES / 2**20)} MiB or more")
    pixels = min(pixels, TILE)
    fit = lambda side, limit: min(int(side) // MULTIPLE * MULTIPLE, math.ceil(limit / MULTIPLE) * MULTIPLE)
    rows = fit(math.sqrt(pixels), height)
    columns = fit(pixels / rows, width)
    return fit(pixels / columns, height), columns


def tiles(length: int, tile: int) -> list[tuple[int, np.ndarray]]:
    """Starts and windows of tiles along a side; the windows, float32, add up to one at every pixel.

    Args:
        length: of the side. Tiles lie on multiples of MULTIPLE, and reach beyond its end up to the next one.
        tile: a multiple of MULTIPLE, at least 2 OVERLAP: tiles are equal, no longer than this and no longer than
            needed. From `length` on: one tile, as long as the side.
    """
    if tile >= length:
        return [(0, np.ones(length, np.float32))]
    length = math.ceil(length / MULTIPLE) * MULTIPLE
    count = math.ceil((length - OVERLAP) / (tile - OVERLAP))
    tile = math.ceil((length + (count - 1) * OVERLAP) / count / MULTIPLE) * MULTIPLE
    starts = [min(k * (tile - OVERLAP), length - tile) for k in range(count)]
    rise = 0.5 - 0.5 * np.cos(np.pi * ((np.arange(tile) + 0.5 - MARGIN) / RAMP).clip(0, 1))     # (tile,)
    windows = [(rise if k else 1) * (rise[::-1] if k < count - 1 else np.ones(tile)) for k in range(count)]
    total = np.zeros(length)
    for start, window in zip(starts, windows, strict=True):
        total[start:start + tile] += window
    return [(start, (window / total[start:start + tile]).astype(np.float32))
            for start, window in zip(starts, windows, strict=True)]


def coloured(picture: Picture) -> bool:
    """Has the picture colours that one sees, in a hundredth of its pixels or more?"""
    return picture.chroma is not None and float(np.percentile(np.abs(picture.chroma).max(-1), 99)) >= COLOURED


def _colour(visible: Picture, infrared: Picture) -> np.ndarray | None:
    if coloured(infrared) and coloured(visible):
        warnings.warn("both pictures are coloured; the fused one takes the visible picture's colours", stacklevel=3)
    if visible.chroma is None and coloured(infrared):
        return infrared.chroma
    return visible.chroma


def _picture(x, name: str) -> Picture:
    """A picture of an array, checked."""
    bits = 8
    if not isinstance(x, Picture):
        x = np.asarray(x)
        bits = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}.get(x.dtype, 32)
        x = x.astype(np.float32) / (2**bits - 1 if bits < 32 else 1)
        if x.ndim == 3 and x.shape[2] == 3:
            luma, chroma = luma_chroma(x)
        else:
            luma, chroma = x, None
        x = Picture(luma, chroma, bits=bits)
    if x.luma.ndim != 2 or not x.luma.size:
        raise ValueError(f"the {name} picture has shape {x.luma.shape}, expected (rows, columns) or (rows, columns, 3) "
                         "with at least one pixel")
    low, high = float(x.luma.min()), float(x.luma.max())
    if not (-1e-4 <= low and high <= 1 + 1e-4):                                       # NaN fails too
        raise ValueError(f"the {name} picture has values from {low:g} to {high:g}, expected [0, 1] without NaN; scale "
                         "it, or give uint8 or uint16")
    return x
