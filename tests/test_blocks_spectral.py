"""Wavelets: exact inverse at any size, energy, the filters themselves. Fourier: identity at the start, sign, phase."""

import numpy as np
import pytest
import torch

from cmf.blocks.spectral import FILTERS, Bands, Fourier, Wavelet, analyse, cut, filters, mosaic, split, synthesise

SIZES = [(1, 1), (1, 6), (2, 2), (3, 5), (8, 8), (16, 12), (17, 31), (33, 21)]


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix(wavelet, length):
    """The transform of one axis as rows, written out tap by tap with wrapping indices."""
    rows = np.zeros((length, length))
    for n in range(length // 2):
        for k, (low, high) in enumerate(zip(*filters(wavelet), strict=True)):
            rows[n, (2 * n + k) % length] += low
            rows[length // 2 + n, (2 * n + k) % length] += high
    return torch.from_numpy(rows)


@pytest.mark.parametrize("wavelet", FILTERS)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_inverse_is_exact_at_any_size(wavelet, levels, size):
    x = maps(2, 3, *size)
    bands = analyse(x, wavelet, levels)
    back = synthesise(bands, wavelet)
    assert back.shape == x.shape and len(bands.details) == levels
    assert (back - x).abs().max() < 1e-12
    again = cut(mosaic(bands), levels, size)
    assert all(torch.equal(a, b) for a, b in zip(again.details, bands.details, strict=True))
    assert torch.equal(again.low, bands.low)


@pytest.mark.parametrize("wavelet", FILTERS)
@pytest.mark.parametrize("length", [2, 4, 6, 16])
def test_axis_is_the_orthogonal_matrix_of_the_filters(wavelet, length):
    rows = matrix(wavelet, length)
    torch.testing.assert_close(rows @ rows.T, torch.eye(length, dtype=torch.float64), rtol=0, atol=1e-14)
    x = maps(3, length)
    torch.testing.assert_close(torch.cat(split(x, wavelet, -1), -1), x @ rows.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("wavelet", FILTERS)
@pytest.mark.parametrize("levels, size", [(1, (2, 6)), (2, (8, 12)), (3, (24, 16))])
def test_energy_and_inner_products_are_kept_where_the_size_allows(wavelet, levels, size):
    x, y = maps(2, 3, *size), maps(2, 3, *size, seed=1)
    p, q = (mosaic(analyse(z, wavelet, levels)) for z in (x, y))
    assert float((p * q).sum()) == pytest.approx(float((x * y).sum()), abs=1e-11)
    assert float(p.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-13)


@pytest.mark.parametrize("wavelet", FILTERS)
def test_energy_at_other_sizes_is_that_of_the_repeated_map(wavelet):
    x = maps(1, 2, 5, 7)
    repeated = torch.nn.functional.pad(x, (0, 1, 0, 3), mode="replicate")
    assert float(mosaic(analyse(x, wavelet, 2)).square().sum()) == pytest.approx(float(repeated.square().sum()))


def test_haar_of_four_pixels():
    a, b, c, d = 1.0, 2.0, 4.0, 9.0
    bands = analyse(torch.tensor([[[[a, b], [c, d]]]], dtype=torch.float64))
    expected = [(a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2]
    assert bands.low.item() == pytest.approx((a + b + c + d) / 2)
    assert bands.details[0].flatten().tolist() == pytest.approx(expected)


def test_a_constant_has_no_details_and_a_slope_none_in_db2_away_from_the_border():
    flat, slope = torch.full((1, 1, 9, 13), 3.0, dtype=torch.float64), torch.arange(16.0, dtype=torch.float64)
    for wavelet in FILTERS:
        bands = analyse(flat, wavelet, 2)
        assert max(d.abs().max() for d in bands.details) < 1e-14
        torch.testing.assert_close(bands.low, torch.full_like(bands.low, 12.0))
    assert split(slope, "db2", -1)[1][:-1].abs().max() < 1e-13
    assert split(slope, "haar", -1)[1].abs().min() > 0.7


def test_mosaic_puts_the_average_top_left_and_details_beside_and_below():
    x = maps(1, 1, 8, 8)
    bands = analyse(x, "haar", 1)
    tall, wide, both = bands.details[0].unbind(2)
    whole = mosaic(bands)
    assert torch.equal(whole[..., :4, :4], bands.low) and torch.equal(whole[..., :4, 4:], wide)
    assert torch.equal(whole[..., 4:, :4], tall) and torch.equal(whole[..., 4:, 4:], both)
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(1, 1, 8, 8)  # change along W only
    assert analyse(stripes).details[0].square().sum((-2, -1)).flatten().tolist() == pytest.approx([0, 64, 0])


@pytest.mark.parametrize("wavelet", FILTERS)
def test_wavelet_gradients(wavelet):
    transform = Wavelet(wavelet, 2)
    x = maps(1, 2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: mosaic(transform(z)), (x,))
    bands = transform(x.detach())
    parts = tuple(z.clone().requires_grad_() for z in (bands.low, *bands.details))
    assert torch.autograd.gradcheck(lambda low, *rest: transform.inverse(Bands(low, rest, (5, 3))), parts)


def test_wavelet_in_half_precision_keeps_the_type():
    x = maps(1, 4, 19, 22).to(torch.bfloat16)
    back = synthesise(analyse(x, "db2", 2), "db2")
    assert back.dtype == torch.bfloat16
    assert (back - x).abs().max() < 0.1


def test_wavelet_refusals():
    x = maps(1, 1, 4, 4)
    with pytest.raises(ValueError, match="no wavelet 'sym4'; choose one of haar, db2"):
        analyse(x, "sym4")
    with pytest.raises(ValueError, match="no wavelet 'sym4'"):
        Wavelet("sym4")
    with pytest.raises(ValueError, match="levels is 0"):
        analyse(x, levels=0)
    with pytest.raises(ValueError, match="levels is 0"):
        Wavelet(levels=0)
    with pytest.raises(ValueError, match=r"shape \(B, C, H, W\) .* not \(4, 4\)"):
        analyse(x[0, 0])
    with pytest.raises(ValueError, match=r"H and W at least 1, not \(1, 1, 0, 4\)"):
        analyse(x[:, :, :0])
    with pytest.raises(TypeError, match=r"not torch.uint8; convert it with .float\(\)"):
        analyse(x.to(torch.uint8))
    bands = analyse(x)
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 2, 2\) does not fit an average of shape \(1, 1, 1, 2\)"):
        synthesise(bands._replace(low=bands.low[:, :, :1]))
    with pytest.raises(ValueError, match="a map of 5 x 4 has 8 x 4 points, not 4 x 4"):
        cut(x, 2, (5, 4))


def fourier(channels=3, seed=0, trained=True, **options):
    torch.manual_seed(seed)
    block = Fourier(channels, **options)
    if trained:
        torch.nn.init.normal_(block.leave.weight, std=0.5)
        torch.nn.init.normal_(block.leave.bias, std=0.5)
    return block


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_untrained_fourier_is_the_identity_to_the_last_bit(size):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = maps(2, 3, *size).to(dtype)
        assert torch.equal(fourier(trained=False).to(dtype)(x), x)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fourier_scales_each_frequency_and_keeps_its_phase(size):
    block, x = fourier().double(), maps(2, 3, *size)
    before, after = torch.fft.fft2(x), torch.fft.fft2(block(x))
    ratio = after / before
    assert ratio.imag.abs().max() < 1e-8
    assert ratio.real.min() > 0 and ratio.real.max() < 2
    half = torch.fft.rfft2(x, norm="ortho")
    torch.testing.assert_close(ratio.real[..., : half.shape[-1]], 1 + block.factor(half), rtol=0, atol=1e-8)


def test_fourier_keeps_the_sign_that_the_arm_loses():
    x = -maps(1, 3, 9, 10).abs()
    kept, lost = fourier(trained=False), fourier(trained=False, keep_sign=False)
    assert (kept.double()(x) < 0).all()
    assert torch.equal(lost.double()(x), -x)


def test_fourier_gradients_and_its_first_step():
    x = maps(1, 2, 5, 4).requires_grad_()
    block = fourier(2, hidden=3).double()
    assert torch.autograd.gradcheck(block, (x,))
    start = fourier(2, trained=False).double()
    start(x).square().sum().backward()
    assert start.leave.weight.grad.abs().max() > 1e-3
    still = torch.zeros(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    block(still).sum().backward()
    assert torch.isfinite(still.grad).all(), "a silent frequency has a finite gradient"


def test_fourier_learns_to_damp_one_frequency():
    wave = torch.cos(torch.arange(16) * torch.pi / 2).expand(1, 1, 16, 16)
    scene = maps(8, 1, 16, 16, dtype=torch.float32)
    block = fourier(1, hidden=8, trained=False)
    optimiser = torch.optim.Adam(block.parameters(), 0.02)
    for _ in range(150):
        loss = (block(scene + 2 * wave) - scene).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.25 * (4 * wave.square().mean())


def test_fourier_under_autocast_and_of_half_precision():
    x = maps(2, 3, 7, 12, dtype=torch.float32)
    block = fourier()
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(x)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.05
    narrow = fourier().to(torch.bfloat16)(x.to(torch.bfloat16))
    assert narrow.dtype == torch.bfloat16
    assert (narrow - exact).abs().max() < 0.1


def test_fourier_refusals():
    with pytest.raises(ValueError, match="channels is 0 and hidden 0"):
        Fourier(0)
    with pytest.raises(ValueError, match=r"not \(3, 4\)"):
        Fourier(3)(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="not torch.int64"):
        Fourier(3)(torch.zeros(1, 3, 4, 4, dtype=torch.int64))
