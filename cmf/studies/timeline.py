"""Explained timelines of scored videos: a printed strip, a page for the browser, and the files of a report.

Axes: T segments, L words.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from cmf import plots, runs
from cmf.studies.scored import Scored, alarms, clock, nearest, ticks
from cmf.studies.timeline_page import index, page

__all__ = ["Scored", "alarms", "index", "page", "strip", "write_report"]
BLUE, ORANGE, GREEN, PURPLE, AMBER = (plots.COLOURS[i] for i in (0, 1, 2, 3, 4))
FRAMES = 5      # pictures of an alarm
LINES = 4       # captions below them, at most
LETTER = 0.602  # width of a letter of DejaVu Sans Mono, in units of its size


def strip(scored: Scored, segment: int | None = None, shortest: int = 1, gap: int = 0):
    """One moment of a video for print: score and gate over time, frames around it, words shaded by attention.

    Arguments: segment shown, default the peak of the strongest alarm, or the highest score without alarm; shortest, gap
    as in `alarms`. Returns a matplotlib figure, a page wide. Raises ValueError when the segment does not exist.
    """
    found = alarms(scored, shortest, gap)
    count = len(scored.scores)
    if segment is None:
        segment = max(found, key=lambda a: a.score).peak if found else int(scored.scores.argmax())
    if not 0 <= segment < count:
        raise ValueError(f"segment {segment} does not exist; video {scored.name!r} has segments 0..{count - 1}")
    alarm = next((a for a in found if a.first <= segment <= a.last), None)
    frames, lines = _around(scored, segment, alarm), _lines(scored, segment)
    parts = {"score": 1.25, **({"gate": 0.45} if scored.gate is not None else {}),
             **({"frames": _frame_height(scored) * 1.14 + 0.1} if frames else {}), "words": 0.3 + 0.16 * len(lines)}
    high = sum(parts.values()) + 0.3
    fig, whole = plots.figure(width=plots.PAGE, height=high)
    whole.remove()
    grid = fig.add_gridspec(len(parts), 1, height_ratios=list(parts.values()))
    axes = {name: fig.add_subplot(grid[i]) for i, name in enumerate(parts)}
    _draw_score(axes["score"], scored, found, segment)
    if scored.gate is not None:
        _draw_gate(axes["gate"], scored, segment)
    if frames:
        _draw_frames(axes["frames"], scored, frames, segment, alarm)
    _draw_words(axes["words"], scored, lines, segment, parts["words"])
    return fig


def _time_axis(ax, scored):
    ax.set_xlim(scored.times[0, 0], scored.end)
    at = ticks(scored.times[0, 0], scored.end)
    ax.set_xticks(at, [clock(t).removesuffix(".0") for t in at])


def _stairs(scored, values):
    return scored.times.reshape(-1), np.repeat(values, 2)


def _draw_score(ax, scored, found, segment):
    for k, a in enumerate(found):
        ax.axvspan(a.start, a.end, color=ORANGE, alpha=0.25, lw=0, label="" if k else "alarm")
    ax.plot(*_stairs(scored, scored.scores), color=BLUE, label="score", lw=1.2 if len(scored.scores) < 300 else 0.7)
    ax.axhline(scored.threshold, color="0.2", lw=0.8, ls="--", label="threshold")
    if scored.truth is not None:
        for k, (a, b) in enumerate(scored.truth):
            ax.axvspan(a, b, ymin=0.96, ymax=1, color=GREEN, lw=0, label="" if k else "true event")
    ax.axvline(scored.times[segment].mean(), color="k", lw=0.8)
    low, high = min(0, scored.scores.min()), max(scored.scores.max(), scored.threshold)
    ax.set_ylim(low, 1.08 if high <= 1 else high * 1.1)
    _time_axis(ax, scored)
    ax.set_ylabel("score")
    ax.set_title(f"{scored.name}: score {scored.scores[segment]:.2f} at {clock(scored.times[segment, 0])}", loc="left")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4, borderaxespad=0.1)


def _draw_gate(ax, scored, segment):
    ax.plot(*_stairs(scored, scored.gate), color=PURPLE, lw=1.2 if len(scored.gate) < 300 else 0.7)
    ax.axhline(0.5, color="0.6", lw=0.5)
    ax.axvline(scored.times[segment].mean(), color="k", lw=0.8)
    ax.set(ylim=(0, 1), yticks=(0, 1), yticklabels=("words", "vision"), ylabel="gate")
    _time_axis(ax, scored)


def _frame_height(scored):
    return plots.PAGE * 0.93 / FRAMES * scored.thumbnails.shape[1] / scored.thumbnails.shape[2]


def _around(scored, segment, alarm):
    """Up to FRAMES numbers of thumbnails around a moment: before, start, the moment, end, after."""
    if scored.thumbnails is None:
        return []
    first, last = (segment - 2, segment + 2) if alarm is None else (alarm.first, alarm.last)
    wide = max(2, (last - first) // 2)
    wanted = np.clip([first - wide, first, segment, last, last + wide], 0, len(scored.scores) - 1)
    chosen = sorted({scored.picture(s) for s in wanted})
    spare = sorted(set(range(len(scored.thumbnails))) - set(chosen), key=lambda i: abs(scored.shown[i] - segment))
    return sorted(chosen + spare[:FRAMES - len(chosen)])


def _draw_frames(ax, scored, frames, segment, alarm):
    h, w = scored.thumbnails.shape[1:3]
    here = scored.picture(segment)
    for k, i in enumerate(frames):
        left = k * (w + 0.03 * w)
        ax.imshow(scored.thumbnails[i], extent=(left, left + w, h, 0), interpolation="nearest", aspect="equal")
        at = scored.shown[i]
        inside = alarm is not None and alarm.first <= at <= alarm.last
        ax.text(left, -0.03 * h, clock(scored.times[at].mean()) + (" alarm" if inside else ""), fontsize=7, va="bottom",
                color=ORANGE if inside else "0.3", fontweight="bold" if i == here else "normal")
        if i == here:
            ax.add_patch(plt.Rectangle((left, 0), w, h, fill=False, ec="k", lw=1.5))
    ax.set(xlim=(0, FRAMES * 1.03 * w), ylim=(h, -0.14 * h), anchor="W")
    ax.set_axis_off()


def _lines(scored, segment):
    """Captions to print, in order of time: the most attended ones, or the nearest without attention."""
    if not scored.captions:
        return []
    mass = np.bincount(scored.caption, scored.weights[segment], len(scored.captions))
    away = np.abs(np.array([time for time, _ in scored.captions]) - scored.times[segment].mean())
    chosen = set(np.lexsort((away, -mass))[:LINES].tolist())
    if nearest(scored, segment) not in chosen:
        chosen = {nearest(scored, segment), *np.lexsort((away, -mass))[:LINES - 1].tolist()}
    return sorted(chosen, key=lambda k: scored.captions[k][0])


def _draw_words(ax, scored, lines, segment, inches):
    """Words in a monospaced font, so that each one's place is known; the shade is attention over its largest value."""
    ax.set_axis_off()
    size = 6.5                                                                           # points
    ax.figure.draw_without_rendering()                                                   # the width is known now
    letters = ax.get_window_extent().width / ax.figure.dpi * 72 / (size * LETTER)        # that fit in the width
    ax.set(xlim=(0, letters), ylim=(inches, 0))
    weights = scored.weights[segment]
    top = max(weights.max(initial=0), 1e-12)
    say = "attention at this moment to the words of its captions" if scored.attention is not None else "captions"
    ax.text(0, 0.1, say if scored.captions else "no captions", fontsize=7, color="0.3", va="center")
    for row, k in enumerate(lines):
        y, x = 0.3 + 0.16 * row, 10
        ax.text(0, y, clock(scored.captions[k][0]), fontsize=size, family="DejaVu Sans Mono", va="center", color="0.3")
        own = np.flatnonzero(scored.caption == k)
        words = [(scored.words[i], weights[i] / top) for i in own] or [(w, 0) for w in scored.captions[k][1].split()]
        for word, share in words:
            if x + len(word) > letters - 2:
                ax.text(x, y, "...", fontsize=size, family="DejaVu Sans Mono", va="center")
                break
            shade = tuple(1 - share * (1 - c) for c in to_rgb(AMBER))
            if share > 0.02:
                ax.add_patch(plt.Rectangle((x - 0.3, y - 0.075), len(word) + 0.6, 0.15, fc=shade, ec="none"))
            ax.text(x, y, word, fontsize=size, family="DejaVu Sans Mono", va="center",
                    parse_math=False)
            x += len(word) + 1


def write_report(out: Path | str, items, shortest: int = 1, gap: int = 0, strips: bool = True) -> list[Path]:
    """Files on scored videos: scores.csv, events.json, a page and a strip each, and index.html when there are several.

    Arguments
        out       folder, made when absent; files of the same names are replaced
        items     Scored videos with different names
        shortest, gap  in segments, as in `alarms`; strips: also a PNG of the strongest moment
    scores.csv: video, time, end (s, of a segment), score. events.json: for each video its threshold, alarms (start,
    end, peak in s, score, caption, words) and the true intervals where known. A single video's page is index.html.
    Each file is written aside and renamed. Returns the paths, the page to open first. Raises ValueError without
    videos and on equal names.
    """
    out, items = Path(out), list(items)
    names = [v.name for v in items]
    if not items or len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(f"{len(items)} videos, names used twice: {twice}; expected at least one video, each with a "
                         "name of its own")
    out.mkdir(parents=True, exist_ok=True)
    written, slugs = [], _slugs(names)

    def put(name, text):
        runs.write_text(out / name, text)
        written.append(out / name)

    if len(items) > 1:
        put("index.html", index(items, [f"{slug}.html" for slug in slugs], shortest, gap))
    pairs = list(zip(items, slugs, strict=True))
    for video, slug in runs.progress(pairs, "pages") if len(items) > 3 else pairs:
        single = len(items) == 1
        put("index.html" if single else f"{slug}.html", page(video, shortest, gap, None if single else "index.html"))
        if strips:
            fig, part = strip(video, None, shortest, gap), out / f"{slug}.png.part"
            fig.savefig(part, format="png", dpi=200, metadata={"Software": "matplotlib"})
            plt.close(fig)
            os.replace(part, out / f"{slug}.png")
            written.append(out / f"{slug}.png")
    table = pd.DataFrame({"video": np.repeat(names, [len(v.scores) for v in items]),
                          "time": np.concatenate([v.times[:, 0] for v in items]),
                          "end": np.concatenate([v.times[:, 1] for v in items]),
                          "score": np.concatenate([v.scores for v in items])})
    put("scores.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    put("events.json", json.dumps([_record(v, shortest, gap) for v in items], indent=1) + "\n")
    return written


def _slugs(names):
    """File names without extension: letters, digits, dots and dashes, each one different and none "index"."""
    out = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._")[:80] or "video"
        slug, k = base, 2
        while slug.lower() in {s.lower() for s in out} | {"index"}:
            slug, k = f"{base}_{k}", k + 1
        out.append(slug)
    return out


def _record(video, shortest, gap):
    short = lambda v: float(f"{v:.6g}")
    events = [{"start": short(a.start), "end": short(a.end), "peak": short(video.times[a.peak].mean()),
               "score": short(a.score), "caption": a.caption,
               "words": [{"word": w, "attention": short(v)} for w, v in a.words],
               **({} if a.iou is None else {"overlap_with_truth": short(a.iou)})}
              for a in alarms(video, shortest, gap)]
    truth = None if video.truth is None else video.truth.tolist()
    return {"video": video.name, "length": short(video.end - video.times[0, 0]), "threshold": short(video.threshold),
            "alarms": events, "truth": truth}
