"""From videos and captions to the columns that CMAF takes.

A video is cut into segments of about `SEGMENT` seconds. In the middle of each, two pictures a short step apart are
looked at: the first by CLIP, both by optical flow. Captions are read by DistilBERT, token by token, each with the
time of its caption. What is looked at is a simulated clip, or any `cmf.datasets.video.Video`.

Axes: B videos, T segments, L text tokens, Dv, Dm, Dx channels of vision, motion and text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cmf import runs
from cmf.datasets.video import Segments, Video, segment
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.encoders.motion import motion, names
from cmf.simulate.surveillance import Clip
from cmf.training import Tensors

SEGMENT = 2.0      # s, length of a segment that is aimed at
STEP = 0.16        # s between the two pictures of a segment
SIZE = (120, 160)  # pixels, height and width at which pictures are looked at
EVERY = 2.0        # s, a caption each


@dataclass(frozen=True)
class Encoders:
    """Which frozen encoders read pictures and words: "small" (the project's own) or names on the hub."""

    clip: str = "small"
    distilbert: str = "small"
    blip: str = "small"

    @cached_property
    def eye(self) -> CLIP:
        return CLIP(self.clip)

    @cached_property
    def reader(self) -> DistilBERT:
        return DistilBERT(self.distilbert)

    @cached_property
    def writer(self) -> BLIP:
        return BLIP(self.blip)


def cut(video) -> Segments:
    """Segments of a clip or video: as many as make them about SEGMENT seconds long, two at least."""
    return segment(video, max(2, round(video.seconds / SEGMENT)))


def pictures(video, times: Sequence[float], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of a clip or video at rising times (n,) in seconds."""
    if isinstance(video, Clip):
        return np.stack([video.frame(float(t), size) for t in times])
    return np.stack(list(video.frames_at(times, size)))


def moments(video, some: slice = slice(None)) -> np.ndarray:
    """Two times (T, 2) in seconds at which each segment is looked at, STEP apart where the video allows it.

    Those of a `Video` are the begins of two different frames, so that the time between the pictures is known.
    some: of these segments only.
    """
    parts = cut(video)
    step = min(STEP, 0.5 * video.seconds / len(parts.centres))
    first = parts.centres[some] - step / 2                                     # (T,) seconds
    if not isinstance(video, Video):
        return np.stack([first, first + step], 1)
    last = len(video.times) - 1
    early = np.minimum(np.searchsorted(video.times, first + 1e-6, side="right") - 1, last - 1)
    late = np.searchsorted(video.times, video.times[early] + step + 1e-6, side="right") - 1
    nearer = np.abs(video.times[np.minimum(late + 1, last)] - video.times[early] - step) < np.abs(
        video.times[late] - video.times[early] - step)
    late = np.maximum(np.minimum(late + nearer, last), early + 1)
    return video.times[np.stack([early, late], 1)]


def look(video, encoders: Encoders, size: tuple[int, int] = SIZE, some: slice = slice(None)) -> dict[str, np.ndarray]:
    """visual (T, Dv) of CLIP and motion (T, Dm) of the flow, at the middle of each segment; pictures (T, H, W, 3).

    visual is CLIP's embedding, then mean and maximum over its patch tokens: what is small is lost in the embedding.
    Motion columns are brought to the scale of their square root, since speeds have long tails.
    some: of these segments only, so that a long video can be looked at in blocks.
    """
    when = moments(video, some)                                                # (T, 2) seconds
    each, place = np.unique(when, return_inverse=True)
    pairs = pictures(video, each, size)[place.reshape(when.shape)]             # (T, 2, H, W, 3)
    flow = np.stack([motion(pair, times=(0.0, b - a), span=1)[0] for pair, (a, b) in zip(pairs, when, strict=True)])
    seen = encoders.eye.images(pairs[:, 0], progress=lambda steps, label: steps)
    patches = seen.tokens[:, 1:]                                               # (T, patches, D)
    visual = torch.cat([seen.pooled, patches.mean(1), patches.amax(1)], 1)     # (T, Dv)
    return dict(visual=visual.numpy(), motion=np.sign(flow) * np.sqrt(np.abs(flow)), pictures=pairs[:, 0])


def written(shown: np.ndarray, edges: np.ndarray, encoders: Encoders) -> list[tuple[float, float, str]]:
    """Captions (start, end, text) that BLIP writes of the picture of each segment; edges (T + 1,) seconds."""
    texts = encoders.writer.captions(shown, progress=lambda steps, label: steps)
    return [(float(a), float(b), text) for a, b, text in zip(edges[:-1], edges[1:], texts, strict=True)]


def told(clip: Clip, every: float = EVERY) -> list[tuple[float, float, str]]:
    """Captions (start, end, text) of a simulated clip's onlooker."""
    return [(c.start, c.end, c.text) for c in clip.captions(every)]


def read(captions: Sequence[Sequence[tuple[float, float, str]]], seconds: Sequence[float],
         encoders: Encoders) -> dict[str, torch.Tensor]:
    """Text columns of B videos from their captions (start, end, text); every distinct sentence is read once.

    Returns text (B, L, Dx) without special tokens, text_mask (B, L), text_time (B, L) the middle of each token's
    caption as a share of the video, text_caption (B, L) its number, text_ids (B, L) the tokens' numbers.
    """
    known = sorted({text for video in captions for _, _, text in video if text.strip()})
    vectors, ids = {}, {}
    if known:
        found = encoders.reader.texts(known, progress=lambda steps, label: steps)
        for text, tokens, number, mask in zip(known, found.tokens, found.ids, found.ordinary, strict=True):
            vectors[text], ids[text] = tokens[mask], number[mask]
    width = encoders.reader.model.config.dim
    rows = [[(k, (a + b) / 2 / whole, text) for k, (a, b, text) in enumerate(video) if len(vectors.get(text, ()))]
            for video, whole in zip(captions, seconds, strict=True)]
    longest = max([2, *(sum(len(ids[text]) for _, _, text in row) for row in rows)])
    shape = len(rows), longest
    out = dict(text=torch.zeros(*shape, width), text_mask=torch.zeros(shape, dtype=torch.bool),
               text_time=torch.zeros(shape), text_caption=torch.zeros(shape, dtype=torch.long),
               text_ids=torch.zeros(shape, dtype=torch.long))
    for i, row in enumerate(rows):
        at = 0
        for k, time, text in row:
            here = slice(at, at := at + len(ids[text]))
            out["text"][i, here], out["text_ids"][i, here] = vectors[text], ids[text]
            out["text_mask"][i, here], out["text_time"][i, here], out["text_caption"][i, here] = True, time, k
    return out


def watched(clips: Sequence[Clip], encoders: Encoders) -> dict[str, torch.Tensor]:
    """Picture columns of simulated clips and their labels: visual, motion, segments, labels, frame_labels; cached."""
    def compute() -> dict:
        rows = [look(clip, encoders) for clip in runs.progress(clips, "clips")]
        longest = max(len(row["visual"]) for row in rows)
        pad = lambda x: np.pad(x, [(0, longest - len(x))] + [(0, 0)] * (x.ndim - 1))
        found = {name: np.stack([pad(row[name]) for row in rows]).astype(np.float32) for name in ("visual", "motion")}
        exists = [np.ones(len(row["visual"])) for row in rows]
        shares = [cut(clip).mean(clip.frame_labels(), clip.times()) for clip in clips]
        return found | dict(segments=np.stack([pad(x) for x in exists]) > 0,
                            frame_labels=np.stack([pad(x) for x in shares]).astype(np.float32),
                            labels=np.array([float(clip.label > 0) for clip in clips], np.float32))

    inputs = dict(clips=[clip.digest() for clip in clips], clip=encoders.eye.fingerprint(), columns=list(names()))
    found = runs.cached("footage", compute, inputs=inputs,
                        parameters=dict(segment=SEGMENT, step=STEP, size=list(SIZE)))
    runs.used(encoders.eye.label, encoders.eye.fingerprint())
    return {name: torch.as_tensor(value) for name, value in found.items()}


def columns(clips: Sequence[Clip], encoders: Encoders, captions=None) -> Tensors:
    """All columns of a CMAF batch for simulated clips; captions default to the onlooker's, a list of lists."""
    captions = [told(clip) for clip in clips] if captions is None else captions
    runs.used(encoders.reader.label, encoders.reader.fingerprint())
    return Tensors(**watched(clips, encoders), **read(captions, [clip.seconds for clip in clips], encoders))
