"""A scored video as one HTML page without outside parts: timeline, frames, captions and the words behind an alarm.

Axes: T segments, L words. Drawing on the page is 1000 wide (time) and 100 high (score), stretched by the browser.
"""

import base64
import io
import json
import re
from html import escape

import numpy as np
from PIL import Image

from cmf.studies.scored import Scored, alarms, clock, nearest, ticks
from cmf.studies.timeline_look import CSS, JS

PICTURES = 800_000  # bytes of all pictures of a page, at most
WORDS = 24          # most attended words kept of each segment, at most
ENTRIES = 20_000    # and in all
WIDE = 224          # pixels, width of a picture at most
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(scored: Scored, shortest: int = 1, gap: int = 0, back: str | None = None) -> str:
    """The page of one video, an HTML document that needs no network and no other file.

    Arguments: shortest, gap as in `alarms`; back: relative address of an index page, linked at the top.
    At most PICTURES bytes of pictures and WORDS words a segment are kept: a ten-minute video stays below 1.5 MB.
    Pictures are kept at the peaks of alarms first, then through the alarms, then evenly; each states its own time.
    """
    found = alarms(scored, shortest, gap)
    pictures = _pictures(scored, found)
    low, high = _limits(scored)
    strongest = int(scored.scores.argmax())
    count = "no alarm" if not found else "1 alarm" if len(found) == 1 else f"{len(found)} alarms"
    facts = (f"{count} in {clock(scored.end - scored.times[0, 0])}; highest score {scored.scores[strongest]:.2f} at "
             f"{clock(scored.times[strongest, 0])}; threshold {scored.threshold:.2f}")
    data = {"start": _round(scored.times[:, 0]), "end": _round(scored.times[:, 1]), "score": _round(scored.scores),
            "gate": None if scored.gate is None else _round(scored.gate), "till": scored.end,
            "threshold": scored.threshold, "words": _strongest(scored), "text": list(scored.words),
            "of": scored.caption.tolist(),
            "near": [nearest(scored, i) for i in range(len(scored.scores))],
            "at": _round([time for time, _ in scored.captions]), "pictures": pictures,
            "alarms": [[a.first, a.last, a.peak] for a in found],
            "select": max(found, key=lambda a: a.score).peak if found else strongest}
    top = f'<p class="back"><a href="{escape(back)}">All videos</a></p>' if back else ""
    note = f'<p class="note">{escape(scored.note)}</p>' if scored.note else ""
    return _document(scored.name, f"""{top}<header><h1>{escape(scored.name)}</h1><p class="facts">{facts}</p>{note}
</header>
<main>
<section aria-labelledby="h-time"><h2 id="h-time">Timeline</h2>
{_chart(scored, found, low, high)}
<p class="help">Point at the timeline to look at a moment, click to keep it. With the keyboard: left and right one
segment, page up and down ten, home and end, N and P next and previous alarm.</p></section>
<section aria-labelledby="h-moment"><h2 id="h-moment">Moment</h2><div class="moment">
<figure id="frame"{'' if pictures else ' hidden'}><img id="picture" alt=""><figcaption id="taken"></figcaption></figure>
<div><p id="now" class="now"></p><div id="top"></div></div></div></section>
{_captions(scored)}
<section aria-labelledby="h-alarms"><h2 id="h-alarms">Alarms</h2>{_table(scored, found, bool(pictures))}</section>
</main>
<noscript><p>This browser runs no scripts here: the timeline, captions and alarms are shown, moments cannot be
selected.</p></noscript>
<script type="application/json" id="data">{_json(data)}</script><script>{JS}</script>""")


def index(scored: list[Scored], addresses: list[str], shortest: int = 1, gap: int = 0) -> str:
    """A page with one line a video: link, length, alarms, highest score and its curve.

    Arguments: addresses, one relative address a video. Raises ValueError when their numbers differ.
    """
    if len(scored) != len(addresses) or not scored:
        raise ValueError(f"{len(scored)} videos but {len(addresses)} addresses; expected one each, at least one")
    known = any(v.truth is not None for v in scored)
    rows = []
    for video, address in zip(scored, addresses, strict=True):
        found = alarms(video, shortest, gap)
        low, high = _limits(video)
        truth = "unknown" if video.truth is None else _truth(video)
        truth = f'<td data-label="True events">{truth}</td>' if known else ""
        label = f"Score over {clock(video.end - video.times[0, 0])}"
        rows.append(f'<tr><th scope="row"><a href="{escape(address)}">{escape(video.name)}</a></th>'
                    f'<td class="n" data-label="Length">{clock(video.end - video.times[0, 0])}</td><td class="n" '
                    f'data-label="Alarms">{len(found)}</td><td class="n" data-label="Highest score">'
                    f'{video.scores.max():.2f}</td>{truth}<td class="spark dense"><svg '
                    f'viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{label}">'
                    f'{_bands(video, found)}<path class="score" d="{_steps(video, video.scores, low, high)}"/></svg>'
                    "</td></tr>")
    total = sum(len(alarms(v, shortest, gap)) for v in scored)
    head = '<th scope="col">True events</th>' if known else ""
    return _document("Scored videos", f"""<header><h1>Scored videos</h1><p class="facts">{len(scored)} videos, {total}
alarms</p></header><main><div class="scroll"><table class="stack"><thead><tr><th scope="col">Video</th><th scope="col"
class="n">Length</th><th scope="col" class="n">Alarms</th><th scope="col" class="n">Highest score</th>{head}<th
scope="col">Score over time</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></main>""")


def _document(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">
<title>{escape(title)}</title><style>{CSS}</style></head><body>
{body}
</body></html>
"""


def _json(data) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _round(values, digits=3) -> list[float]:
    return np.round(np.asarray(values, float), digits).tolist()


def _limits(scored: Scored) -> tuple[float, float]:
    """Ends of the score axis: 0 to 1 for probabilities, else what the scores and the threshold need."""
    values = [*scored.scores, scored.threshold]
    low, high = min(0.0, min(values)), max(values)
    return (low, 1.0) if high <= 1 else (low, high * 1.05)


def _x(scored: Scored, time):
    """Place of a time on a drawing 1000 wide."""
    first = scored.times[0, 0]
    return np.clip((np.asarray(time, float) - first) / (scored.end - first), 0, 1) * 1000


def _steps(scored: Scored, values, low: float, high: float) -> str:
    """SVG path of a value that is constant over each segment."""
    x = np.round(_x(scored, scored.times), 2)
    y = np.round(100 * (1 - (values - low) / (high - low)), 1)
    return "M" + "L".join(f"{a:g} {v:g}H{b:g}" for (a, b), v in zip(x, y, strict=True))


def _bands(scored: Scored, found, name: str = "alarm", times=None) -> str:
    times = [(a.start, a.end) for a in found] if times is None else times
    out = []
    for start, end in times:
        a, b = (float(v) for v in _x(scored, [start, end]))
        out.append(f'<rect class="{name}" x="{a:.2f}" y="0" width="{max(b - a, 0.5):.2f}" height="100"/>')
    return "".join(out)


def _chart(scored: Scored, found, low: float, high: float) -> str:
    """Lanes above each other, one axis of time; the whole is one slider to a keyboard or screen reader."""
    svg = lambda inside: f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'
    level = 100 * (1 - (scored.threshold - low) / (high - low))
    line = f'<line class="threshold" x1="0" x2="1000" y1="{level:.2f}" y2="{level:.2f}"/>'
    levels = "".join(f'<span style="top:{100 * (1 - (v - low) / (high - low)):.1f}%">{v:.3g}</span>' for v in
                    (low, (low + high) / 2, high))
    curve = f'<path class="score" d="{_steps(scored, scored.scores, low, high)}"/>'
    lanes = [f'<div class="lane score-lane"><b>score</b><div class="ticks" aria-hidden="true">{levels}</div>'
             f'{svg(_bands(scored, found) + line + curve)}</div>']
    if scored.truth is not None:
        lanes.append(f'<div class="lane thin"><b>truth</b>{svg(_bands(scored, (), "truth", scored.truth))}</div>')
    if scored.gate is not None:
        lanes.append('<div class="lane gate-lane"><b>gate</b><div class="ticks" aria-hidden="true">'
                     '<span style="top:20%">vision</span><span style="top:80%">words</span></div>'
                     + svg('<line class="half" x1="0" x2="1000" y1="50" y2="50"/>'
                           f'<path class="gate" d="{_steps(scored, scored.gate, 0, 1)}"/>') + "</div>")
    if scored.captions:
        marks = "".join(f'<line class="mark" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100"/>'
                        for x in _x(scored, [time for time, _ in scored.captions]))
        lanes.append(f'<div class="lane thin"><b>captions</b>{svg(marks)}</div>')
    first, span = scored.times[0, 0], scored.end - scored.times[0, 0]
    axis = "".join(f'<span style="left:{100 * (t - first) / span:.2f}%">{clock(t).removesuffix(".0")}</span>'
                   for t in ticks(first, scored.end))
    key = ('<span class="key k-score">score</span><span class="key k-threshold">threshold</span>'
           '<span class="key k-alarm">alarm</span>')
    key += '<span class="key k-truth">true event</span>' if scored.truth is not None else ""
    key += '<span class="key k-gate">gate: up vision, down words</span>' if scored.gate is not None else ""
    dense = " dense" if len(scored.scores) > 300 else ""
    return (f'<div id="chart" class="chart{dense}" role="slider" tabindex="0" aria-label="Moment of the video" '
            f'aria-valuemin="0" aria-valuemax="{len(scored.scores) - 1}" aria-valuenow="0">'
            f'{"".join(lanes)}<div class="cursor" id="cursor"></div></div>'
            f'<div class="axis" aria-hidden="true">{axis}</div><div id="film" class="film" aria-hidden="true"></div>'
            f'<p class="keys">{key}</p>')


def _spaced(word: str) -> str:
    return "" if re.fullmatch(r"[.,;:!?')]+", word) else " "


def _captions(scored: Scored) -> str:
    if not scored.captions:
        return ('<section aria-labelledby="h-words"><h2 id="h-words">Captions</h2><p>This video has no captions.</p>'
                '</section>')
    spans = [[] for _ in scored.captions]
    for i, (word, k) in enumerate(zip(scored.words, scored.caption, strict=True)):
        spans[k].append(f'{_spaced(word)}<span class="w" id="w{i}">{escape(word)}</span>')
    rows = [f'<li id="c{k}"><a href="#t={time:.2f}">{clock(time)}</a> <span>{"".join(spans[k]) or escape(text)}</span>'
            "</li>" for k, (time, text) in enumerate(scored.captions)]
    shade = ("Shade: attention of the selected moment to the word, mean over heads, the fuller the stronger; "
             "underlined: the three strongest." if scored.attention is not None else "No attention was recorded.")
    return (f'<section aria-labelledby="h-words"><h2 id="h-words">Captions</h2><p class="help">{shade}</p>'
            f'<ol class="captions" id="captions" tabindex="0" aria-label="Captions in order of time">'
            f'{"".join(rows)}</ol></section>')


def _truth(scored: Scored) -> str:
    return ", ".join(f"{clock(a)} to {clock(b)}" for a, b in scored.truth) or "none"


def _table(scored: Scored, found, pictures: bool) -> str:
    known = "" if scored.truth is None else f"<p>True events: {_truth(scored)}.</p>"
    if not found:
        return f"<p>No segment reaches the threshold.</p>{known}"
    rows, attends = [], scored.attention is not None and len(scored.words) > 0
    for a in found:
        words = ", ".join(f"{escape(w)}&nbsp;{weight:.2f}" for w, weight in a.words) or "none"
        image = f'<td><img data-of="{a.peak}" alt=""></td>' if pictures else ""
        iou = "" if a.iou is None else f'<td class="n" data-label="Overlap with truth">{a.iou:.2f}</td>'
        rows.append(f'<tr><th scope="row"><a href="#t={scored.times[a.peak].mean():.2f}">{clock(a.start)} to '
                    f'{clock(a.end)}</a></th>{image}<td class="n" data-label="Score">{a.score:.2f}</td>{iou}'
                    + (f'<td data-label="Nearest caption">{escape(a.caption)}</td>' if scored.captions else "")
                    + (f'<td data-label="Most attended words">{words}</td>' if attends else "") + "</tr>")
    return ('<div class="scroll"><table class="stack"><thead><tr><th scope="col">Time</th>'
            + ('<th scope="col">Frame</th>' if pictures else "") + '<th scope="col" class="n">Score</th>'
            + ('' if scored.truth is None else '<th scope="col" class="n">Overlap with truth</th>')
            + ('<th scope="col">Nearest caption</th>' if scored.captions else "")
            + ('<th scope="col">Most attended words</th>' if attends else "") + "</tr></thead><tbody>"
            + "".join(rows) + f"</tbody></table></div>{known}")


def _strongest(scored: Scored) -> list:
    """For each segment [word, weight, word, weight, ...], strongest first, weights in thousandths."""
    if scored.attention is None or not scored.words:
        return []
    weights = scored.weights
    keep = int(np.clip(ENTRIES // len(weights), 4, WORDS))
    order = np.argsort(-weights, axis=1, kind="stable")[:, :keep]
    values = np.round(1000 * np.take_along_axis(weights, order, 1)).astype(int)
    return [[int(n) for pair in zip(o, v, strict=True) if pair[1] > 0 for n in pair]
            for o, v in zip(order, values, strict=True)]


def _jpeg(frame: np.ndarray) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((WIDE, WIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _pictures(scored: Scored, found) -> list:
    """[segment, data URI] in order of time, within PICTURES; a quarter each at peaks and through alarms at most."""
    if scored.thumbnails is None:
        return []
    count = len(scored.thumbnails)
    probe = np.unique(np.linspace(0, count - 1, 8).round().astype(int))
    room = max(2, int(PICTURES / (1.1 * max(len(_jpeg(scored.thumbnails[i])) for i in probe))))
    evenly = lambda values, most: [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]
    chosen = range(count)
    if count > room:
        peaks = [a.peak for a in sorted(found, key=lambda a: -a.score)][:room // 4]
        inside = [s for a in found for s in range(a.first, a.last + 1)]
        some = {scored.picture(s) for s in peaks + (evenly(inside, room // 4) if inside else [])}
        chosen = sorted(some | set(evenly(range(count), room - len(some))))
    return [[int(scored.shown[i]), _jpeg(scored.thumbnails[i])] for i in chosen]
