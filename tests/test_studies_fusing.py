"""Fusing two pictures with a sentence: tiles against the whole, colour, odd pictures and odd prompts."""

import os
import subprocess
import sys

import numpy as np
import pytest
import small_fusion as small
import small_transformers
import torch

from cmf import weights
from cmf.datasets.pictures import Picture, luma_chroma
from cmf.encoders.clip import CLIP
from cmf.studies import fusing
from cmf.studies.fusing import Fuser

MIB = 2**20


@pytest.fixture(scope="module")
def fuser(tmp_path_factory):
    return small.fuser(tmp_path_factory.mktemp("clip"))


def level(x):
    """Grey levels of 8 bits."""
    return 255 * x


class Blur(torch.nn.Module):
    """A stand-in that looks 5 pixels far: the mean of both pictures, blurred."""

    def forward(self, batch):
        mean = (batch["visible"] + batch["infrared"]) / 2
        fused = torch.nn.functional.avg_pool2d(mean, 11, 1, 5, count_include_pad=False)
        return dict(fused=fused, weight=torch.full_like(fused, 0.5))


@pytest.mark.parametrize(("length", "tile"), [(256, 256), (300, 256), (1000, 256), (1001, 264), (4000, 1464),
                                              (129, 136), (1, 8)])
def test_windows_add_up_to_one_and_tiles_lie_on_the_grid(length, tile):
    found = fusing.tiles(length, tile)
    whole = -(-length // fusing.MULTIPLE) * fusing.MULTIPLE if len(found) > 1 else length
    total = np.zeros(whole)
    for start, window in found:
        assert start % fusing.MULTIPLE == 0 and len(window) <= tile and window.min() >= 0
        total[start:start + len(window)] += window
    assert np.allclose(total, 1, atol=1e-6)
    assert all((w[:fusing.MARGIN] == 0).all() for s, w in found if s), "a tile's edge counts for nothing"


@pytest.mark.parametrize(("height", "width", "memory"), [(3000, 4000, 2048 * MIB), (100, 9000, 64 * MIB),
                                                         (9000, 30, 64 * MIB), (257, 263, 66 * MIB)])
def test_tiles_keep_to_the_memory(height, width, memory):
    rows, columns = fusing.tile_size(height, width, memory)
    assert rows * columns * fusing.BYTES <= memory
    for length, side in ((height, rows), (width, columns)):
        assert side >= min(length, 2 * fusing.OVERLAP)


def test_tiled_equals_whole(tmp_path):
    """Tiles that rest on the scene of the whole picture give its result: within a hundredth of a grey level."""
    fuser, (visible, infrared) = small.fuser(tmp_path), small.pair(300, 520)
    whole = fuser.fuse(visible, infrared, "a person walks")
    scene = fuser.network(dict(visible=tensor(whole_luma(visible)), infrared=tensor(infrared / 255.0),
                               **fuser.read("a person walks")))["scene"]
    fuser._network = with_scene(fuser, scene)
    tiled = fuser.fuse(visible, infrared, "a person walks", memory=64 * MIB)
    assert len(fusing.tiles(520, fusing.tile_size(300, 520, 64 * MIB)[1])) > 1
    assert level(np.abs(tiled.luma - whole.luma)).max() < 0.01
    assert np.abs(tiled.weight - whole.weight).max() < 1e-4


def whole_luma(rgb):
    return luma_chroma(rgb / 255.0)[0]


def tensor(x):
    return torch.from_numpy(np.asarray(x, np.float32))[None, None]


def with_scene(fuser, scene):
    """`fuser._network` in which every pass rests on this scene, as if the reduced copy were the picture itself."""
    own = fuser._network
    return lambda both, told, **more: own(both, told, scene=scene)


def off_and_seam(fuser, visible, infrared, prompt=""):
    """Grey levels by which a tiled picture differs from the whole one, and how much rougher that difference is from
    column to column where one tile passes into the next than it is elsewhere (ratio of means)."""
    height, width = infrared.shape
    tiled, whole = (fuser.fuse(visible, infrared, prompt, memory).luma for memory in (64 * MIB, fusing.MEMORY))
    starts = [start for start, _ in fusing.tiles(width, fusing.tile_size(height, width, 64 * MIB)[1])][1:]
    steps = np.abs(np.diff(level(tiled - whole), axis=1)).mean(0)                          # (W - 1,)
    near = np.zeros(width - 1, bool)
    for s in starts:
        near[s + fusing.MARGIN - 2:s + fusing.MARGIN + fusing.RAMP + 2] = True
    assert near.any()
    return level(np.abs(tiled - whole)), (steps[near].mean() + 0.02) / (steps[~near].mean() + 0.02)


def test_no_seam_is_seen_between_tiles(fuser):
    off, seam = off_and_seam(fuser, *small.pair(300, 640))
    assert off.max() < 1 and seam < 1.5


def test_no_seam_with_the_project_s_own_weights():
    """The reduced copy stands for the whole: two grey levels on average, and no rougher between tiles."""
    if not fusing.TRAINED.is_file():
        pytest.skip("cmf/trained/cmi_fusion.safetensors is not there")
    from cmf.datasets.pairs import simulated

    made = simulated(1, "test", 0, (480, 640))
    for prompt in ("", "highlight the warm people"):
        off, seam = off_and_seam(Fuser.load(device="cpu"), made["visible"][0], made["infrared"][0], prompt)
        assert off.mean() < 2 and seam < 1.5, (off.mean(), seam)


def test_any_module_may_be_the_network(tmp_path):
    fuser, (visible, infrared) = small.fuser(tmp_path, Blur()), small.pair(288, 544)
    whole, tiled = (fuser.fuse(visible, infrared, memory=memory) for memory in (fusing.MEMORY, 64 * MIB))
    assert np.allclose(whole.luma, tiled.luma, atol=1e-6) and np.allclose(tiled.weight, 0.5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (8, 8), (17, 33), (97, 127)])
def test_any_size_from_one_pixel(fuser, size):
    visible, infrared = small.pair(*size)
    visible = visible[:size[0], :size[1]]
    found = fuser.fuse(visible, infrared[:size[0], :size[1]], "a person walks")
    assert found.luma.shape == found.weight.shape == size and found.chroma.shape == (*size, 2)
    assert found.luma.dtype == np.float32 and 0 <= found.luma.min() and found.luma.max() <= 1


def test_grey_stays_grey_and_colour_is_carried(fuser):
    visible, infrared = small.pair()
    luma, chroma = luma_chroma(visible / 255)
    assert fuser.fuse(luma, infrared).chroma is None
    assert fuser.fuse(Picture(luma, np.zeros_like(chroma)), infrared).chroma.max() == 0
    found = fuser.fuse(visible, infrared)
    assert np.allclose(found.chroma.mean((0, 1)), chroma.mean((0, 1)), atol=1e-6), "no cast"
    assert np.array_equal(found.luma, fuser.fuse(luma, infrared / np.float32(255)).luma)


def test_colours_of_the_functional_picture_whichever_it_is(fuser):
    visible, infrared = small.pair()
    luma, chroma = luma_chroma(visible / 255)
    assert np.allclose(fuser.fuse(infrared, visible).chroma, chroma, atol=1e-6)
    with pytest.warns(UserWarning, match="both pictures are coloured; the fused one takes the visible picture's"):
        found = fuser.fuse(visible, visible[::-1])
    assert np.allclose(found.chroma, chroma, atol=1e-6)
    noise = np.random.default_rng(0).normal(0, 0.005, chroma.shape).astype(np.float32)
    assert fuser.fuse(luma, Picture(infrared / np.float32(255), noise)).chroma is None, "JPEG's errors are no colour"


def test_depth_and_alpha_are_kept(fuser):
    visible, infrared = small.pair()
    luma = whole_luma(visible)
    alpha = np.linspace(0, 1, luma.size, dtype=np.float32).reshape(luma.shape)
    assert fuser.fuse(Picture(luma, alpha=alpha), infrared).alpha is alpha
    for one, bits in ((infrared, 8), (infrared.astype(np.uint16) * 257, 16), (infrared / 255, 16)):
        assert fuser.fuse(visible, one).bits == fuser.fuse(one, visible).bits == bits
    assert np.allclose(fuser.fuse(visible, infrared).luma, fuser.fuse(visible, infrared.astype(np.uint16) * 257).luma)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 1), (0.5, 0.5), (0, 1)])
def test_constant_pictures(fuser, low, high):
    found, most = fuser.fuse(np.full((40, 50), low), np.full((40, 50), high)).luma, small.SHAPE.residual
    assert low - most <= found.min() <= found.max() <= high + most


def test_prompts_are_cleaned_read_once_and_cut(fuser):
    assert fusing.plain("\x00 warm\tpeople\u200b\r\n\ud800\u2028 ") == "warm people"
    assert fuser.read("two red cars") is fuser.read(" two\nred cars\x07")
    nothing = fuser.read("\x00\n")
    assert nothing is fuser.read() and not nothing["text_mask"].any()
    assert fuser.read("a person walks")["text_mask"].sum() > 0
    with pytest.warns(UserWarning, match="are longer than 24 tokens and are cut there"):
        long = fuser.read("red cars " * 1000)
    assert long["text"].shape[1] == 24
    visible, infrared = small.pair()
    pictures = [fuser.fuse(visible, infrared, words).luma for words in ("", "two red cars", "xyzzy 日本 🙂")]
    assert not np.allclose(pictures[0], pictures[1], atol=1e-4)
    with pytest.raises(ValueError, match="the prompt is int '3', expected a string"):
        fuser.read(3)


def test_two_runs_are_equal(fuser):
    visible, infrared = small.pair()
    one, two = (fuser.fuse(visible, infrared, "a person") for _ in range(2))
    assert np.array_equal(one.luma, two.luma) and np.array_equal(one.weight, two.weight)


def test_what_cannot_be_fused(fuser):
    visible, infrared = small.pair()
    with pytest.raises(ValueError, match=r"the visible picture is 96 x 128 and the infrared one 90 x 128"):
        fuser.fuse(visible, infrared[:90])
    with pytest.raises(ValueError, match=r"the infrared picture has shape \(0, 4\)"):
        fuser.fuse(visible, infrared[:0, :4])
    with pytest.raises(ValueError, match=r"the infrared picture has shape \(96, 128, 2\)"):
        fuser.fuse(visible, np.zeros((96, 128, 2)))
    with pytest.raises(ValueError, match=r"values from nan to nan, expected \[0, 1\] without NaN"):
        fuser.fuse(np.full((96, 128), np.nan), infrared)
    with pytest.raises(ValueError, match=r"values from 60 to \d+, expected \[0, 1\]"):
        fuser.fuse(visible, infrared.clip(60).astype(float))
    with pytest.raises(ValueError, match=r"1 MiB of memory are too little for a tile of 256 x 256 pixels; allow \d+"):
        fuser.fuse(visible, infrared, memory=MIB)
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        Fuser(small.network(), fuser.encoder, "abacus")


def test_an_answer_that_is_not_finite_is_refused(tmp_path):
    net = small.network()
    net.head[0].weight.data[:] = np.nan
    with pytest.raises(ValueError, match="the network's answer is not finite; its weights are damaged"):
        small.fuser(tmp_path, net).fuse(*small.pair())


def test_weights_are_loaded_and_others_refused(tmp_path):
    path, encoder = small.trained(tmp_path)
    found = Fuser.load(path, "cpu", encoder)
    visible, infrared = small.pair()
    own = Fuser(small.network(), encoder, "cpu")
    assert np.array_equal(found.fuse(visible, infrared).luma, own.fuse(visible, infrared).luma)
    (tmp_path / "other").mkdir()
    other = CLIP(small_transformers.write(tmp_path / "other", CLIP, seed=1), device="cpu", precision="float32")
    with pytest.raises(ValueError, match="was trained with the text encoder .* and CLIP, .* words would mean"):
        Fuser.load(path, "cpu", other)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        Fuser.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds weights of Linear, expected CMIFusion"):
        Fuser.load(weights.save(tmp_path / "l.safetensors", torch.nn.Linear(2, 2), {}))
    with pytest.raises(ValueError, match="states a shape that cannot be built here"):
        Fuser.load(weights.save(tmp_path / "s.safetensors", small.network(), dict(depth=3)))


@pytest.mark.benchmarks
def test_twelve_million_pixels_within_four_gib():
    """A pair of 3000 x 4000 pixels of the default network, in a process of its own."""
    code = ("import numpy as np, resource, torch, time; torch.set_num_threads(2)\n"
            "from cmf.encoders.clip import CLIP; from cmf.methods.cmi_fusion import CMIFusion\n"
            "from cmf.studies.fusing import Fuser\n"
            "one = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3)).astype(np.uint8)\n"
            "f = Fuser(CMIFusion(), CLIP('small', device='cpu', precision='float32'), 'cpu')\n"
            "began = time.perf_counter(); f.fuse(one, one[..., 0], 'highlight warm people')\n"
            "print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    seconds, peak = map(float, run.stdout.split())
    peak *= 1 if sys.platform == "darwin" else 1024
    print(f"\n3000 x 4000: {seconds:.1f} s, peak memory {peak / 2**30:.2f} GiB")
    assert peak < 4 * 2**30
