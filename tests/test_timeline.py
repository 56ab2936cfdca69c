"""The timeline of a scored video: alarms, strip, page and report; the page also in a real browser when there is one."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from cmf.studies import timeline
from cmf.studies.scored import Scored, alarms, clock, join_pieces, nearest, ticks

NASTY = '</script><img src=x onerror=alert(1)> & "q"'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def video(name="clip", count=40, seed=0, size=(24, 32), **changes):
    """Segments of 0.5 s, an event from 8 to 12 s, a caption every 4 s, two heads."""
    rng = np.random.default_rng(seed)
    times = 0.5 * np.stack([np.arange(count), np.arange(count) + 1], 1)
    inside = (times[:, 0] >= 8) & (times[:, 0] < 12)
    captions = [(t, "smoke rises" if 8 <= t < 12 else "a man walks") for t in np.arange(2, count / 2, 4.0)]
    words, caption = zip(*[(w, k) for k, (_, text) in enumerate(captions) for w in text.split()], strict=True)
    attention = rng.random((2, count, len(words))) + 3.0 * (np.array(words) == "smoke") * inside[:, None]
    facts = dict(name=name, times=times, scores=0.1 + 0.8 * inside + 0.05 * rng.random(count), threshold=0.5,
                 captions=captions, words=words, caption=caption, gate=rng.random(count), truth=[(8, 12.5)],
                 attention=attention / attention.sum(-1, keepdims=True),
                 thumbnails=rng.integers(0, 255, (count, *size, 3), np.uint8))
    return Scored(**facts | changes)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def embedded(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


# alarms

def test_alarms_know_their_peak_caption_words_and_overlap():
    v = video()
    (found,) = alarms(v)
    assert (found.start, found.end) == (8, 12) and found.score == v.scores.max() == v.scores[found.peak]
    assert found.caption == "smoke rises" and found.words[0][0] == "smoke" and found.iou == pytest.approx(4 / 4.5)
    assert alarms(replace(v, truth=None))[0].iou is None and alarms(replace(v, truth=[]))[0].iou == 0
    assert alarms(v, shortest=9) == [] and alarms(replace(v, threshold=2.0)) == []
    bare = replace(v, captions=(), words=(), caption=(), attention=None, thumbnails=None, shown=None)
    assert alarms(bare)[0].caption == "" and alarms(bare)[0].words == () and nearest(bare, 0) is None


def test_word_pieces_are_joined_and_attention_is_kept():
    attention = np.random.default_rng(0).random((2, 3, 5))
    words, caption, joined = join_pieces(["walk", "##ing", "man", "##s", "##x"], [0, 0, 0, 1, 1], attention)
    assert words == ("walking", "man", "sx") and caption.tolist() == [0, 0, 1]
    assert np.allclose(joined.sum(-1), attention.sum(-1)) and np.allclose(joined[..., 0], attention[..., :2].sum(-1))
    assert join_pieces([], [], np.zeros((1, 2, 0)))[0] == ()
    with pytest.raises(ValueError, match="1 pieces, captions"):
        join_pieces(["a"], [0, 1], np.zeros((1, 1, 1)))


def test_clock_and_ticks():
    assert [clock(t) for t in (0, 59.96, 61.25, 3661)] == ["0:00.0", "1:00.0", "1:01.2", "1:01:01.0"]
    for end in (0.3, 7, 61, 599, 3599, 40_000):
        assert 1 <= len(ticks(0, end)) <= 8 and ticks(0, end)[-1] <= end + 1e-9
    assert ticks(12, 30)[0] == 15


@pytest.mark.parametrize("changes, words", [
    (dict(scores=np.zeros(3)), r"times have shape \(40, 2\) and scores \(3,\)"),
    (dict(times=np.zeros((40, 2))), "segments must rise in time"),
    (dict(scores=np.full(40, np.nan)), "scores or threshold hold NaN"),
    (dict(caption=(0,)), "caption numbers of shape"),
    (dict(attention=np.zeros((2, 40, 3))), r"attention has shape \(2, 40, 3\); expected \(H, 40, 14\)"),
    (dict(gate=np.full(40, 2.0)), "values in 0..1"),
    (dict(truth=[(3, 3)]), "true interval is empty or reversed"),
    (dict(thumbnails=np.zeros((40, 4, 4, 3))), "of float64; expected"),
    (dict(thumbnails=np.zeros((2, 4, 4, 3), np.uint8), shown=[5, 5]), "one rising number in 0..39"),
])
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        video(**changes)


# page

def test_page_needs_nothing_from_outside():
    html = timeline.page(video(note="a note"))
    tags = Tags(html).tags
    outside = [value for _, attrs in tags for key, value in attrs.items()
               if key in ("src", "href", "srcset", "poster", "action", "data", "xlink:href") and value
               and not value.startswith(("data:", "#"))]
    assert outside == [] and not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|import\(", html)
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert "prefers-color-scheme:dark" in html and 'name="viewport"' in html
    slider = next(a for _, a in tags if a.get("role") == "slider")
    assert slider["tabindex"] == "0" and slider["aria-label"] and slider["aria-valuemax"] == "39"
    assert all("alt" in a for t, a in tags if t == "img")


def test_page_escapes_every_text():
    v = video(NASTY, note=NASTY, captions=[(1, NASTY), (3, NASTY)], words=(NASTY, "x"), caption=(0, 0),
              attention=np.ones((1, 40, 2)) / 2)
    for html in (timeline.page(v, back=NASTY), timeline.index([v], ["a.html"])):
        parsed = Tags(html)
        assert not any("onerror" in attrs for _, attrs in parsed.tags)
        assert NASTY in "".join(parsed.text)
    scripts = [t for t, _ in Tags(timeline.page(v)).tags if t == "script"]
    assert len(scripts) == 2 and embedded(timeline.page(v))["text"] == [NASTY, "x"]


def test_page_holds_scores_words_and_alarms():
    v = video()
    data = embedded(timeline.page(v))
    assert np.allclose(data["score"], v.scores, atol=5e-4) and len(data["pictures"]) == 40
    peak = alarms(v)[0].peak
    assert data["alarms"] == [[16, 23, peak]] and data["select"] == peak
    top, weight = data["words"][peak][:2]
    assert v.words[top] == "smoke" and weight == round(1000 * v.weights[peak].max())
    assert data["near"][peak] == 2 and 'href="#t=' in timeline.page(v)


def test_page_without_words_pictures_gate_truth_or_alarm():
    v = video(captions=(), words=(), caption=(), attention=None, gate=None, thumbnails=None, truth=None, threshold=9.0)
    html = timeline.page(v)
    assert "This video has no captions." in html and "No segment reaches the threshold." in html
    assert embedded(html)["pictures"] == [] and 'class="lane thin"' not in html and '<figure id="frame" hidden>' in html
    plt.close(timeline.strip(v))
    only = replace(v, times=[[0, 1.0]], scores=[0.2])
    assert "no alarm in 0:01.0" in timeline.page(only)


def test_ten_minutes_stay_below_a_megabyte_and_a_half():
    v = video(count=940, size=(128, 160))                     # noise, the worst case of a picture
    html = timeline.page(v)
    kept = [s for s, _ in embedded(html)["pictures"]]
    assert len(html) < 1_500_000 and len(kept) > 20
    assert alarms(v)[0].peak in kept and kept == sorted(kept) and kept[0] == 0 and kept[-1] == 939
    few = replace(v, thumbnails=v.thumbnails[:3], shown=[0, 400, 900])
    assert [s for s, _ in embedded(timeline.page(few))["pictures"]] == [0, 400, 900] and few.picture(500) == 1


def test_index_has_a_line_a_video():
    html = timeline.index([video("one"), video("two", truth=None)], ["one.html", "two.html"])
    assert [a["href"] for t, a in Tags(html).tags if t == "a"] == ["one.html", "two.html"]
    assert "0:08.0 to 0:12.5" in html and "unknown" in html
    with pytest.raises(ValueError, match="1 videos but 0 addresses"):
        timeline.index([video()], [])


# strip and report

def test_strip_shows_the_strongest_alarm_and_the_words():
    v = video()
    fig = timeline.strip(v)
    texts = [t.get_text() for ax in fig.axes for t in ax.texts]
    assert "smoke" in texts and sum("alarm" in t for t in texts) == 3 and len(fig.axes) == 4
    assert f"score {v.scores.max():.2f}" in fig.axes[0].get_title(loc="left")
    plt.close(fig)
    with pytest.raises(ValueError, match="segment 40 does not exist"):
        timeline.strip(v, 40)


def test_report_writes_scores_events_pages_and_strips(tmp_path):
    items = [video("a/b"), video("a b", seed=1), video("index", seed=2, truth=None)]
    paths = timeline.write_report(tmp_path / "out", items)
    names = {p.name for p in paths}
    assert names == {p.name for p in (tmp_path / "out").iterdir()} and paths[0].name == "index.html"
    assert {"a_b.html", "a_b_2.html", "index_2.html", "a_b.png", "scores.csv", "events.json"} < names
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.columns) == ["video", "time", "end", "score"] and len(table) == 120
    assert np.allclose(table["score"][:40], items[0].scores, rtol=1e-5) and table["video"][0] == "a/b"
    events = json.loads((tmp_path / "out" / "events.json").read_text())
    assert events[0]["alarms"][0]["start"] == 8 and events[0]["truth"] == [[8, 12.5]] and events[2]["truth"] is None
    assert events[0]["alarms"][0]["words"][0]["word"] == "smoke"
    before = {p.name: p.read_bytes() for p in paths}
    assert before == {p.name: p.read_bytes() for p in timeline.write_report(tmp_path / "out", items)}


def test_a_single_video_is_the_index_itself(tmp_path):
    paths = timeline.write_report(tmp_path, [video()], strips=False)
    assert [p.name for p in paths] == ["index.html", "scores.csv", "events.json"]
    assert "All videos" not in paths[0].read_text()
    for items in ([], [video(), video()]):
        with pytest.raises(ValueError, match="each with a name of its own"):
            timeline.write_report(tmp_path, items)


# a real browser

@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the path")
def test_page_selects_by_link_and_keyboard_in_a_browser(tmp_path):
    press = "".join(f"<script>{{const c=document.getElementById('chart');c.dispatchEvent(new KeyboardEvent('keydown',"
                    f"{{key:'{key}'}}));document.title+=' {key}='+c.getAttribute('aria-valuenow')}}</script>"
                    for key in ("ArrowRight", "PageDown", "End", "Home", "n", "n"))
    v = video(NASTY)
    (tmp_path / "page.html").write_text(timeline.page(v).replace("</body>", press + "</body>"))
    out = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                          f"--user-data-dir={tmp_path / 'user'}", f"file://{tmp_path / 'page.html'}#t=3.1"],
                         capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
    peak = alarms(v)[0].peak
    title = re.search("<title>(.*?)</title>", out.stdout, re.DOTALL)
    assert title, out.stderr[-500:]
    assert title[1].endswith(f" ArrowRight=7 PageDown=0 End=39 Home=0 n={peak} n={peak}")
    tags = Tags(out.stdout).tags
    assert next(a for _, a in tags if a.get("id") == "picture")["src"].startswith("data:image/jpeg")
    marked = [a["id"] for t, a in tags if t == "span" and "top" in a.get("class", "").split()]
    assert len(marked) == 3 and f"w{v.words.index('smoke')}" in marked
    assert not any("onerror" in a for _, a in tags)
