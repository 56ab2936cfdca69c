"""Equations of the paper on CMFS: test_eq_<label> holds the equation labelled eq:<label>.

The right-hand sides are written out as they are printed and compared with the package.
Axes: B pictures, C channels outside and E inside a scan, K directions or classes, N states or regions a side, H, W rows
and columns, L = H W steps, P prompts, D text width.
"""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional


def kept_of(parts):
    """What enters and leaves modules by name, the last time that each runs."""
    kept = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, out, name=name: kept.update({name: (inputs, out)}))
    return kept


def picture(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def stirred(module):
    """The module in eval mode with no number at zero or one by its start."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * (torch.rand(parameter.shape, generator=draw) - 0.5)
    return module.eval()


def per_pixel(weight, x, bias=None):
    """weight (C', C) at each pixel of x (B, C, H, W)."""
    y = torch.einsum("dc,bchw->bdhw", weight, x)
    return y if bias is None else y + bias[:, None, None]


def norm(part, x):
    """Layer norm of x (B, C, H, W) over C."""
    x = (x - x.mean(1, True)) / (x.var(1, correction=0, keepdim=True) + part.eps).sqrt()
    return part.weight[:, None, None] * x + part.bias[:, None, None]


def silu(x):
    return x / (1 + (-x).exp())


def recurrence(part, k, u):
    """y (B, E, L) of direction k of `Scans` for u (B, E, L), step by step."""
    own = lambda x: x.unflatten(0, (part.directions, -1))[k]
    a, d, w = own(part.A_logs), own(part.Ds), part.x_proj_weight[k]
    h, out = torch.zeros(len(u), *a.shape), []                                                # (B, E, N)
    for step in u.unbind(-1):
        s, b, c = (step @ w.T).split([part.rank, part.states, part.states], 1)
        delta = (1 + (s @ part.dt_projs_weight[k].T + part.dt_projs_bias[k]).exp()).log()
        h = (delta[:, :, None] * -a.exp()).exp() * h + (delta * step)[:, :, None] * b[:, None]
        out.append((c[:, None] * h).sum(-1) + d * step)
    return torch.stack(out, -1)


def test_eq_cmfs_scan():
    from cmf.blocks.ss2d import Scans

    torch.manual_seed(0)
    part = stirred(Scans(3, 5, states=4, rank=2))
    u = picture(2, 3, 5, 9)
    y = part.run(u, part.x_proj_weight @ u, 0, 5)
    expected = torch.stack([recurrence(part, k, u[:, k]) for k in range(3)], 1)
    assert torch.allclose(y, expected, atol=1e-6)
    start = Scans(1, 2, states=3, rank=1)
    assert torch.allclose(-start.A_logs.exp(), torch.tensor([-1.0, -2, -3]).expand(2, 3)) and (start.Ds == 1).all()


def test_eq_cmfs_hold():
    from cmf.blocks.scan import selective_scan

    a, delta, u, b, h0, parts = -2.0, 0.7, 1.3, 0.8, 0.5, 200_000
    h = h0
    for _ in range(parts):
        h += delta / parts * (a * h + b * u)
    fraction = (math.exp(delta * a) - 1) / (delta * a)
    assert h == pytest.approx(math.exp(delta * a) * h0 + fraction * delta * u * b, rel=1e-5) and 0 < fraction < 1
    one = lambda *x: torch.tensor(x, dtype=torch.float64)[None, None]
    y = selective_scan(one(h0 / delta / b, u), one(delta, delta), one(a)[0], one(b, b), one(1, 1))
    assert y[0, 0, 1].item() == pytest.approx(math.exp(delta * a) * h0 + delta * u * b)


def order(height, width, key, turned):
    """Pixels (L,) of a picture by `key` of their row and column."""
    told = lambda n: key(n % width, n // width) if turned else key(n // width, n % width)
    return torch.tensor(sorted(range(height * width), key=told))


def orders(height, width, key):
    """The four directions of an order, (L,) each."""
    first, second = order(height, width, key, False), order(height, width, key, True)
    return first, second, first.flip(0), second.flip(0)


RASTER = lambda i, j: (i, j)                              # noqa: E731
WINDOWS = lambda i, j: (i // 4, j // 4, i % 4, j % 4)     # noqa: E731
DILATED = lambda i, j: (i % 4, j % 4, i // 4, j // 4)     # noqa: E731


def block(part, x, read, write):
    """A block of the scan in four directions: pixels are read in orders `read` and put back in orders `write`."""
    inner = part.out_proj.in_features
    u = F.conv2d(per_pixel(part.in_proj.weight[:inner], x), part.conv2d.weight, part.conv2d.bias, padding=1,
                 groups=inner)
    u = silu(u).flatten(2)                                                                    # (B, E, L)
    y = torch.zeros_like(u)
    for k in range(4):
        y[..., write[k]] += recurrence(part, k, u[..., read[k]])
    y = norm(part.out_norm, y.unflatten(2, x.shape[2:]))
    return per_pixel(part.out_proj.weight, y * silu(per_pixel(part.in_proj.weight[inner:], x)) if part.gated else y)


def scan_of(seed=0, **changes):
    from cmf.blocks.ss2d import SS2D

    torch.manual_seed(seed)
    return stirred(SS2D(16, **dict(ratio=0.5, states=3, rank=2) | changes))


@torch.no_grad()
def test_eq_cmfs_merge():
    x = picture(2, 16, 6, 9)
    for key, changes in ((RASTER, {}), (WINDOWS, dict(tile=4)), (DILATED, dict(tile=4, dilated=True))):
        own = orders(6, 9, key)
        part = scan_of(**changes)
        assert torch.allclose(part(x), block(part, x, own, own), atol=1e-5), changes


def test_eq_cmfs_order():
    from cmf.blocks.scan import visiting_order

    for height, width in ((8, 12), (7, 10)):
        for turned in (False, True):
            for key, dilated in ((WINDOWS, False), (DILATED, True)):
                assert torch.equal(visiting_order(height, width, 4, dilated, turned), order(height, width, key, turned))


@torch.no_grad()
def test_eq_cmfs_published_order():
    x, part = picture(1, 16, 8, 12), scan_of(tile=4, dilated=True, inverse=False, gated=True)
    assert torch.allclose(part(x), block(part, x, orders(8, 12, DILATED), orders(8, 12, RASTER)), atol=1e-5)
    read, write = order(120, 160, DILATED, False), torch.arange(19_200)
    away = ((read // 160 - write // 160).square() + (read % 160 - write % 160).square()).double().sqrt()
    assert (away == 0).sum() == 2 and round(away.mean().item()) == 66


@torch.no_grad()
def test_eq_cmfs_block():
    x, own = picture(2, 16, 5, 6), orders(5, 6, RASTER)
    for gated in (False, True):
        part = scan_of(gated=gated)
        assert torch.allclose(part(x), block(part, x, own, own), atol=1e-5), gated


@torch.no_grad()
def test_eq_cmfs_layer():
    from cmf.blocks.vmamba import VSSBlock

    torch.manual_seed(0)
    layer, x, own = stirred(VSSBlock(16)), picture(2, 16, 5, 6), orders(5, 6, RASTER)
    half = x + block(layer.op, norm(layer.norm, x), own, own)
    wide = F.gelu(per_pixel(layer.mlp.fc1.weight, norm(layer.norm2, half), layer.mlp.fc1.bias))
    assert torch.allclose(layer(x), half + per_pixel(layer.mlp.fc2.weight, wide, layer.mlp.fc2.bias), atol=1e-5)
    assert layer.op.states == 1 and not layer.op.gated


def mixed(part, x):
    """The scan of rows in two directions: x (B, C, H, W)."""
    inner = part.out_proj.in_features
    x, z = per_pixel(part.in_proj.weight, x).split(inner, 1)
    size, x, both = x.shape[2:], x.flatten(2), 0
    for d, turn in enumerate((lambda t: t, lambda t: t.flip(-1))):
        own = slice(d * inner, (d + 1) * inner)
        u = F.conv1d(F.pad(turn(x), (3, 0)), part.conv.weight[own], part.conv.bias[own], groups=inner)
        both = both + turn(recurrence(part, d, silu(u)))
    both = both / (both.square().mean(1, True) + 1e-5).sqrt()
    return per_pixel(part.out_proj.weight, both.unflatten(2, size) * silu(z))


def exchange(size=(7, 10), number=3, seed=1):
    """An interaction, its two inputs and prompts, both streams after their scans, and what it gave."""
    from cmf.blocks.region import Interaction

    torch.manual_seed(seed)
    part = stirred(Interaction(16, number, text=6, states=3))
    x, text = [picture(2, 16, *size, seed=k) for k in (1, 2)], 3 * picture(4, 6, seed=5)
    kept = kept_of(dict(a0=part.attention[0], a1=part.attention[1]))
    with torch.no_grad():
        y = [one + part.mixer[k](part.norm[k](one)) for k, one in enumerate(x)]
        *out, gates = part(*x, text)
    return part, x, text, y, out, gates, kept


@torch.no_grad()
def test_eq_cmfs_mixer():
    part, x, _, y, _, _, _ = exchange()
    for k in (0, 1):
        first, second = part.norm[k]
        rms = norm(first, x[k])
        rms = second.weight[:, None, None] * rms / (rms.square().mean(1, True) + second.eps).sqrt()
        assert torch.allclose(y[k], x[k] + mixed(part.mixer[k], rms), atol=1e-5)


def regions(size, number):
    """Rows and columns of each region, in order; only pixels that are there."""
    h, w = (-(-n // number) for n in size)
    return [(slice(i * h, min((i + 1) * h, size[0])), slice(j * w, min((j + 1) * w, size[1])))
            for i in range(number) for j in range(number)]


def weights(layer, x):
    """a (B, C, 1, 1) and p (B, 1, h, w) of a region x (B, C, h, w) as printed."""
    seen = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
    a = (layer.channel[2](layer.channel[0](seen).clamp_min(0))).sigmoid()[:, :, None, None]
    p = layer.pixel[0](torch.stack([x.mean(1), x.amax(1)], 1)).clamp_min(0)
    return a, layer.pixel[2](p).sigmoid()


@torch.no_grad()
def test_eq_cmfs_attention():
    part, _, _, y, _, _, kept = exchange()
    for k in (0, 1):
        a, p = (t.unflatten(0, (2, -1)) for t in kept[f"a{k}"][1])                            # (B, N N, ...)
        for n, (rows, columns) in enumerate(regions((7, 10), 3)):
            if y[k][..., rows, columns].numel():
                own_a, own_p = weights(part.attention[k], y[k][..., rows, columns])
                assert torch.allclose(a[:, n], own_a, atol=1e-6)
                assert torch.allclose(p[:, n, :, : own_p.shape[2], : own_p.shape[3]], own_p, atol=1e-6)


@torch.no_grad()
def test_eq_cmfs_exchange():
    part, _, _, y, out, gates, _ = exchange()
    both = part.pixel[2](part.pixel[0](torch.cat(y, 1)).clamp_min(0)).sigmoid()
    assert torch.allclose(gates["pixel"], both, atol=1e-6)
    g = gates["region"].flatten(1)
    for n, (rows, columns) in enumerate(regions((7, 10), 3)):
        y1, y2, open_here = (t[..., rows, columns] for t in (*y, both))
        if y1.numel():
            (a1, p1), (a2, p2), own = weights(part.attention[0], y1), weights(part.attention[1], y2), g[:, n]
            own = own[:, None, None, None]
            assert torch.allclose(out[0][..., rows, columns], y1 + own * open_here * (a1 + p1) * y2, atol=1e-5)
            assert torch.allclose(out[1][..., rows, columns], y2 + own * (1 - open_here) * (a2 + p2) * y1, atol=1e-5)


@torch.no_grad()
def test_eq_cmfs_text():
    part, x, text, _, _, gates, _ = exchange()
    v = part.squeeze(torch.cat(x, 1))
    gate, t_k = part.gate, text / text.norm(dim=1, keepdim=True)
    for n, (rows, columns) in enumerate(regions((7, 10), 3)):
        if v[..., rows, columns].numel():
            q = v[..., rows, columns].mean((2, 3)) @ gate.query.weight.T + gate.query.bias
            s = torch.stack([torch.cosine_similarity(q, one[None]) for one in text], 1)
            share = (gate.sharpness.exp() * s).exp()
            t = share / share.sum(1, keepdim=True) @ t_k
            told = torch.cat([math.sqrt(6) * t, s.amax(1, keepdim=True)], 1)
            g = gate.gate[2](gate.gate[0](told).clamp_min(0)).sigmoid()[:, 0]
            assert torch.allclose(gates["region"].flatten(1)[:, n], g, atol=1e-5)
            assert torch.allclose(gates["similarity"].flatten(1, 2)[:, n], s, atol=1e-5)
    turned = part(*x, text.flip(0))[2]["region"]
    assert torch.allclose(turned, gates["region"], atol=1e-6) and part(*x, text[:2])[2]["region"].shape == (2, 3, 3)


@torch.no_grad()
def test_eq_cmfs_published_text():
    from cmf.blocks.region import PublishedTextGate

    torch.manual_seed(0)
    gate, v, text = stirred(PublishedTextGate(12, 4, 6)), picture(3, 8, 4, 6), picture(4, 6, seed=1)
    g, s = gate(v, torch.ones(3, 1, 4, 6), text)
    pooled = v.mean(1).flatten(1).unflatten(1, (12, 2)).mean(-1)                              # (S, pixels)
    q = pooled @ gate.query.weight.T + gate.query.bias
    cos = torch.stack([torch.cosine_similarity(q, one[None]) for one in text], 1)
    inner, outer = gate.gate[0], gate.gate[2]
    hidden = (cos @ inner.weight[:, :, 1, 1].T + inner.bias).clamp_min(0)                     # linear layers
    assert torch.allclose(s, cos, atol=1e-6)
    assert torch.allclose(g[:, :, 0, 0], (hidden @ outer.weight[:, :, 1, 1].T + outer.bias).sigmoid(), atol=1e-6)
    moved = gate(v.roll(1, -1), torch.ones(3, 1, 4, 6), text)[1]
    assert not torch.allclose(moved, s, atol=1e-3)


def test_eq_cmfs_haar():
    from cmf.blocks.spectral import analyse, mosaic, synthesise

    x = picture(1, 1, 2, 2).double()
    a, b, c, d = x.flatten()
    expected = torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]).reshape(1, 1, 2, 2) / 2
    assert torch.allclose(mosaic(analyse(x, "haar", 1)), expected)
    whole = picture(1, 2, 8, 12).double()
    assert torch.isclose(mosaic(analyse(whole, "haar", 2)).square().sum(), whole.square().sum())
    odd = picture(1, 2, 7, 9).double()
    assert torch.allclose(synthesise(analyse(odd, "haar", 2), "haar"), odd)


def collaboration():
    """A frequency-spatial block, its input, and what its parts did."""
    from cmf.blocks.collaboration import Collaboration

    torch.manual_seed(0)
    part, x = stirred(Collaboration(16, states=2, ratio=1)), picture(2, 16, 8, 12)
    kept = kept_of(dict(wavelet=part.wavelet, space=part.spatial, fourier=part.fourier))
    with torch.no_grad():
        return part, x, part(x), kept


@torch.no_grad()
def test_eq_cmfs_wavelet():
    from cmf.blocks.spectral import analyse, cut, mosaic, synthesise

    part, x, _, kept = collaboration()
    layer = part.wavelet
    m = mosaic(analyse(F.gelu(layer.enter[0](x)), "haar", 2))
    own = orders(8, 12, WINDOWS)
    m = layer.scale * m + block(layer.scan, norm(layer.norm, m), own, own)
    assert torch.allclose(kept["wavelet"][1], synthesise(cut(m, 2, (8, 12)), "haar"), atol=1e-5)


@torch.no_grad()
def test_eq_cmfs_space():
    part, x, _, kept = collaboration()
    layer, own = part.spatial, orders(8, 12, RASTER)
    half = layer.scale * x + block(layer.scan, norm(layer.norm, x), own, own)
    first, _, second, weigh = layer.attention
    seen = second(F.gelu(first(norm(layer.norm2, half))))
    seen = seen * weigh.weigh[2](weigh.weigh[0](seen.mean((2, 3), True)).clamp_min(0)).sigmoid()
    assert torch.allclose(kept["space"][1], layer.scale2 * half + seen, atol=1e-5)


def filtered(part, r):
    """The spectrum of r (B, C, H, W) and what the filter makes of it, over all frequencies."""
    spectrum = torch.fft.fft2(r) / math.sqrt(r.shape[2] * r.shape[3])
    leaky = F.leaky_relu(part.enter((1 + spectrum.abs()).log()), 0.1)
    return spectrum, 1 + part.leave(leaky).tanh()


@torch.no_grad()
def test_eq_cmfs_fourier():
    part, _, _, kept = collaboration()
    (r,), z = kept["fourier"]
    spectrum, factor = filtered(part.fourier, r)
    assert torch.allclose(z, math.sqrt(8 * 12) * torch.fft.ifft2(factor * spectrum).real, atol=1e-5)
    assert torch.equal(r[:, :16], kept["space"][1]) and torch.equal(r[:, 16:], kept["wavelet"][1])
    assert 0 < factor.min() and factor.max() < 2 and (factor - 1).abs().max() > 1e-2


@torch.no_grad()
def test_eq_cmfs_published_fourier():
    from cmf.blocks.spectral import Fourier

    torch.manual_seed(0)
    part, y = stirred(Fourier(4, keep_sign=False)), picture(2, 4, 6, 9)
    spectrum, factor = filtered(part, y)
    m, phase = spectrum.abs() * factor, spectrum.angle()
    z = math.sqrt(6 * 9) * torch.fft.ifft2(torch.polar(m, phase)).real.abs()
    assert torch.allclose(part(y), z, atol=1e-5) and torch.allclose(part(-y), part(y), atol=1e-6)


@torch.no_grad()
def test_eq_cmfs_collaborate():
    part, x, out, kept = collaboration()
    joined = F.pad(part.join(kept["fourier"][1]), (1, 1, 1, 1), mode="reflect")
    o = F.gelu(F.conv2d(joined, part.depth.weight, part.depth.bias, groups=16))
    gate = part.gate.weigh[2](F.gelu(part.gate.weigh[0](o.mean((2, 3), True)))).sigmoid()
    assert torch.allclose(out, o * gate, atol=1e-5)
    network, _, _, told = whole()
    (streamed,), added = told["collaboration"]
    assert torch.allclose(told["norm"][0][0], streamed + added, atol=1e-6)


def mixture():
    from cmf.blocks.mixture import Mixture

    torch.manual_seed(0)
    part, x = stirred(Mixture(16, (2, 4, 8), "region", 3, states=2)), picture(2, 16, 8, 12)
    kept = kept_of(dict(experts=part.experts, leave=part.leave, after=part.norm2, mixer=part.mixer[1]))
    with torch.no_grad():
        part(x)
    return part, x, kept


def answers(part, q, k):
    """E_e(q, k) of every expert, (B, C, H, W) each."""
    found, first = [], 0
    for e, rank in enumerate(part.ranks):
        own = slice(first, first + rank)
        first += rank
        inner = F.conv2d(k, part.key.weight[own], part.key.bias[own]) * F.conv2d(q, part.query.weight[own],
                                                                               part.query.bias[own])
        found.append(F.conv2d(inner, part.out.weight[:, own], part.out.weight[:, sum(part.ranks) + e, 0, 0]))
    return found


@torch.no_grad()
def test_eq_cmfs_expert():
    from cmf.blocks.experts import Experts

    torch.manual_seed(0)
    q, k = picture(2, 8, 4, 5), picture(2, 8, 4, 5, seed=1)
    for rank in (2, 4, 8):                                  # alone, an expert is always chosen, with probability one
        part = stirred(Experts(8, (rank,)))
        assert torch.allclose(part(q, k)[0], q + answers(part, q, k)[0], atol=1e-6)


@torch.no_grad()
def test_eq_cmfs_routing():
    part, x, kept = mixture()
    (q, k), (_, routing) = kept["experts"]
    assert torch.allclose(q, F.gelu(mixed(part.mixer[1], kept["mixer"][0][0])), atol=1e-5)
    seen, y = answers(part.experts, q, k), q.clone()
    for n in range(2):
        for i in range(0, 8, 3):
            for j in range(0, 12, 3):
                here = (n, slice(None), slice(i, i + 3), slice(j, j + 3))
                pi = (part.experts.router.weight @ q[here].mean((1, 2))).softmax(0)
                assert torch.allclose(routing.probabilities[n, :, i // 3, j // 3], pi, atol=1e-6)
                assert routing.chosen[n, :, i // 3, j // 3].nonzero().item() == pi.argmax()
                y[here] += pi.max() * seen[pi.argmax()][here]
    after = x + F.conv2d(y, part.leave.weight, part.leave.bias)
    assert torch.allclose(kept["after"][0][0], after, atol=1e-5) and len(routing.probabilities[0]) == 3


def test_eq_cmfs_balance():
    from cmf.blocks.experts import Routing, balance_loss

    pi = picture(4, 3, 5, 5).mul(8).softmax(1)
    chosen = pi == pi.amax(1, keepdim=True)
    f, mean = chosen.double().mean((0, 2, 3)), pi.double().mean((0, 2, 3))
    assert balance_loss(Routing(pi, chosen)).item() == pytest.approx(3 * (f * mean).sum().item())
    one = torch.zeros(2, 3, 1, 1)
    one[:, 1] = 1
    assert balance_loss(Routing(one, one > 0)).item() == 3
    even = torch.eye(3)[:, :, None, None]
    assert balance_loss(Routing(torch.full((3, 3, 1, 1), 1 / 3), even > 0)).item() == pytest.approx(1)


@torch.no_grad()
def test_eq_cmfs_thin():
    from cmf.blocks.mixture import Thin

    torch.manual_seed(0)
    part, x = stirred(Thin(16)), picture(2, 16, 8, 12)
    kept = kept_of(dict(after=part.norm2))
    out = part(x)
    q, v = F.gelu(part.enter[0](norm(part.norm, x))).chunk(2, 1)
    across, along = part.long
    q = F.conv2d(q, across.weight, across.bias, padding=(0, 5), groups=16)
    q = F.conv2d(q, along.weight, along.bias, padding=(5, 0), groups=16)
    after = x + F.conv2d(q * v, part.leave.weight, part.leave.bias)
    assert torch.allclose(kept["after"][0][0], after, atol=1e-5)
    u, g = F.gelu(part.feed.enter[0](norm(part.norm2, after))).chunk(2, 1)
    assert torch.allclose(out, after + F.gelu(part.feed.leave[0](u * part.feed.depth(g))), atol=1e-5)


def whole():
    """A small network, a batch of an odd size, its outputs, and what its parts did."""
    from cmf.methods.cmfs import CMFS, small

    torch.manual_seed(0)
    network = stirred(CMFS(small(5, 6, widths=(16, 24, 32, 40), embed=16), picture(4, 6)))
    batch = dict(visible=picture(2, 3, 45, 70) + 0.5, infrared=picture(2, 1, 45, 70, seed=1) + 0.5)
    parts = dict(collaboration=network.collaboration[0][0], norm=network.norms[0][0], draw=network.fuse.draw)
    parts |= {f"embed{i}": layer for i, layer in enumerate(network.segment.embed)}
    kept = kept_of(parts)
    with torch.no_grad():
        return network, batch, network(batch), kept


def enlarge(x, n, size):
    if n > 1:
        x = F.interpolate(x, scale_factor=n, mode="bilinear", align_corners=False)
    return x[..., :size[0], :size[1]]


@torch.no_grad()
def test_eq_cmfs_label():
    network, _, out, kept = whole()
    head, y = network.segment, 0
    parts = head.join.weight[:, :, 0, 0].split(16, 1)
    for i in range(4):
        y = y + enlarge(per_pixel(parts[i], kept[f"embed{i}"][1]), 2**i, (12, 18))
    y, bn = y + head.join.bias[:, None, None], head.norm
    y = (y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()
    y, own = y * bn.weight[:, None, None] + bn.bias[:, None, None], orders(12, 18, RASTER)
    z = per_pixel(head.classify.weight[:, :, 0, 0], norm(head.norm2, y + block(head.scan, y, own, own)).clamp_min(0),
                  head.classify.bias)
    assert torch.allclose(out["logits"], enlarge(z, 4, (45, 70)), atol=1e-5)


@torch.no_grad()
def test_eq_cmfs_drawn():
    _, batch, out, kept = whole()
    (theta, omega), v, u = kept["draw"][1].split(1, 1), batch["visible"], batch["infrared"]
    y = v[:, :1] * 0.299 + v[:, 1:2] * 0.587 + v[:, 2:] * 0.114
    s, t = 1 / (1 + (-omega - 20 * (y - u)).exp()), theta.tanh()
    b = s * y + (1 - s) * u
    g = b + torch.where(t > 0, t * (1 - b), t * b)
    most = torch.where(v > y, (1 - g) / (v - y), torch.where(v < y, g / (y - v), torch.inf)).amin(1, True)
    f = g + most.clamp(max=1) * (v - y)
    assert torch.allclose(out["fused"], f, atol=1e-5) and (t > 0).any() and (t < 0).any()


def nabla(x):
    """Sobel gradients divided by 4 of each colour, (B, C, 2, H, W), by convolution."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=x.dtype).flip(1) / 4
    padded = F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).unflatten(0, x.shape[:2])


def sources():
    v, u = picture(2, 3, 9, 12).double() + 0.5, picture(2, 1, 9, 12, seed=1).double() + 0.5
    mean = u.mean((2, 3), keepdim=True)
    return v, u, v.sqrt(), (1.7 * u - 0.7 * mean).clamp(0, 1)


def test_eq_cmfs_sources():
    from cmf.segmentation_losses import PUBLISHED, Weights, brightened, contrasted

    v, u, bright, strong = sources()
    released, here = Weights(**PUBLISHED), Weights()
    assert torch.allclose(brightened(v, released.gamma), bright) and torch.equal(brightened(v, here.gamma), v)
    assert torch.allclose(contrasted(u, released.contrast), strong) and torch.equal(contrasted(u, here.contrast), u)


def test_eq_cmfs_fusion():
    from cmf.segmentation_losses import PUBLISHED, Weights, fusion_terms

    v, u, bright, strong = sources()
    f = picture(2, 3, 9, 12, seed=2).double() + 0.5
    both = [nabla(bright), nabla(strong.expand(-1, 3, -1, -1))]
    star = torch.where(both[0].abs() > both[1].abs(), *both)
    chroma = lambda x: torch.stack([y := x[:, 0] * 0.299 + x[:, 1] * 0.587 + x[:, 2] * 0.114,
                                    0.564 * (x[:, 2] - y), 0.713 * (x[:, 0] - y)], 1)[:, 1:]
    found = fusion_terms(f, v, u, Weights(**PUBLISHED | dict(signed=False)))
    greys = lambda x: (x * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None]).sum(1, True)
    here = fusion_terms(f, v, u)
    star_grey = [nabla(greys(v)), nabla(u)]
    star_grey = torch.where(star_grey[0].abs() > star_grey[1].abs(), *star_grey)
    assert torch.isclose(here["intensity"], (greys(f) - torch.maximum(greys(v), u)).abs().mean())
    assert torch.isclose(here["gradient"], (nabla(greys(f)) - star_grey).abs().mean())
    assert torch.isclose(found["intensity"], (f - torch.maximum(bright, strong)).abs().mean())
    assert torch.isclose(found["gradient"], (nabla(f) - star).abs().mean())
    assert torch.isclose(found["colour"], (chroma(f) - chroma(bright)).abs().sum(1).mean())


def test_eq_cmfs_published_gradient():
    from cmf.segmentation_losses import larger_gradient

    _, _, bright, strong = sources()
    strong = strong.expand(-1, 3, -1, -1)
    signed = torch.maximum(nabla(bright), nabla(strong)).transpose(1, 2).flatten(1, 2)
    assert torch.allclose(larger_gradient(bright, strong, signed=True), signed)
    falling, flat = torch.linspace(1, 0, 9).expand(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    assert larger_gradient(falling, flat).min() < 0 and not larger_gradient(falling, flat, signed=True).any()


def test_eq_cmfs_loss():
    from cmf.blocks.experts import balance_loss
    from cmf.segmentation_losses import PUBLISHED, Weights, criterion, fusion_terms

    _, batch, out, _ = whole()
    batch["label"] = torch.randint(0, 5, (2, 45, 70), generator=torch.Generator().manual_seed(0))
    batch["label"][0, :9] = 255
    counted = batch["label"] < 255
    each = -out["logits"].log_softmax(1).gather(1, batch["label"].clamp(max=4)[:, None])[:, 0]
    drawn = fusion_terms(out["fused"], batch["visible"], batch["infrared"])
    balance = np.mean([balance_loss(one).item() for one in out["routing"]])
    total = each[counted].mean() + 0.01 * balance
    total = total + 0.3 * (drawn["intensity"] / 2 + drawn["gradient"] + drawn["colour"])
    assert torch.isclose(criterion()(out, batch)["loss"], total)
    released = Weights(**PUBLISHED)
    assert (released.fusion, released.gradient, released.balance) == (0.1, 0.2, 0)


def test_eq_cmfs_iou():
    from cmf.metrics.segmentation import confusion, miou_interval, scores

    draw = np.random.default_rng(0)
    truth, said = draw.integers(0, 3, 500), draw.integers(1, 4, 500)                          # 3 is nowhere true
    each = []
    for c in range(4):
        h, t, p = ((truth == c) & (said == c)).sum(), (truth == c).sum(), (said == c).sum()
        each.append(h / (t + p - h))
    found = scores(confusion(truth, said, 6))
    assert found["iou"][:4] == pytest.approx(each) and np.isnan(found["iou"][4:]).all()
    assert found["miou"] == pytest.approx(np.mean(each)) and each[3] == 0
    both = [confusion(truth[:250], said[:250], 6), confusion(truth[250:], said[250:], 6)]
    assert miou_interval(both).estimate == pytest.approx(np.mean(each))


def test_eq_cmfs_frozen():
    from cmf.blocks.ss2d import SS2D, Mixer
    from cmf.methods.cmfs import CMFS, PUBLISHED, tiny

    with torch.device("meta"):                              # shapes only
        network = CMFS(tiny(9, published=PUBLISHED))
    four = [m for m in network.modules() if isinstance(m, SS2D)]
    two = [m for m in network.modules() if isinstance(m, Mixer)]
    count = sum(4 * m.width * (2 * m.rank + 3 * m.states + 2) for m in four)
    count += sum(2 * m.width * (m.states + 1) for m in two)
    assert count == 5_213_184 and sum(p.numel() for p in network.parameters()) + 4 == 135_160_556
    own = [p for m in four for p in m.parameters(recurse=False)] + [p for m in two for p in (m.A_logs, m.Ds)]
    assert sum(p.numel() for p in own) == count and not any(p.requires_grad for p in own)
    assert not any(p.requires_grad for m in two for p in m.parameters(recurse=False))         # the arm keeps more


def test_copies_of_clip_in_a_checkpoint():
    numbers = 4 * 151_277_313
    assert round(numbers / 1e6) == 605 and round((numbers + 135_160_556) / 1e6) == 740
