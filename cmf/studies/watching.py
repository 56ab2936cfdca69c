"""A trained CMAF as one file, and what it says of videos of any length.

A video is looked at in blocks of segments, so that an hour needs no more memory than a minute but for its vectors
and its small JPEG pictures. CMAF sees windows of at most WINDOW segments, the length of the longest clips that it
was trained on; in a longer video windows overlap by half, and each segment is scored in the window whose middle is
nearest.

Axes: T segments, W windows, L words or tokens, K captions, H, W rows and columns of a picture.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from cmf import runs, weights
from cmf.datasets.video import Segments, Video
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.encoders.motion import names as motion_names
from cmf.methods.cmaf import CMAF, Config
from cmf.studies import footage
from cmf.studies.footage import Encoders
from cmf.studies.scored import Scored, join_pieces

TRAINED = Path(__file__).resolve().parents[1] / "trained" / "cmaf_surveillance.safetensors"
ENCODERS = dict(small=Encoders(), hub=Encoders(CLIP.HUB, DistilBERT.HUB, BLIP.HUB))
WINDOW = 30      # segments: 60 s, the longest clips in training
BLOCK = 32       # segments looked at, or captions written, at a time
CHUNK = 8        # windows scored at a time
PICTURES = 240   # thumbnails kept of a video, at most
WEIGHTS = 1_500_000  # weights of segments on words kept of a video, at most
Told = Sequence[tuple[float, float, str]]  # captions: start and end in seconds, text


@dataclass(frozen=True)
class Settings:
    """What a trained network must be used with. encoders: their names. fingerprints: sha256 of those that matter."""

    threshold: float                 # alarms are segments at or above it; chosen on validation videos
    encoders: dict[str, str]
    fingerprints: dict[str, str]
    segment: float = footage.SEGMENT
    step: float = footage.STEP
    size: tuple[int, int] = footage.SIZE
    motion: tuple[str, ...] = motion_names()


class Watcher(nn.Module):
    """CMAF with the threshold and the encoders that it was trained with, as one file of weights."""

    def __init__(self, config: Config, settings: Settings):
        super().__init__()
        self.network, self.settings, self.path, self.facts = CMAF(config), settings, None, {}

    @classmethod
    def of(cls, network: CMAF, encoders: Encoders, threshold: float) -> "Watcher":
        """From a trained network, the encoders of its columns and a threshold on its scores in (0, 1)."""
        model = cls(network.config, Settings(float(threshold), asdict(encoders), fingerprints(encoders)))
        model.network = network
        return model.eval()

    def save(self, path: Path, **facts: str) -> Path:
        """Write weights with network and settings in their config."""
        return weights.save(path, self, dict(network=asdict(self.network.config), settings=asdict(self.settings)),
                            **facts)

    @classmethod
    def load(cls, path: Path | str = TRAINED) -> "Watcher":
        """Read weights that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: as `cmf.weights.load`; also ValueError for a configuration that this
                version cannot build, or columns that it makes otherwise.
        """
        stated = weights.facts(path)
        if stated["architecture"] != cls.__name__:
            raise ValueError(f"{path} holds weights of {stated['architecture']}, expected {cls.__name__}; give a file "
                             "written by `python -m cmf train cmaf`")
        config = stated.pop("config")
        try:
            kept = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items()}
            settings = Settings(**kept)
            model = cls(Config(**config["network"]), settings)
        except (KeyError, TypeError, AttributeError) as reason:
            raise ValueError(f"{path} states a configuration that cannot be built here ({reason}); train it again "
                             "with this version") from reason
        for name in ("segment", "step", "size", "motion"):
            here = getattr(Settings(0.5, {}, {}), name)
            if getattr(settings, name) != here:
                raise ValueError(f"{path} was trained on columns with another {name} ({getattr(settings, name)}), this "
                                 f"version makes them with {here}; train it again")
        weights.load(path, model)
        model.path, model.facts = Path(path), stated
        return model

    def encoders(self, given: Encoders | None = None) -> Encoders:
        """The encoders to use: those that the file names, or the given ones if their weights are the same.

        BLIP may differ, since only its sentences are seen.

        Raises:
            FileNotFoundError: the encoders are not here.
            ValueError: weights of another encoder.
        """
        chosen = given or Encoders(**self.settings.encoders)
        for name, found in fingerprints(chosen).items():
            wanted = self.settings.fingerprints.get(name)
            if found != wanted:
                named = self.settings.encoders.get(name, "?")
                raise ValueError(f"{self.path or 'this network'} was trained with {name} {named!r} ("
                                 f"{str(wanted)[:12]}), and {getattr(chosen, name)!r} here is {found[:12]}: weights of "
                                 "another encoder; use the same ones, or train again with `python -m cmf train cmaf`")
        return chosen

    @torch.no_grad()
    def watch(self, seen: dict, captions: Told, encoders: Encoders, name: str = "video") -> "Answer":
        """Score a video from its columns (of `look`) and captions; seconds, in any order."""
        edges, parts = seen["edges"], windows(len(seen["visual"]))
        scores, gate, read = np.zeros(len(seen["visual"])), np.ones(len(seen["visual"])), []
        for at in range(0, len(parts), CHUNK):
            chunk = parts[at:at + CHUNK]
            own = [within(captions, edges[a], edges[b]) for a, b, _, _ in chunk]
            text = footage.read([[told for _, told in one] for one in own],
                                [edges[b] - edges[a] for a, b, _, _ in chunk], encoders)
            lonely = text["text_mask"].sum(1) == 1
            if lonely.any():
                warnings.warn(f"{name}: a caption of one word-piece cannot be attended to and is left out; write "
                              "sentences", stacklevel=2)
                text["text_mask"][lonely] = False
            out = self.network(_batch(seen, chunk) | text)
            found, weights_ = out["logits"].sigmoid().numpy(), out.get("attention")
            for i, (a, _, first, last) in enumerate(chunk):
                rows = slice(first - a, last - a)
                scores[first:last] = found[i, rows]
                if "gate" in out:
                    gate[first:last] = out["gate"][i, rows].numpy()
                mask = text["text_mask"][i]
                if weights_ is None or not mask.any():
                    continue
                pieces = encoders.reader.tokenizer.convert_ids_to_tokens(text["text_ids"][i, mask].tolist())
                words, number, share = join_pieces(pieces, text["text_caption"][i, mask].numpy(),
                                                   weights_[i].mean(0)[None, rows][..., mask].numpy())
                read.append((slice(first, last), np.array([k for k, _ in own[i]])[number], words, share[0]))
        return Answer(scores, np.clip(gate, 0, 1) if "gate" in out else None, tuple(read))


@dataclass(frozen=True)
class Answer:
    """What a network says of a video."""

    scores: np.ndarray           # (T,) in (0, 1)
    gate: np.ndarray | None      # (T,) weight of vision
    read: tuple                  # of each window: its segments, captions (L,) and strings of its words, weights (n, L)

    def report(self, name: str, seen: dict, captions: Told, threshold: float, truth=None, note: str = "") -> Scored:
        """For pages and tables: at most PICTURES pictures and as many captions with weighed words as WEIGHTS allow.

        Both are those at the highest scores (pictures: every other one spread evenly); truth (n, 2) seconds or None.
        """
        count, edges = len(self.scores), seen["edges"]
        rank = np.argsort(-self.scores, kind="stable")
        shown = np.arange(count)
        if count > PICTURES:
            shown = np.union1d(rank[:PICTURES // 2], np.linspace(0, count - 1, PICTURES // 2).round().astype(int))
        middle = np.array([(a + b) / 2 for a, b, _ in captions])
        near = Segments(edges, edges).of(middle) if len(middle) else np.zeros(0, int)
        words = {k: [strings[i] for i in np.flatnonzero(number == k)]
                 for _, number, strings, _ in self.read for k in set(number.tolist())}
        best = sorted(words, key=lambda k: np.flatnonzero(rank == near[k])[0])
        room = np.cumsum([len(words[k]) for k in best]) * count <= WEIGHTS
        words = {k: words[k] for k, fits in zip(best, room, strict=True) if fits}
        order = sorted(words)
        if len(order) < len(best):
            note = f"{note} Words are weighed in the {len(order)} captions at the highest scores.".strip()
        starts = dict(zip(order, np.cumsum([0, *(len(words[k]) for k in order)]).tolist(), strict=False))
        attention = np.zeros((1, count, sum(map(len, words.values()))))                   # (1, T, L)
        for rows, number, _, share in self.read:
            for k in set(words).intersection(number.tolist()):
                attention[0, rows, starts[k]:starts[k] + len(words[k])] = share[:, number == k]
        return Scored(name, np.stack([edges[:-1], edges[1:]], 1), self.scores, threshold,
                      tuple(zip(middle, (text for _, _, text in captions), strict=True)),
                      tuple(w for k in order for w in words[k]), np.repeat(order, [len(words[k]) for k in order]),
                      attention if words else None, self.gate, shots(seen, shown, True), shown, truth, note)


def identity(encoder) -> str:
    """sha256 of an encoder's weights, configuration and tokenizer, whatever precision it computes in."""
    mixed, encoder.mixed = encoder.mixed, False
    try:
        return encoder.fingerprint()
    finally:
        encoder.mixed = mixed


def fingerprints(encoders: Encoders) -> dict[str, str]:
    """`identity` of the encoders that make columns: clip, distilbert."""
    return dict(clip=identity(encoders.eye), distilbert=identity(encoders.reader))


def windows(count: int, length: int = WINDOW) -> list[tuple[int, int, int, int]]:
    """Windows (start, stop, first, last) over `count` segments: columns start:stop are seen, first:last scored.

    >>> windows(12, 8)
    [(0, 8, 0, 6), (4, 12, 6, 12)]
    """
    if count <= length:
        return [(0, count, 0, count)]
    starts = np.linspace(0, count - length, int(np.ceil((count - length) / (length // 2))) + 1).round().astype(int)
    bounds = [0, *((starts[:-1] + starts[1:] + length) // 2).tolist(), count]
    return [(s, s + length, a, b) for s, a, b in zip(starts.tolist(), bounds[:-1], bounds[1:], strict=True)]


def within(captions: Told, start: float, end: float) -> list[tuple[int, tuple[float, float, str]]]:
    """Number and text of the captions that lie at least half in [start, end), or over it; times from start on."""
    found = []
    for k, (a, b, text) in enumerate(captions):
        inside = min(b, end) - max(a, start)
        if inside > 0 and inside >= 0.5 * min(b - a, footage.SEGMENT):
            found.append((k, (max(a, start) - start, min(b, end) - start, text)))
    return found


def look(path: Path, fps: float | None, encoders: Encoders) -> dict:
    """Columns of a video file or folder of frames, from the cache for the same content and encoder.

    Returns edges (T + 1,) seconds, visual (T, Dv), motion (T, Dm), jpeg (bytes,) and ends (T,) of the pictures
    looked at, and aspect, width over height of the video. Raises like `cmf.datasets.video.Video`.
    """
    video = Video(path, fps)                                       # what cannot be read is refused before the cache

    def compute() -> dict:
        edges, rows = footage.cut(video).edges, []
        blocks = range(0, len(edges) - 1, BLOCK)
        for at in runs.progress(blocks, Path(path).name) if len(blocks) > 2 else blocks:
            found = footage.look(video, encoders, some=slice(at, at + BLOCK))
            found["jpeg"] = [_jpeg(picture) for picture in found.pop("pictures")]
            rows.append(found)
        sizes = [len(jpeg) for found in rows for jpeg in found["jpeg"]]
        return dict(edges=edges, jpeg=np.concatenate([jpeg for found in rows for jpeg in found["jpeg"]]),
                    ends=np.cumsum(sizes), aspect=video.facts.width / video.facts.height,
                    **{name: np.concatenate([found[name] for found in rows]).astype(np.float32)
                       for name in ("visual", "motion")})

    inputs = dict(video=Path(path), fps=fps, clip=encoders.eye.fingerprint(), columns=list(motion_names()))
    parameters = dict(segment=footage.SEGMENT, step=footage.STEP, size=list(footage.SIZE))
    return runs.cached("video_columns", compute, inputs=inputs, parameters=parameters)


def written(seen: dict, encoders: Encoders, name: str = "video") -> list[tuple[float, float, str]]:
    """Captions that BLIP writes of each segment's picture, from the cache for the same pictures and encoder."""
    count = len(seen["ends"])

    def compute() -> dict:
        blocks, found = range(0, count, BLOCK), []
        for at in runs.progress(blocks, f"{name}, captions") if len(blocks) > 2 else blocks:
            rows = np.arange(at, min(at + BLOCK, count))
            found += footage.written(shots(seen, rows), seen["edges"][at:rows[-1] + 2], encoders)
        return dict(captions=[list(row) for row in found])

    inputs = dict(jpeg=seen["jpeg"], ends=seen["ends"], edges=seen["edges"], blip=encoders.writer.fingerprint())
    return [tuple(row) for row in runs.cached("video_captions", compute, inputs=inputs)["captions"]]


def shots(seen: dict, rows: Sequence[int], shaped: bool = False) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of these segments; shaped: with the video's own ratio of the sides."""
    starts = np.concatenate([[0], seen["ends"]])
    found = [cv2.imdecode(seen["jpeg"][starts[k]:starts[k + 1]], cv2.IMREAD_COLOR)[..., ::-1] for k in rows]
    if shaped:
        wide = int(np.clip(round(footage.SIZE[0] * float(seen["aspect"])), 40, 640))
        found = [cv2.resize(picture, (wide, footage.SIZE[0]), interpolation=cv2.INTER_AREA) for picture in found]
    return np.ascontiguousarray(np.stack(found))


def _jpeg(picture: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def _batch(seen: dict, chunk) -> dict[str, torch.Tensor]:
    """visual, motion and segments of these windows, (W, T, ...)."""
    cut = lambda name: nn.utils.rnn.pad_sequence([torch.from_numpy(seen[name][a:b]) for a, b, _, _ in chunk],
                                                 batch_first=True)
    here = [torch.ones(b - a, dtype=torch.bool) for a, b, _, _ in chunk]
    return dict(visual=cut("visual"), motion=cut("motion"),
                segments=nn.utils.rnn.pad_sequence(here, batch_first=True))
