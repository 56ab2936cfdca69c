"""Style and script of the timeline pages: plain CSS and JavaScript, light and dark, from phone to desk."""

CSS = """
:root{color-scheme:light dark;--back:#fff;--card:#f5f6f7;--ink:#16191d;--soft:#555c65;--line:#d5d9de;--score:#0061a1;
--alarm:213,94,0;--truth:#00785a;--gate:#a1457f;--mark:230,159,0;--most:1;--link:#00568f}
@media(prefers-color-scheme:dark){:root{--back:#14171a;--card:#1e2226;--ink:#eceff1;--soft:#a9b1b9;--line:#3a4149;
--score:#6fc1f2;--alarm:240,130,50;--truth:#2fbf95;--gate:#e69ac6;--mark:230,159,0;--most:.5;--link:#86c8f5}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem clamp(.75rem,3vw,2rem) 3rem;max-width:70rem;background:var(--back);
color:var(--ink);font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;margin:.2rem 0;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
p{margin:.3rem 0}a{color:var(--link)}.facts{font-size:1.05rem}
.note,.help,figcaption{color:var(--soft);font-size:.875rem}
:focus-visible{outline:3px solid var(--score);outline-offset:2px}
.chart{position:relative;margin-left:3.6rem;cursor:crosshair;touch-action:pan-y;user-select:none}
.lane{position:relative;margin-bottom:.45rem;background:var(--card)}.score-lane{height:9.5rem}.gate-lane{height:3.6rem}
.thin{height:1rem}.lane svg{display:block;width:100%;height:100%;overflow:visible}
.lane b{position:absolute;right:100%;margin-right:.4rem;top:50%;transform:translateY(-50%);font-size:.78rem;
font-weight:600;color:var(--soft)}
.score-lane b,.gate-lane b{display:none}
.ticks span{position:absolute;right:100%;margin-right:.4rem;transform:translateY(-50%);font-size:.75rem;
color:var(--soft)}
svg path,svg line{fill:none;vector-effect:non-scaling-stroke}path.score{stroke:var(--score);stroke-width:2}
.dense path{stroke-width:1.2!important}
path.gate{stroke:var(--gate);stroke-width:2}line.threshold{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:6 4}
line.half{stroke:var(--line);stroke-width:1}line.mark{stroke:var(--soft);stroke-width:1.5}
rect.alarm{fill:rgba(var(--alarm),.3)}rect.truth{fill:var(--truth)}
.cursor{position:absolute;top:-.2rem;bottom:-.2rem;width:0;border-left:2px solid var(--ink);pointer-events:none}
.cursor:after{content:"";position:absolute;left:-6px;top:-5px;border:5px solid transparent;
border-top:7px solid var(--ink)}
.axis{position:relative;height:1.3rem;margin-left:3.6rem;font-size:.75rem;color:var(--soft)}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.film{display:flex;margin-left:3.6rem;gap:2px}.film img{flex:1 1 0;min-width:0;aspect-ratio:4/3;object-fit:cover}
.keys{margin-left:3.6rem;font-size:.8rem;color:var(--soft)}.key{display:inline-block;margin-right:1.1rem}
.key:before{content:"";display:inline-block;width:1.1rem;margin-right:.35rem;vertical-align:middle;
border-top:2px solid var(--score)}.k-threshold:before{border-top:2px dashed var(--ink)}
.k-gate:before{border-color:var(--gate)}.k-alarm:before{border-top:.7rem solid rgba(var(--alarm),.45)}
.k-truth:before{border-top:.7rem solid var(--truth)}
.moment{display:grid;grid-template-columns:minmax(0,20rem) minmax(0,1fr);gap:1.2rem;align-items:start;min-height:17rem}
figure{margin:0}figure[hidden]+div{grid-column:1/-1}
#picture{display:block;width:100%;background:var(--card);border-radius:4px}
.now{font-size:1.15rem;font-variant-numeric:tabular-nums}
.tag{display:inline-block;padding:0 .5rem;border-radius:3px;background:rgba(var(--alarm),.3);font-weight:600}
.bars{list-style:none;margin:.4rem 0;padding:0}
.bars li{display:grid;grid-template-columns:7.5rem 1fr 7.6rem;gap:.6rem;align-items:center;margin:.16rem 0}
.bars span:first-child{overflow-wrap:anywhere}.bars i{display:block;height:.7rem;border-radius:2px;
background:rgb(var(--mark))}.bars span:last-child{white-space:nowrap;
font-variant-numeric:tabular-nums;color:var(--soft);font-size:.85rem}
.captions{position:relative;list-style:none;margin:0;padding:.3rem;max-height:17rem;overflow:auto;background:var(--card);
border-radius:4px}
.captions li{display:grid;grid-template-columns:4.4rem 1fr;padding:.22rem .5rem;border-left:4px solid transparent}
.captions li.here{border-color:var(--score);background:var(--back)}.captions a{font-variant-numeric:tabular-nums}
.w{border-radius:3px;padding:0 1px;background:rgba(var(--mark),calc(var(--w,0)*var(--most)))}
.w.top{text-decoration:underline;text-decoration-thickness:2px;text-underline-offset:3px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line)}
tbody th{font-weight:600}thead th{font-size:.82rem;color:var(--soft)}.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}td img{width:6rem;display:block;border-radius:3px}
.spark{width:34%;min-width:8rem}.spark svg{display:block;width:100%;height:2.2rem;background:var(--card)}
@media(max-width:40rem){.moment{grid-template-columns:1fr}.chart,.axis,.film,.keys{margin-left:2.9rem}
.score-lane{height:8rem}.lane b,.ticks span{font-size:.68rem;margin-right:.25rem}
.axis span:nth-child(even){display:none}.film img:nth-child(odd){display:none}
.bars li{grid-template-columns:5.5rem 1fr 7.6rem}
.stack thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.stack tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}
.stack th,.stack td{display:block;border:0;padding:.1rem 0;text-align:left;white-space:normal}
.stack .spark{width:100%}.stack td[data-label]:before{content:attr(data-label) ": ";color:var(--soft)}}
@media print{.captions{max-height:none}.help,.cursor{display:none}}
"""

JS = """
(() => {
'use strict';
const d = JSON.parse(document.getElementById('data').textContent), by = id => document.getElementById(id);
const n = d.start.length, from = d.start[0], till = d.till, chart = by('chart');
let kept = 0, marked = [];
const clock = s => {
  const t = Math.round(s * 10), m = Math.floor(t / 600), r = ((t % 600) / 10).toFixed(1).padStart(4, '0');
  return m < 60 ? `${m}:${r}` : `${Math.floor(m / 60)}:${String(m % 60).padStart(2, '0')}:${r}`; };
const at = time => { let a = 0, b = n - 1;
  while (a < b) { const m = (a + b + 1) >> 1; d.start[m] <= time ? a = m : b = m - 1; } return a; };
const nearest = seg => d.pictures.reduce((best, p) => Math.abs(p[0] - seg) < Math.abs(best[0] - seg) ? p : best);
const node = (name, text) => {
  const e = document.createElement(name); if (text !== undefined) e.textContent = text; return e; };
const middle = i => (d.start[i] + d.end[i]) / 2;
const share = i => 100 * (middle(i) - from) / (till - from);

function show(i, scroll) {
  by('cursor').style.left = share(i) + '%';
  const alarm = d.score[i] >= d.threshold, inside = d.alarms.some(a => i >= a[0] && i <= a[1]);
  let said = `${clock(d.start[i])} to ${clock(d.end[i])}, score ${d.score[i].toFixed(2)}`;
  if (d.gate) said += `, gate ${d.gate[i].toFixed(2)}`;
  by('now').replaceChildren(node('span', said + ' '));
  if (inside) { const tag = node('span', 'alarm'); tag.className = 'tag'; by('now').append(tag); }
  chart.setAttribute('aria-valuenow', i);
  chart.setAttribute('aria-valuetext', said + (inside ? ', alarm' : alarm ? ', above threshold' : ''));
  if (d.pictures.length) { const p = nearest(i); by('picture').src = p[1];
    by('picture').alt = `Frame of the video at ${clock(middle(p[0]))}`;
    by('taken').textContent = `Frame at ${clock(middle(p[0]))}` + (p[0] === i ? '' : ', the nearest one kept'); }
  for (const e of marked) { e.style.removeProperty('--w'); e.classList.remove('top', 'here'); }
  marked = [];
  const w = d.words[i] || [], list = node('ul'); list.className = 'bars';
  for (let k = 0; k < w.length; k += 2) {
    const e = by('w' + w[k]);
    e.style.setProperty('--w', (w[k + 1] / w[1]).toFixed(3)); if (k < 6) e.classList.add('top'); marked.push(e);
    if (k < 12) { const li = node('li'), bar = node('i'); bar.style.width = 100 * w[k + 1] / w[1] + '%';
      const hold = node('span'); hold.append(bar);
      li.append(node('span', d.text[w[k]]), hold,
        node('span', `${(w[k + 1] / 1000).toFixed(3)} at ${clock(d.at[d.of[w[k]]])}`)); list.append(li); } }
  const head = node('p', w.length ? 'Most attended words: attention, and the time of the caption' : '');
  head.className = 'help';
  by('top').replaceChildren(head, list);
  if (d.near[i] !== null && d.near[i] !== undefined) { const li = by('c' + d.near[i]), box = by('captions');
    li.classList.add('here'); marked.push(li);
    if (scroll) box.scrollTop = li.offsetTop - (box.clientHeight - li.offsetHeight) / 2; } }

const keep = i => { kept = Math.min(n - 1, Math.max(0, i)); show(kept, true); };
const pointed = e => { const r = chart.getBoundingClientRect();
  return at(from + (till - from) * Math.min(1, Math.max(0, (e.clientX - r.left) / r.width))); };
chart.addEventListener('pointermove', e => {
  if (e.pointerType === 'mouse' && !e.buttons) show(pointed(e), true); else if (e.buttons) keep(pointed(e)); });
chart.addEventListener('pointerdown', e => keep(pointed(e)));
chart.addEventListener('pointerleave', () => show(kept, true));
chart.addEventListener('keydown', e => {
  const peaks = d.alarms.map(a => a[2]), step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10,
    PageDown: -10, Home: -n, End: n }[e.key];
  let to = step === undefined ? undefined : kept + step;
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === 'n' || e.key === 'N') to = peaks.find(p => p > kept);
  if (e.key === 'p' || e.key === 'P') to = peaks.filter(p => p < kept).pop();
  if (to !== undefined) { e.preventDefault(); keep(to); } });
const linked = jump => { const m = /^#t=([0-9.]+)$/.exec(location.hash);
  if (m) keep(at(parseFloat(m[1])));
  if (m && jump) { by('h-time').scrollIntoView(); chart.focus({ preventScroll: true }); }
  return m; };
addEventListener('hashchange', () => linked(true));
document.addEventListener('click', e => { const a = e.target.closest('a[href^="#t="]');
  if (a && a.hash === location.hash) linked(true); });
for (const e of document.querySelectorAll('img[data-of]')) e.src = nearest(+e.dataset.of)[1];
const film = Math.min(12, d.pictures.length);
for (let k = 0; k < film; k++) { const image = node('img'); image.alt = '';
  image.src = nearest(at(from + (till - from) * (k + .5) / film))[1]; by('film').append(image); }
if (!linked(false)) keep(d.select);
})();
"""
