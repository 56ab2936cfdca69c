"""InceptionV3 as a frozen encoder (Szegedy et al. 2016, arXiv:1512.00567; torchvision's implementation).

Axes: N images, H height, W width, g grid side, D channels of the layer (768 at Mixed_6e, 2048 at Mixed_7c).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

LAYERS = {"Mixed_6e": 768, "Mixed_7c": 2048}  # spatial map -> channels
STAGES = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
          "maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
          "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c")
ARCHITECTURE = "inception_v3"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for weights with transform_input false


def fast_dtype(device="cpu"):
    """torch.bfloat16 where the device multiplies in it natively (AVX512-BF16, AMX, CUDA), else torch.float32."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    checks = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile"))
    return torch.bfloat16 if torch.device(device).type == "cpu" and any(c() for c in checks) else torch.float32


def noise_pictures(n, size, seed=0):
    """Grey pictures float32 (n, 1, size, size) in [0, 1] with amplitude 1/f, the spectrum of natural scenes."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])  # (size, size//2+1)
    f[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((n, size, size)))
    x = np.fft.irfft2(white / f, s=(size, size))
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    return torch.from_numpy(((x - low) / (high - low)).astype(np.float32))[:, None]


def map_side(layer, size):
    """Side of the layer's spatial map for a square input of `size` pixels."""
    half = lambda s: (s - 3) // 2 + 1
    side = half(half(half(half(size) - 2) - 2))  # to Mixed_6e
    return half(side) if layer == "Mixed_7c" else side


def _read(path):
    """State dict and the architecture facts stored with it."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file; give a .safetensors or .pth file, 'imagenet' or "
                                "'untrained'")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as f:
                return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}
        if path.suffix in (".pth", ".pt"):
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as e:  # a torn or foreign file fails in many ways
        raise ValueError(f"{path}: not a complete file of plain tensors ({type(e).__name__}); fetch it again") from e
    raise ValueError(f"{path}: weights end in .safetensors or .pth, got {path.suffix or 'no ending'}")


def _download():
    from torchvision.models import Inception_V3_Weights
    weights = Inception_V3_Weights.IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as e:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"ImageNet weights of InceptionV3 are neither in {folder} nor could they be downloaded ({e}); put "
            f"{weights.url} into that folder, give the path of a copy as weights=, or use weights='untrained'"
        ) from e


def _check(state, expected, source):
    """State restricted to the trunk; the classifier and the auxiliary head are not used."""
    wrong = [(k, tuple(v.shape), tuple(state[k].shape) if k in state else "absent") for k, v in expected.items()
             if not k.endswith("num_batches_tracked") and (k not in state or state[k].shape != v.shape)]
    wrong += [(k, "absent", tuple(state[k].shape)) for k in state
              if k not in expected and not k.startswith(("fc.", "AuxLogits."))]
    if wrong:
        lines = "; ".join(f"{k}: expected {want}, got {got}" for k, want, got in wrong[:3])
        raise ValueError(f"{source}: not the weights of {ARCHITECTURE}, {len(wrong)} keys differ: {lines}"
                         + ("; ..." if len(wrong) > 3 else ""))
    return {k: state[k] for k in expected if k in state}


class Inception(nn.Module):
    """Frozen InceptionV3 trunk, always in evaluation mode: images to a grid of tokens and a pooled vector.

    Arguments
        weights      "untrained": seeded Kaiming-normal convolutions, batch-norm calibrated;
                     "imagenet": torchvision's, from its cache or by download;
                     path of a .safetensors or .pth file with the same keys and shapes
        size         side in pixels to which images are resized, >= 75 (bilinear, antialiased)
        layer        "Mixed_6e" (D = 768) or "Mixed_7c" (D = 2048)
        grid         g: the map is average-pooled to g x g tokens
        seed         of the untrained weights and of the default calibration pictures
        dtype        torch.float32, or torch.bfloat16 for autocast (see `fast_dtype`); tokens are float32
        calibration  untrained only: images (N, 1 or 3, H, W) in [0, 1] on which every batch norm learns its
                     statistics in one pass (default: 32 pictures of 1/f noise). Give stretched stamps of the
                     training set where stamps are encoded: on pictures unlike the calibration's the
                     activations drift to a large constant

    Weights know how their input is scaled: torchvision's ImageNet weights and untrained ones take [-1, 1]
    (which is what `transform_input=True` makes of ImageNet-normalised input); a .safetensors file may say
    `transform_input=false` in its metadata for ImageNet normalisation, and `architecture=inception_v3`.

    Raises ValueError on arguments or weights that do not fit, FileNotFoundError when weights are missing.

    >>> tokens, pooled = Inception(size=75, calibration=torch.rand(2, 1, 75, 75))(torch.rand(2, 1, 32, 32))
    >>> tokens.shape, pooled.shape
    (torch.Size([2, 9, 768]), torch.Size([2, 768]))
    """

    def __init__(self, weights="untrained", size=139, layer="Mixed_6e", grid=3, seed=0, dtype=torch.float32,
                 calibration=None):
        super().__init__()
        if layer not in LAYERS:
            raise ValueError(f"layer is {layer!r}, expected one of {', '.join(LAYERS)}")
        if size < 75:
            raise ValueError(f"size is {size} px, InceptionV3 needs at least 75")
        if not 1 <= grid <= map_side(layer, size):
            raise ValueError(f"grid is {grid}, but the map of {layer} at {size} px is {map_side(layer, size)} a "
                             "side; choose a coarser grid or a larger size")
        if calibration is not None and weights != "untrained":
            raise ValueError("calibration belongs to untrained weights; trained ones keep their statistics")
        from torchvision.models import Inception3
        self.size, self.layer, self.grid, self.seed, self.dtype = size, layer, grid, seed, dtype
        self.width, self.weights, self.transform_input = LAYERS[layer], str(weights), True
        with torch.random.fork_rng(devices=[]):  # torchvision draws weights that are replaced below
            trunk = Inception3(aux_logits=False, init_weights=False)
        trunk.fc = nn.Identity()
        self.trunk = trunk.requires_grad_(False).to(memory_format=torch.channels_last)
        if weights == "untrained":
            generator = torch.Generator().manual_seed(seed)
            for m in trunk.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.kaiming_normal_(m.weight, nonlinearity="relu", generator=generator)
            self._calibrate(noise_pictures(32, size, seed) if calibration is None else calibration)
        else:
            state, facts = (_download(), {}) if weights == "imagenet" else _read(weights)
            if facts.get("architecture", ARCHITECTURE) != ARCHITECTURE:
                raise ValueError(f"{weights}: weights of architecture {facts['architecture']}, expected "
                                 f"{ARCHITECTURE}")
            if facts.get("transform_input", "true").lower() not in ("true", "false"):
                raise ValueError(f"{weights}: transform_input is {facts['transform_input']!r} in the metadata, "
                                 "expected true or false")
            self.transform_input = facts.get("transform_input", "true").lower() == "true"
            trunk.load_state_dict(_check(state, trunk.state_dict(), weights), strict=False)
        self.eval()

    def train(self, mode=True):
        """Stay in evaluation mode whatever `mode` says: the encoder is frozen."""
        return super().train(False)

    @property
    def label(self):
        """What to print beside results made with these weights."""
        if self.weights == "untrained":
            return f"untrained backbone (seed {self.seed}, batch-norm calibrated)"
        return "ImageNet weights" if self.weights == "imagenet" else f"weights {Path(self.weights).name}"

    def fingerprint(self):
        """sha256 (hex) of weights, buffers and configuration."""
        h = hashlib.sha256(json.dumps({
            "architecture": ARCHITECTURE, "size": self.size, "layer": self.layer, "grid": self.grid,
            "transform_input": self.transform_input, "dtype": str(self.dtype)}, sort_keys=True).encode())
        for name, value in sorted(self.trunk.state_dict().items()):
            h.update(name.encode())
            h.update(value.detach().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()

    def _prepare(self, images):
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise ValueError(f"images have shape {tuple(images.shape)} of {images.dtype}, expected floats "
                             "(N, 1 or 3, H, W)")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images lie in [{low:.4g}, {high:.4g}], expected finite values in [0, 1]; stretch "
                             "counts first")
        x = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
        shift, scale = ((0.5,) * 3, (0.5,) * 3) if self.transform_input else (MEAN, STD)
        x = (x - x.new_tensor(shift)[:, None, None]) / x.new_tensor(scale)[:, None, None]
        return x.contiguous(memory_format=torch.channels_last)  # (N, 3, size, size)

    def _map(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            for name in STAGES[:STAGES.index(self.layer) + 1]:
                x = getattr(self.trunk, name)(x)
        return x.float()  # (N, D, h, w)

    @torch.no_grad()
    def _calibrate(self, images):
        norms = [m for m in self.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
        nn.Module.train(self, True)
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # cumulative mean
        x = self._prepare(images)
        for name in STAGES:
            x = getattr(self.trunk, name)(x)

    def forward(self, images):
        """Tokens (N, g*g, D), row by row from the upper left, and the mean of the whole map (N, D), float32.

        Argument: images (N, 1 or 3, H, W), float in [0, 1]. Raises ValueError on anything else.
        """
        x = self._map(self._prepare(images))
        tokens = F.adaptive_avg_pool2d(x, self.grid).flatten(2).mT  # (N, g*g, D)
        return tokens.contiguous(), x.mean((2, 3))
