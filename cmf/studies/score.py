"""`python -m cmf score`: videos to tables of scores, lists of alarms and pages that explain them."""

import os
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmf import runs
from cmf.datasets import anomaly_files as files
from cmf.datasets.anomaly import VideoItem
from cmf.datasets.clips import read_captions, read_clips
from cmf.datasets.video import Video
from cmf.datasets.video_decode import PICTURES
from cmf.studies.scored import Scored

WRITTEN, NONE = "blip", "none"     # values of --captions beside a path


@dataclass(frozen=True)
class Request:
    """One video to score. fps: of a folder of frames. beside: the folder that annotations.csv and captions.csv of
    this video would lie in, or None."""

    name: str
    path: Path
    fps: float | None
    beside: Path | None


def requests(paths, fps: float | None = None) -> list[Request]:
    """The videos of files, folders of frames and folders of videos, in the order given, each once.

    Videos bear their file's name without suffix; two of one name, the names of their folders too.

    Raises:
        FileNotFoundError: nothing at a path, or a folder without videos.
        ValueError: two videos that would have one name; fps without a folder of frames, or not above 0.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such video or folder; give video files, folders of frames or folders "
                                    "of videos")
        root = path / "videos" if (path / "annotations.csv").is_file() and (path / "videos").is_dir() else path
        sources = files.sources(root) if root.is_dir() else [root]
        if not sources:
            raise FileNotFoundError(f"{root}: no videos in it and no pictures ({', '.join(files.VIDEOS)}; "
                                    f"{', '.join(PICTURES)})")
        for source in sources:
            found.setdefault(source.resolve(), source)
    folders = [path.is_dir() for path in found]
    if fps is not None and not (fps > 0 and any(folders)):
        raise ValueError(f"--fps {fps:g}: frames a second of folders of frames, above 0"
                         + ("" if any(folders) else "; there is none among the videos, and files have timestamps"))
    stem = lambda path: path.name if path.is_dir() else path.stem
    names = [stem(path) for path in found]
    names = [f"{path.parent.name}/{name}" if names.count(name) > 1 else name
             for path, name in zip(found, names, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several videos are called {', '.join(twice)}; score them apart, or rename them")
    return [Request(name, source, fps if path.is_dir() else None, _beside(path))
            for name, (path, source) in zip(names, found.items(), strict=True)]


def _beside(path: Path) -> Path | None:
    """The folder with annotations.csv or captions.csv that a video belongs to."""
    for folder in (path.parent, path.parent.parent):
        if any((folder / name).is_file() for name in ("annotations.csv", "captions.csv")):
            return folder
    return None


def captions_of(wanted: list[Request], given: str | None) -> dict[str, list | None]:
    """Captions (start, end, text) of each video by its name, None where they are to be written by BLIP.

    given: a CSV (see `cmf.datasets.clips.read_captions`), "blip", "none", or None: captions.csv beside the videos,
    else "blip". A video about which the CSV says nothing is scored without words, with a warning.

    Raises:
        FileNotFoundError, ValueError: as `read_captions`; captions of a video that is neither scored nor beside one
            that is.
    """
    if given in (WRITTEN, NONE):
        return {one.name: None if given == WRITTEN else [] for one in wanted}
    tables = {one.name: Path(given) if given else one.beside and one.beside / "captions.csv" for one in wanted}
    out: dict[str, list | None] = {}
    for path in dict.fromkeys(tables.values()):
        own = [one for one in wanted if tables[one.name] == path]
        if path is None or not (given or path.is_file()):
            out |= {one.name: None for one in own}
            continue
        lengths = {_known(one): Video(one.path, one.fps).seconds for one in own}
        others = [p for one in own for p in one.path.resolve().parent.iterdir() if not p.name.startswith(".")]
        lengths = {p.name if p.is_dir() else p.stem: np.inf for p in others} | lengths
        found = read_captions(path, lengths)
        for one in own:
            out[one.name] = [(c.start, c.end, c.text) for c in found[_known(one)]]
            if not out[one.name]:
                warnings.warn(f"{path}: no captions of {one.name}; it is scored from its pictures alone", stacklevel=2)
    return out


def _known(one: Request) -> str:
    """The name by which a captions file or annotation calls a video."""
    return one.path.name if one.path.is_dir() else one.path.stem


def truth_of(wanted: list[Request]) -> dict[str, np.ndarray]:
    """True intervals (n, 2) in seconds of the videos that an annotations.csv beside them covers, by name.

    Raises:
        FileNotFoundError, ValueError: as `cmf.datasets.clips.read_clips`; an annotation beyond a video's end is
            clipped with a warning.
    """
    items: dict[Path, VideoItem] = {}
    for folder in dict.fromkeys(one.beside for one in wanted):
        if folder is not None and (folder / "annotations.csv").is_file():
            items |= {item.source.resolve(): item for item in read_clips(folder)}
    return {one.name: intervals(items[one.path.resolve()], Video(one.path, one.fps))
            for one in wanted if one.path.resolve() in items}


def intervals(item: VideoItem, video: Video) -> np.ndarray:
    """True intervals (n, 2) of an annotated video, seconds."""
    from cmf.datasets.anomaly import events_of

    times = np.append(video.times, video.seconds)
    return np.array([(times[a], times[b]) for a, b in events_of(item.mask(len(video.times)))], float).reshape(-1, 2)


def score(wanted: list[Request], watcher, encoders, captions: dict[str, list | None],
          truth: dict[str, np.ndarray] | None = None) -> list[Scored]:
    """Every video scored, with what a report shows of it.

    Args:
        wanted: of `requests`. watcher: a `cmf.studies.watching.Watcher`. encoders: of `watcher.encoders`.
        captions: by name; None: written by BLIP. truth: intervals by name.

    Raises:
        ValueError: a video that cannot be decoded to its end, or is of one frame.
    """
    from cmf.studies import watching

    out = []
    for one in runs.progress(wanted, "videos") if len(wanted) > 1 else wanted:
        seen = watching.look(one.path, one.fps, encoders)
        told = captions[one.name]
        words = "no captions" if told == [] else f"captions given ({len(told)})" if told is not None else (
            f"captions written by {encoders.writer.label}")
        told = watching.written(seen, encoders, one.name) if told is None else told
        answer = watcher.watch(seen, told, encoders, one.name)
        note = (f"CMAF, trained on {watcher.facts.get('data', 'data that its file does not name')}; {words}. One score "
                f"for about {watcher.settings.segment:g} s.")
        out.append(answer.report(one.name, seen, told, watcher.settings.threshold, (truth or {}).get(one.name), note))
    return out


def write(out: Path, videos: list[Scored]) -> list[Path]:
    """`cmf.studies.timeline.write_report` into a folder made aside; its files move to `out` when all are written.

    Raises OSError when it cannot be written.
    """
    from cmf.studies.timeline import write_report

    part = out / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        made = write_report(part, videos)
        for path in made:
            os.replace(path, out / path.name)
        return [out / path.name for path in made]
    finally:
        shutil.rmtree(part, ignore_errors=True)


def writable(out: Path) -> Path:
    """`out`, made when absent. Raises OSError that says that it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise OSError(f"{out} cannot be written ({reason.strerror}); give a folder of your own") from reason
    if not os.access(out, os.W_OK):
        raise OSError(f"{out} cannot be written (no permission); give a folder of your own")
    return out


def arguments(parser) -> None:
    """`python -m cmf score VIDEO_OR_FOLDER... --out DIR`."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO_OR_FOLDER",
                        help="video files, folders of frames (with --fps), folders of videos")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for scores.csv, events.json, index.html")
    parser.add_argument("--weights", metavar="FILE", help="of `train cmaf`; default: the project's own")
    parser.add_argument("--captions", metavar="CSV",
                        help="video, start, end, caption; or blip: written by it, or none; default: captions.csv "
                             "beside the videos, else blip")
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second of folders of frames")
    parser.add_argument("--encoders", choices=("small", "hub"), help="default: those the weights were trained with")
    parser.add_argument("--threshold", type=float, metavar="S", help="of an alarm; default: the weights' own")
    parser.set_defaults(run=_run)


def quiet() -> None:
    """One thread (small networks wait for each other on more) and figures without a screen."""
    import torch
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    torch.set_num_threads(1)


def _run(options) -> None:
    from cmf.studies import footage, watching

    wanted = requests(options.videos, options.fps)
    for one in wanted:
        footage.cut(Video(one.path, one.fps))          # what cannot be opened or cut is said before the work begins
    quiet()
    watcher = watching.Watcher.load(options.weights or watching.TRAINED)
    if options.threshold is not None:
        watcher.settings = replace(watcher.settings, threshold=options.threshold)
    encoders = watcher.encoders(watching.ENCODERS.get(options.encoders))
    captions, truth = captions_of(wanted, options.captions), truth_of(wanted)
    out = Path(options.out)
    fresh = not out.exists()
    writable(out)
    try:
        videos = score(wanted, watcher, encoders, captions, truth)
        write(out, videos)
    except BaseException:
        if fresh:
            shutil.rmtree(out, ignore_errors=True)
        raise
    print(*map(_line, videos), f"{len(videos)} videos; open {out / 'index.html'}", sep="\n")


def _line(video: Scored) -> str:
    from cmf.studies.scored import alarms, clock

    found = alarms(video)
    when = ", ".join(f"{clock(a.start)} to {clock(a.end)} ({a.score:.2f})" for a in found[:4])
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return f"{video.name}: " + (f"{len(found)} alarms: {when}{more}" if found else
                                f"no alarm, highest score {video.scores.max():.2f}")
