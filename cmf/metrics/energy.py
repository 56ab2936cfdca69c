"""Energy that a machine counts itself: of all processor packages (RAPL of Linux), or of one NVIDIA GPU (NVML).

Both count the whole device, whatever else runs on it. Neither can be read everywhere: RAPL not without the right to,
nor in most virtual machines; NVML not without a driver.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


def joules(work: Callable[[], object], device: str = "cpu") -> float | None:
    """Energy in joules that the device spends while `work` runs, idle power included; None where nothing counts it.

    Args:
        work: function without arguments that returns when the device is done. It runs in any case. RAPL counts over
            after some ten minutes of full power: `work` must be shorter.
        device: "cpu", all processor packages, or "cuda", the GPU that torch uses now.

    Raises:
        ValueError: another device.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"no energy of device {device!r} is counted; give cpu or cuda")
    before = _packages() if device == "cpu" else _gpu()
    work()
    after = _packages() if device == "cpu" else _gpu()
    if not before or after is None:
        return None
    return sum((after[name][0] - start) % largest for name, (start, largest) in before.items()) * 1e-6


def _packages() -> dict[str, tuple[int, int]] | None:
    """Microjoules of each processor package since some moment, and where its counter begins again."""
    found = {}
    try:
        for path in sorted(POWERCAP.glob("*-rapl:[0-9]")):
            if (path / "name").read_text().startswith("package"):
                found[path.name] = tuple(int((path / name).read_text()) for name in
                                         ("energy_uj", "max_energy_range_uj"))
    except (OSError, ValueError):
        return None
    return found


def _gpu() -> dict[str, tuple[int, int]] | None:
    """Microjoules of the current GPU since its driver was loaded."""
    import torch

    if not torch.cuda.is_available():
        return None
    spent, handle = ctypes.c_ulonglong(), ctypes.c_void_p()
    name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    try:
        nvml = ctypes.CDLL(NVML)
        failed = (nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
                  or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(spent)))
    except (OSError, AttributeError):
        return None
    return None if failed else {name: (1000 * spent.value, 1 << 64)}
