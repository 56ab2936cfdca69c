"""Bodies in low orbit: what they are, how warm they get, how much they radiate towards a sensor.

Axes: n targets, t instants, 3 body axes. Units are SI unless a name says otherwise.

| quantity | law | source |
|---|---|---|
| temperature | C dT/dt = sun + Earth's albedo and infrared + internal - eps sigma T^4 | lumped heat balance |
| absorbed by a tumbling convex body | its mean projected area, a quarter of its surface | Cauchy 1841 |
| band radiance | integral of Planck's law over 8 to 12 um | series of the Debye integral |
| projected area | sum of face areas times cosines (box), or of an ellipsoid | exact |

C is the heat capacity per square metre of surface [J K-1 m-2]: it sets how fast a body cools in the shadow.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

CLASSES = ("0.3", "0.6", "0.9", "yj", "tai", "fu")     # label strings of the published data set
NAMES = {                                              # our reading of the last three, not the publisher's
    "0.3": "sphere 0.3 m", "0.6": "sphere 0.6 m", "0.9": "sphere 0.9 m",
    "yj": "tumbling plate", "tai": "heated platform", "fu": "light float",
}

PLANCK, LIGHT, BOLTZMANN, STEFAN = 6.62607015e-34, 299792458.0, 1.380649e-23, 5.670374419e-8
SOLAR = 1361.0            # W m-2, irradiance of the sun at one astronomical unit
EARTH_INFRARED = 237.0    # W m-2, mean emission of the Earth
ALBEDO = 0.30             # mean reflected share of sunlight
EARTH_RADIUS = 6371.0     # km
BAND = (8e-6, 12e-6)      # m, limits of the sensor's band


def band_radiance(temperature, band=BAND):
    """Radiance of a black body within a band [W m-2 sr-1].

    temperature: array, kelvin, 20 to 1000, NaN stays NaN; band: two wavelengths in metres, ascending.
    L = 2 k^4 T^4 / (h^3 c^2) (D(x2) - D(x1)), x = h c / (lambda k T), x1 at the short limit and
    D(x) = sum_j exp(-j x) (x^3/j + 3 x^2/j^2 + 6 x/j^3 + 6/j^4), the integral of u^3/(e^u - 1) from x on.
    Raises ValueError outside 20 to 1000 K, where the twenty terms used are no longer exact.

    >>> round(float(band_radiance(300.0)), 2)
    38.5
    """
    temperature = np.asarray(temperature, dtype=np.float64)
    outside = (temperature < 20.0) | (temperature > 1000.0)
    if outside.any():
        raise ValueError(f"{outside.sum()} temperatures such as {temperature[outside].flat[0]:.4g} K, "
                         "expected 20 to 1000 K: check the unit (kelvin) and the heat balance")
    scale = PLANCK * LIGHT / (BOLTZMANN * temperature)
    total = np.zeros_like(temperature)
    for wavelength, sign in ((band[1], 1.0), (band[0], -1.0)):
        x = scale / wavelength
        for j in range(1, 21):
            total += sign * np.exp(-j * x) * (((x / j + 3 / j**2) * x + 6 / j**3) * x + 6 / j**4)
    return 2.0 * (BOLTZMANN * temperature) ** 4 / (PLANCK**3 * LIGHT**2) * total


@dataclass(frozen=True)
class Bodies:
    """What n targets are made of; every field is an array over targets."""

    labels: np.ndarray         # int, index into CLASSES
    sides: np.ndarray          # (n, 3) m, edges of a box or diameters of an ellipsoid
    box: np.ndarray            # bool, box or ellipsoid
    emissivity: np.ndarray     # 0 to 1, in the band and in the whole infrared
    absorptance: np.ndarray    # 0 to 1, of sunlight
    capacity: np.ndarray       # J K-1 m-2, heat capacity per surface
    internal: np.ndarray       # W m-2, heat made inside per surface
    period: np.ndarray         # s, of the tumbling
    tilt: np.ndarray           # rad, between body axis 3 and the axis of spin
    direction: np.ndarray  # (n, 3) unit vector to the sensor at time 0, axis 3 along the spin

    @property
    def surface(self) -> np.ndarray:
        """Surface [m2]: exact for a box and a sphere, Thomsen's formula (within 1.1 %) otherwise."""
        a, b, c = self.sides.T
        p = 1.6075
        mean = ((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3.0
        return np.where(self.box, 2.0 * (a * b + a * c + b * c), np.pi * mean ** (1.0 / p))

    def projected_area(self, times) -> np.ndarray:
        """Area seen by the sensor [m2], shape (n, t). times: (n, t) s; the body turns once in its period."""
        phase = 2.0 * np.pi * np.asarray(times) / self.period[:, None]                     # (n, t)
        x, y, z = (self.direction[:, i, None] for i in range(3))
        first = x * np.cos(phase) + y * np.sin(phase)
        second = y * np.cos(phase) - x * np.sin(phase)
        c, s = np.cos(self.tilt)[:, None], np.sin(self.tilt)[:, None]
        seen = np.stack([c * first - s * z, second, s * first + c * z], axis=-1)  # (n, t, 3) body axes
        a, b, c = self.sides.T
        faces = np.stack([b * c, a * c, a * b], axis=-1)[:, None]                          # (n, 1, 3)
        flat = (np.abs(seen) * faces).sum(-1)
        round_ = np.pi / 4.0 * np.sqrt(((seen * faces) ** 2).sum(-1))
        return np.where(self.box[:, None], flat, round_)


def draw_bodies(labels, rng) -> Bodies:
    """Bodies of the given classes, with the spread of materials and shapes that makes single clues ambiguous.

    labels: (n,) int, 0 to 5; rng: numpy Generator.
    """
    labels = np.asarray(labels)
    n = len(labels)
    uniform = rng.uniform(size=(n, 12))
    normal = rng.normal(size=(n, 3))

    def between(column, low, high):
        return low + (high - low) * uniform[:, column]

    def by_class(sphere, plate, platform, float_):
        return np.stack([sphere, sphere, sphere, plate, platform, float_])[labels, np.arange(n)]

    one = np.ones(n)
    diameter = np.array([0.3, 0.6, 0.9, 0.0, 0.0, 0.0])[labels] * between(0, 0.97, 1.03)
    length = between(1, 0.45, 0.95)
    width = length * between(2, 0.55, 0.85)
    sides = np.stack([
        by_class(diameter, between(1, 0.012, 0.03), between(1, 0.80, 1.30), length),
        by_class(diameter, between(2, 0.50, 1.00), between(2, 0.80, 1.30), width),
        by_class(diameter, between(3, 0.50, 1.00), between(3, 0.80, 1.30), width),
    ], axis=-1)                                                                            # (n, 3)
    return Bodies(
        labels=labels, sides=sides, box=np.isin(labels, (3, 4)),
        emissivity=between(4, 0.72, 0.90),
        absorptance=between(5, 0.30, 0.70),
        capacity=by_class(*(np.exp(between(6, np.log(low), np.log(high))) for low, high in
                            ((1500, 4500), (1500, 4500), (4500, 14000), (60, 500)))),
        internal=by_class(0 * one, 0 * one, between(7, 30, 110), 0 * one),
        period=by_class(between(8, 10, 200), between(8, 9, 60), between(8, 60, 300), between(8, 20, 150)),
        tilt=np.radians(by_class(between(9, 0, 90), between(9, 0, 75), between(9, 0, 90), between(9, 0, 60))),
        direction=normal / np.linalg.norm(normal, axis=1, keepdims=True),
    )


@dataclass(frozen=True)
class Passage:
    """Where n targets are: every field is an array over targets."""

    altitude: np.ndarray       # km
    entry: np.ndarray          # s, instant at which the body enters the Earth's shadow
    exit: np.ndarray           # s, instant at which it leaves it

    def heat(self, bodies: Bodies, time: float) -> np.ndarray:
        """Heat taken up and made per surface [W m-2], shape (n,), at one instant [s]."""
        ratio = EARTH_RADIUS / (EARTH_RADIUS + self.altitude)
        view = 0.5 * (1.0 - np.sqrt(1.0 - ratio**2))                                       # sphere to Earth
        edge = 4.0  # s, of the penumbra
        lit = 1.0 - expit((time - self.entry) / edge) * expit((self.exit - time) / edge)
        sun = bodies.absorptance * SOLAR * lit * (0.25 + ALBEDO * view)
        return sun + bodies.emissivity * EARTH_INFRARED * view + bodies.internal


def temperatures(bodies: Bodies, passage: Passage, times, step=6.0, before=3000.0) -> np.ndarray:
    """Temperature of each body [K], shape (n, t).

    times: (n, t) s, ascending within a row and at least 0; step: s, of the integration; before: s, the run
    starts in balance with the heat of that long before time 0. Semi-implicit Euler steps
    (Rosenbrock, first order): T += h f / (1 + h k), k = 4 eps sigma T^3 / C, stable for the lightest float.
    """
    times = np.asarray(times, dtype=np.float64)
    grid = np.arange(-before, times.max() + 2 * step, step)
    current = (passage.heat(bodies, grid[0]) / (bodies.emissivity * STEFAN)) ** 0.25
    track = np.empty((len(grid), len(current)))                                            # (instants, n)
    for i, instant in enumerate(grid):
        track[i] = current
        loss = bodies.emissivity * STEFAN * current**3
        rate = (passage.heat(bodies, instant + 0.5 * step) - loss * current) / bodies.capacity
        current = current + step * rate / (1.0 + step * 4.0 * loss / bodies.capacity)
    where = (times - grid[0]) / step
    low = np.minimum(where.astype(np.int64), len(grid) - 2)
    share = where - low
    rows = np.arange(len(current))[:, None]
    return (1.0 - share) * track[low, rows] + share * track[low + 1, rows]                 # (n, t)
