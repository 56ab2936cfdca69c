"""Two pictures to labels and a fused picture: CMFS's weights, the prompts of its classes, pictures of any size.

Axes: H, W rows and columns, K classes, V views (scales, and each turned left to right).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmf import weights
from cmf.encoders.clip import CLIP
from cmf.methods.cmfs import CMFS, Config
from cmf.studies.segmenting import prompts, spelled

TRAINED = Path(__file__).resolve().parents[1] / "trained" / "cmfs_street.safetensors"
LEAST = 32              # rows and columns that the network needs; smaller pictures are padded
LARGE = 1_500_000       # pixels of a picture that is labelled in windows when none are asked for
WINDOW = (768, 1024)    # of those
STRIDE = 2 / 3          # of a window's side, from one to the next
HALF = 5_000_000        # bytes of a weights file above which its numbers are kept in float16


@dataclass(frozen=True)
class Labelled:
    """What a picture shows. label: uint8 (H, W); share: float32 (K, H, W), softmax; fused: float32 (H, W, 3)."""

    label: np.ndarray
    share: np.ndarray
    fused: np.ndarray


@dataclass(frozen=True)
class Views:
    """How a picture is looked at. Shares of all views are averaged; the fused picture is that of scale 1, not turned.

    Raises ValueError for scales that are not above 0, and for a window below 32 x 32.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None      # None: the whole picture, up to LARGE pixels

    def __post_init__(self):
        if not self.scales or not all(0 < s < 100 for s in self.scales):
            raise ValueError(f"scales {self.scales}: expected one or more factors above 0, such as 0.75 1 1.25")
        if self.window is not None and min(self.window) < LEAST:
            raise ValueError(f"a window of {self.window[0]} x {self.window[1]}: expected {LEAST} rows and columns or "
                             "more")


class Segmenter:
    """A CMFS with the prompts of its classes.

    Args:
        network: in any mode; it is set to eval.
        classes: K names, the background first.
        encoder: the CLIP that read the prompts; default the project's small one.
        device: "cpu", "cuda", ...; default a GPU where there is one.
        facts: what the weights file says of itself. path: of that file.

    Raises:
        ValueError: another number of classes, an encoder of another width, a device that cannot be used.

    >>> segmenter = Segmenter.load()
    >>> segmenter.segment(visible, infrared).label.shape == infrared.shape
    True
    """

    def __init__(self, network: CMFS, classes: Sequence[str], encoder=None, device=None, facts: dict | None = None,
                 path: Path | None = None):
        self.encoder = encoder or CLIP("small", device="cpu", precision="float32")
        self.classes, self.facts, self.path = tuple(classes), dict(facts or {}), path
        if len(self.classes) != network.config.classes:
            raise ValueError(f"{len(self.classes)} names for a network of {network.config.classes} classes; give one "
                             "for each, the background first")
        text = prompts(self.classes, self.encoder)
        if text.shape[1] != network.config.text_width:
            raise ValueError(f"the network reads text of width {network.config.text_width}, {self.encoder.label} gives "
                             f"{text.shape[1]}; use the encoder it was trained with")
        network.text = text
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.network = network.eval().requires_grad_(False).to(self.device)
        except (RuntimeError, AssertionError) as reason:   # torch's, of unknown and of absent devices
            raise ValueError(f"device {str(device)!r} cannot be used here ({str(reason).splitlines()[0][:100]}); say "
                             "cpu, or cuda where there is a GPU") from reason

    @classmethod
    def load(cls, path: Path | str = TRAINED, device=None, encoder=None) -> "Segmenter":
        """Read weights that `save` wrote. encoder: default CLIP with the project's small weights, on the CPU.

        Raises:
            FileNotFoundError: no weights there.
            ValueError: weights of another architecture or of a configuration that cannot be built, without the names
                of their classes, or trained with another text encoder.
        """
        facts = weights.facts(path)
        if facts["architecture"] != CMFS.__name__:
            raise ValueError(f"{path} holds weights of {facts['architecture']}, expected {CMFS.__name__}; give weights "
                             "of `python -m cmf train cmfs`")
        try:
            config, classes = Config(**facts["config"]), json.loads(facts["classes"])
            network = CMFS(config)
        except (TypeError, ValueError, KeyError) as reason:
            raise ValueError(f"{path} states a configuration that cannot be built here ({reason}); train it again "
                             "with this version") from reason
        weights.load(path, network)
        encoder = encoder or CLIP("small", device="cpu", precision="float32")
        found, wanted = encoder.fingerprint(), facts.get("text_encoder")
        if config.needs_text and found != wanted:
            raise ValueError(f"{path} was trained with the text encoder {str(wanted)[:12]}, and {encoder.label} is "
                             f"{found[:12]}; names of classes would mean something else to it, use the encoder it was "
                             "trained with or train it again")
        return cls(network, classes, encoder, device, facts, Path(path))

    def save(self, path: Path | str, **facts: str) -> Path:
        """Write weights, configuration, classes and the fingerprint of the text encoder; embeddings are not stored.

        Above HALF bytes the parameters are kept in float16, batch norms' statistics are not. facts: further words.

        Raises ValueError for parameters that float16 cannot hold.
        """
        import copy

        network = self.network
        if sum(x.numel() * x.element_size() for x in network.state_dict().values()) > HALF:
            network = copy.deepcopy(network)
            for name, parameter in network.named_parameters():
                parameter.data = parameter.data.half()
                if not parameter.isfinite().all():
                    raise ValueError(f"{name} has values beyond 65504 or NaN; train with a smaller learning rate")
        return weights.save(path, network, network.config, classes=json.dumps(self.classes),
                            text_encoder=self.encoder.fingerprint(), **facts)

    @property
    def spelled(self) -> list[str]:
        """Classes whose words the text encoder does not know and reads in pieces."""
        return spelled(self.classes, self.encoder)

    @torch.no_grad()
    def segment(self, visible: np.ndarray, infrared: np.ndarray, views: Views = Views()) -> Labelled:
        """Label and fuse one pair.

        Args:
            visible: (H, W, 3), uint8 or floats in [0, 1]. infrared: (H, W), likewise. From one pixel on.

        Raises:
            ValueError: pictures of another shape or range, with NaN, empty, or of different sizes.
        """
        pictures = _picture(visible, "visible", 3), _picture(infrared, "infrared", 1)
        if pictures[0].shape[2:] != pictures[1].shape[2:]:
            (a, b), (c, d) = (tuple(x.shape[2:]) for x in pictures)
            raise ValueError(f"the visible picture is {a} x {b} and the infrared one {c} x {d} (rows x columns); give "
                             "pictures of one size, or resize one of them")
        both = torch.cat(pictures, 1)                                                              # (1, 4, H, W)
        height, width = both.shape[2:]
        share, fused, count = 0, None, 0
        for scale in dict.fromkeys((1.0, *views.scales)):
            size = [max(1, round(scale * side)) for side in (height, width)]
            x = both if scale == 1 else F.interpolate(both, size, mode="bilinear", align_corners=False, antialias=True)
            for turned in (False, True) if views.flip and scale in views.scales else (False,):
                own, drawn = self._windows(x.flip(3) if turned else x, views.window)
                fused = drawn if fused is None else fused
                if scale in views.scales:
                    own = own.flip(3) if turned else own
                    share = share + F.interpolate(own, (height, width), mode="bilinear", align_corners=False)
                    count += 1
        share = (share / count)[0]                                                                 # (K, H, W)
        return Labelled(share.argmax(0).to(torch.uint8).numpy(), share.numpy(),
                        fused[0].permute(1, 2, 0).clamp(0, 1).numpy())

    def _windows(self, both: Tensor, window: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """Softmax (1, K, H, W) and fused (1, 3, H, W) of pictures (1, 4, H, W), at once or window by window."""
        height, width = both.shape[2:]
        edges = (0, max(0, LEAST - width), 0, max(0, LEAST - height))
        both = F.pad(both, edges, mode="replicate") if any(edges) else both
        if window is None and height * width > LARGE:
            window = WINDOW
        rows, columns = (starts(side, min(side, window[k]) if window else side)
                         for k, side in enumerate(both.shape[2:]))
        if len(rows) == len(columns) == 1:
            share, fused = self._look(both)
        else:
            from tqdm import tqdm

            h, w = (min(side, own) for side, own in zip(both.shape[2:], window, strict=True))
            share, fused = (torch.zeros(1, n, *both.shape[2:]) for n in (len(self.classes), 3))
            seen = torch.zeros(both.shape[2:])
            for top, left in tqdm([(r, c) for r in rows for c in columns], desc="windows", delay=3, leave=False):
                at = ..., slice(top, top + h), slice(left, left + w)
                for whole, part in zip((share, fused), self._look(both[at]), strict=True):
                    whole[at] += part
                seen[at[1:]] += 1
            share, fused = share / seen, fused / seen
        return share[..., :height, :width], fused[..., :height, :width]

    def _look(self, both: Tensor) -> tuple[Tensor, Tensor]:
        both = both.to(self.device)
        out = self.network(dict(visible=both[:, :3], infrared=both[:, 3:]))
        return out["logits"].float().softmax(1).cpu(), out["fused"].float().cpu()


def starts(length: int, window: int) -> list[int]:
    """Where windows along a side begin: every STRIDE of a window or less, evenly, the last one at the end.

    >>> starts(10, 6)
    [0, 4]
    """
    count = 1 + math.ceil((length - window) / max(1, STRIDE * window))
    return [round(k * (length - window) / max(1, count - 1)) for k in range(count)]


def _picture(x, name: str, channels: int) -> Tensor:
    """(1, channels, H, W) float32 in [0, 1] of an array, checked."""
    x = np.asarray(x)
    wanted = "(rows, columns, 3)" if channels == 3 else "(rows, columns)"
    if x.ndim != (3 if channels == 3 else 2) or not x.size or (channels == 3 and x.shape[2] != 3):
        raise ValueError(f"the {name} picture has shape {x.shape}, expected {wanted} with at least one pixel")
    x = x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    low, high = float(x.min()), float(x.max())
    if not (-1e-4 <= low and high <= 1 + 1e-4):                                       # NaN fails too
        raise ValueError(f"the {name} picture has values from {low:g} to {high:g}, expected [0, 1] without NaN; scale "
                         "it, or give uint8")
    x = torch.from_numpy(np.ascontiguousarray(x))
    return (x.permute(2, 0, 1) if channels == 3 else x[None])[None]
