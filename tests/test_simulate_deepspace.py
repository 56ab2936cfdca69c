"""The deep-space simulator: its physics, its honesty (no leaks, no saturation), its files and its refusals."""
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.integrate import quad
from sklearn.metrics import f1_score

from cmf.simulate import deepspace as sim
from cmf.simulate import deepspace_physics as physics
from cmf.simulate import deepspace_sensor as sensor
from cmf.studies import worlds

NODES, CHANCE = np.arange(sim.CHIP), 1.0 / len(sim.CLASSES)


@pytest.fixture(scope="module")
def pair():
    return sim.simulate_targets(1200, "train", 0), sim.simulate_targets(1200, "test", 0)


def scores(train, test, read=worlds.measured):
    """Macro F1 of images, sequences and both."""
    columns, held = read(train), read(test)
    return {name: f1_score(test.labels, worlds.classify(columns[name], train.labels, held[name]).argmax(1),
                           average="macro") for name in worlds.MODALITIES}


def test_same_arguments_same_bytes():
    first, second = (sim.simulate_targets(30, "train", 4) for _ in range(2))
    for name in ("images", "times", "sequences", "labels"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert all(first.truth[key].tobytes() == second.truth[key].tobytes() for key in first.truth)
    one, two = (sim.simulate_scene(5, 256, seed=1) for _ in range(2))
    assert one.frames.tobytes() == two.frames.tobytes() and one.sequences.tobytes() == two.sequences.tobytes()


def test_seeds_and_splits_are_different_worlds():
    draws = [sim.simulate_targets(30, split, seed) for split in sim.SPLITS for seed in (0, 1)]
    assert len({d.images.tobytes() for d in draws}) == len({d.times.tobytes() for d in draws}) == len(draws)
    patterns = [sensor.fixed_pattern(split, 256).ravel() for split in sim.SPLITS]
    loose = [p - p.mean() for p in (np.diff(q.reshape(256, 256), axis=0).ravel() for q in patterns)]
    assert np.abs(np.corrcoef(loose) - np.eye(4)).max() < 0.03
    warm = {s: sim.simulate_targets(300, s, 0).truth["temperature"].mean() for s in ("train", "shift")}
    assert warm["shift"] < warm["train"] - 3.0


def test_forms_and_balance(pair):
    train, _ = pair
    assert train.images.shape == (1200, 2, 32, 32) and train.images.dtype == np.float32
    assert train.sequences.shape == (1200, 16, 2) and train.sequences.dtype == np.float32
    assert train.times.dtype == np.float32 and (np.diff(train.times, axis=1) > 0).all()
    assert train.labels.dtype == np.int64 and set(np.bincount(train.labels)) == {200}
    assert len(set(train.ids)) == len(train) and (train.images == np.rint(train.images)).all()
    assert all(len(value) == 1200 and np.isfinite(value).all() for value in train.truth.values())
    lost = np.isnan(train.sequences)
    assert (lost[..., 0] == lost[..., 1]).all() and abs(lost.mean() - sim.Dials().missing) < 0.01
    assert np.abs(train.truth["position_a"] - 15.5).max() <= 2.0
    assert train.truth["position_b"].min() > 0 and train.truth["position_b"].max() < 31


@pytest.mark.parametrize("kelvin", [60.0, 180.0, 300.0, 650.0])
def test_band_radiance_is_the_integral_of_plancks_law(kelvin):
    def planck(wavelength):
        x = physics.PLANCK * physics.LIGHT / (wavelength * physics.BOLTZMANN * kelvin)
        return 2.0 * physics.PLANCK * physics.LIGHT**2 / wavelength**5 / np.expm1(x)

    expected, _ = quad(planck, *physics.BAND, epsabs=0.0, epsrel=1e-12)
    assert physics.band_radiance(kelvin) == pytest.approx(expected, rel=1e-9)


def body(n=1, **changes):
    facts = {"labels": np.zeros(n, int), "sides": np.full((n, 3), 0.6), "box": np.zeros(n, bool),
             "emissivity": np.full(n, 0.8), "absorptance": np.full(n, 0.5), "capacity": np.full(n, 300.0),
             "internal": np.zeros(n), "period": np.full(n, 20.0), "tilt": np.zeros(n),
             "direction": np.tile([1.0, 0.0, 0.0], (n, 1))}
    return physics.Bodies(**(facts | changes))


def test_sphere_in_sunlight_reaches_the_analytic_equilibrium():
    far = physics.Passage(altitude=np.array([1e9]), entry=np.array([1e9]), exit=np.array([2e9]))
    reached = physics.temperatures(body(), far, np.array([[0.0, 900.0]]))
    assert reached == pytest.approx((0.5 * physics.SOLAR / (4.0 * 0.8 * physics.STEFAN)) ** 0.25, rel=1e-6)


def test_cooling_in_the_dark_follows_the_closed_form():
    """Without any heat T(t) = T0 (1 + 3 eps sigma T0^3 t / C)^(-1/3)."""
    dark = physics.Passage(altitude=np.array([1e9]), entry=np.array([0.0]), exit=np.array([1e6]))
    times = np.linspace(60.0, 700.0, 9)[None]
    warm = body(capacity=np.array([3000.0]))
    cooled = physics.temperatures(warm, dark, times, step=1.0)
    at_60 = cooled[0, 0]
    expected = at_60 * (1 + 3 * 0.8 * physics.STEFAN * at_60**3 * (times[0] - 60.0) / 3000.0) ** (-1 / 3)
    assert cooled[0] == pytest.approx(expected, rel=2e-4)
    coarse = physics.temperatures(warm, dark, times)
    assert np.abs(coarse - cooled).max() < 0.5


def test_projected_areas():
    times = np.linspace(0.0, 20.0, 41)[None]
    assert body().projected_area(times) == pytest.approx(np.pi * 0.3**2)
    plate = body(sides=np.array([[1e-6, 0.5, 0.8]]), box=np.array([True])).projected_area(times)
    assert plate[0] == pytest.approx(0.4 * np.abs(np.cos(2 * np.pi * times[0] / 20.0)), abs=1e-5)


@pytest.mark.parametrize("box", [True, False])
def test_mean_projected_area_is_a_quarter_of_the_surface(box):
    rng = np.random.default_rng(0)
    ways = rng.normal(size=(40000, 3))
    many = body(40000, sides=np.tile([0.3, 0.5, 0.9], (40000, 1)), box=np.full(40000, box),
                direction=ways / np.linalg.norm(ways, axis=1, keepdims=True))
    assert many.projected_area(np.zeros((40000, 1))).mean() == pytest.approx(many.surface[0] / 4.0, rel=0.012)


def test_points_keep_their_flux_and_their_place():
    frame = sim.render_points((1, 40, 48), [20.3, 30.0], [17.8, 20.0], [1000.0, 0.0], 1.2)[0]
    y, x = np.mgrid[:40, :48]
    assert frame.sum() == pytest.approx(1000.0, rel=1e-7)
    assert (frame * x).sum() / 1000 == pytest.approx(20.3, abs=1e-6)
    assert (frame * y).sum() / 1000 == pytest.approx(17.8, abs=1e-6)
    centred = sim.render_points((1, 40, 48), [20.0], [18.0], [1.0], 1.2)[0]
    assert centred.max() == pytest.approx(sensor.peak_share(1.2), rel=1e-9)
    edge = sim.render_points((1, 16, 16), [-0.5, 500.0], [7.0, 7.0], [2.0, 9.0], 1.2)[0]
    assert edge.sum() == pytest.approx(1.0, rel=1e-6)                            # half of it beyond the border


def test_truth_agrees_with_itself_and_with_the_pixels(pair):
    train, _ = pair
    truth = train.truth
    assert np.allclose(truth["emissivity"][:, None] * truth["area"] * physics.band_radiance(truth["temperature"]),
                       truth["intensity"])
    assert np.allclose(truth["position_b"] - truth["position_a"], truth["motion"] + truth["drift"])
    assert np.allclose(np.hypot(*truth["motion"].T), truth["speed"] * 4.0 / (truth["range"] * 1e-4))
    spheres = train.labels < 3
    diameters = np.array([0.3, 0.6, 0.9])[train.labels[spheres]]
    assert np.abs(truth["size"][spheres] / diameters - 1).max() <= 0.03
    bright = np.flatnonzero(truth["snr"].min(axis=1) > 40)
    for i in bright[:20]:
        for frame, key in enumerate(("position_a", "position_b")):
            x, y = np.rint(truth[key][i]).astype(int)
            image = train.images[i, frame]
            window = image[max(y - 5, 0):y + 6, max(x - 5, 0):x + 6] - np.median(image)
            assert window.sum() == pytest.approx(truth["flux"][i, frame], rel=0.15)
    residual = (train.sequences[..., 0] - truth["temperature"])[np.isfinite(train.sequences[..., 0])]
    assert residual.std() == pytest.approx(sim.Dials().sequence_noise * np.sqrt(1.25), rel=0.05)


def test_no_leak(pair):
    leaks = worlds.probes(*pair).set_index("probe").accuracy
    assert len(leaks) == len(worlds.PROBES)
    assert (leaks - CHANCE).abs().max() < 0.05, f"chance {CHANCE:.3f}\n{leaks}"


def by_class(targets):
    rows = np.argsort(targets.labels, kind="stable")
    truth = {name: value[rows] for name, value in targets.truth.items()}
    return replace(targets, images=targets.images[rows], times=targets.times[rows], labels=targets.labels[rows],
                   sequences=targets.sequences[rows], ids=tuple(targets.ids[i] for i in rows), truth=truth)


def test_a_leak_would_be_seen(pair):
    ordered = [by_class(t) for t in pair]
    leaks = worlds.probes(*ordered).set_index("probe").accuracy
    assert leaks["order in the file"] > 0.9


def test_file_sizes_tell_nothing(tmp_path):
    sim.write_training(tmp_path, sim.simulate_targets(60, "train", 0))
    for pattern in ("2D/*.png", "1D/*[0-9].npy", "1D/*_time.npy"):
        assert len({path.stat().st_size for path in tmp_path.glob(pattern)}) == 1, pattern


def test_neither_rendering_suffices_and_together_they_do(pair):
    found = scores(*pair)
    print({name: round(value, 3) for name, value in found.items()})
    assert 0.35 < found["image"] < 0.75 and 0.35 < found["sequence"] < 0.78
    assert 0.80 < found["both"] < 0.95
    assert found["both"] - max(found["image"], found["sequence"]) > 0.10


def test_noise_free_latents_tell_nearly_all_and_neither_alone(pair):
    found = scores(*pair, worlds.latent)
    print({name: round(value, 3) for name, value in found.items()})
    assert 0.90 < found["both"] < 0.99 and max(found["image"], found["sequence"]) < 0.85


def at(**dials):
    dials = sim.Dials(**dials)
    return scores(sim.simulate_targets(600, "train", 5, dials), sim.simulate_targets(420, "test", 5, dials))


def test_dials_do_what_they_say():
    usual, noisy, lossy = at(), at(sequence_noise=20.0), at(missing=0.9)
    dim, copied = at(psnr=1.5), at(redundancy=1.0)
    print(usual, noisy, lossy, dim, copied, sep="\n")
    assert noisy["sequence"] < usual["sequence"] - 0.05 and lossy["sequence"] < usual["sequence"] - 0.05
    assert dim["image"] < usual["image"] - 0.05 and dim["both"] < usual["both"] - 0.05
    assert copied["sequence"] > usual["sequence"] + 0.15
    assert copied["both"] - copied["sequence"] < 0.05
    assert np.isnan(sim.simulate_targets(6, dials=sim.Dials(missing=1.0)).sequences).all()
    rare = sim.simulate_targets(60, dials=sim.Dials(missing=0.99)).sequences
    assert (np.isfinite(rare[..., 0]).sum(axis=1) >= 2).all()


def test_scene_holds_what_it_says():
    scene = sim.simulate_scene(20, 1024, psnr=8.0, seed=2)
    assert scene.frames.shape == (2, 1024, 1024) and scene.frames.dtype == np.float32
    assert scene.truth["snr"].min(axis=1) == pytest.approx(8.0)
    assert (scene.boxes_a[:, 2:] - scene.boxes_a[:, :2] == 11).all()
    for boxes, places in ((scene.boxes_a, scene.positions_a), (scene.boxes_b, scene.positions_b)):
        assert np.abs(boxes.reshape(-1, 2, 2).mean(axis=1) - 0.5 - places).max() <= 0.51
        assert boxes.min() >= 0 and boxes.max() <= 1024
    steps = scene.positions_b - scene.positions_a - scene.drift
    assert np.hypot(*steps.T).min() > 2.4 and np.hypot(*steps.T).max() < 12.1
    apart = np.hypot(*(scene.positions_a[None] - scene.positions_a[:, None]).transpose(2, 0, 1))
    assert apart[~np.eye(20, dtype=bool)].min() >= 24.0
    star = scene.stars[np.argmax(scene.stars[:, 2] * ((scene.stars[:, :2] > 20) & (scene.stars[:, :2] < 1000)).all(1))]
    centres = []
    for frame in scene.frames:
        x, y = np.rint(star[:2]).astype(int)
        window = np.clip(frame[y - 7:y + 8, x - 7:x + 8] - np.median(frame) - 80, 0, None)
        weight = window / window.sum()
        centres.append([x + (weight * (np.arange(15) - 7)).sum(), y + (weight.T * (np.arange(15) - 7)).sum()])
    assert np.subtract(*centres[::-1]) == pytest.approx(scene.drift, abs=0.15)
    free = sim.simulate_scene(12, 512, psnr=None, seed=2)
    assert np.ptp(free.truth["snr"]) > 5.0


def test_training_folder_gives_back_what_was_written(tmp_path):
    targets = sim.simulate_targets(7, "validation", 1)
    sim.write_training(tmp_path, targets)
    assert len(list((tmp_path / "2D").iterdir())) == 21 and len(list((tmp_path / "1D").iterdir())) == 14
    for i, name in enumerate(targets.ids):
        for frame, suffix in enumerate(("", "_B")):
            with Image.open(tmp_path / "2D" / f"{name}{suffix}.png") as picture:
                assert np.array_equal(np.asarray(picture), targets.images[i, frame])
        note = json.loads((tmp_path / "2D" / f"{name}.json").read_text())
        assert note["shapes"][0]["label"] == sim.CLASSES[targets.labels[i]]
        assert note["imagePath"] == f"{name}.png" and note["imageHeight"] == 32
        (x0, y0), (x1, y1) = note["shapes"][0]["points"]
        x, y = targets.truth["position_a"][i]
        assert x0 < x < x1 and y0 < y < y1
        values = np.load(tmp_path / "1D" / f"{name}.npy", allow_pickle=False)
        assert values.shape == (32,) and np.array_equal(values[:16], targets.sequences[i, :, 0], equal_nan=True)
        assert np.array_equal(values[16:], targets.sequences[i, :, 1], equal_nan=True)
        assert np.array_equal(np.load(tmp_path / "1D" / f"{name}_time.npy"), targets.times[i])


def test_scene_folders_give_back_what_was_written(tmp_path):
    scene = sim.simulate_scene(6, 256, seed=3)
    path = sim.write_scene(tmp_path / "images", tmp_path / "sequences", scene, "s01")
    truth = json.loads(path.read_text())
    row = np.array(truth["row"])
    assert sorted(row) == list(range(6)) and truth["simulated"] is True
    for frame, suffix in enumerate("AB"):
        with Image.open(tmp_path / "images" / f"s01_{suffix}.png") as picture:
            assert np.array_equal(np.asarray(picture), scene.frames[frame])
    read = {key: np.load(tmp_path / "sequences" / f"s01_{key}.npy", allow_pickle=False)
            for key in ("temp", "rad", "time", "positions")}
    assert np.array_equal(read["temp"], scene.sequences[row, :, 0], equal_nan=True)
    assert np.array_equal(read["rad"], scene.sequences[row, :, 1], equal_nan=True)
    assert np.array_equal(read["time"], scene.times[row]) and np.array_equal(read["positions"], scene.positions_a[row])
    assert [truth["labels"][i] for i in row] == [sim.CLASSES[k] for k in scene.labels[row]]
    assert not list(tmp_path.rglob("*.part"))


def test_speed():
    start = time.perf_counter()
    sim.simulate_targets(600, "train", 9)
    print(f"{600 / (time.perf_counter() - start):.0f} targets a second")
    start = time.perf_counter()
    scene = sim.simulate_scene()
    print(f"a scene of 1024 x 1024 in {time.perf_counter() - start:.2f} s")
    assert scene.frames.shape[1] == 1024


@pytest.mark.parametrize(("call", "words"), [
    (lambda: sim.simulate_targets(0), r"n=0: expected a whole number of targets"),
    (lambda: sim.simulate_targets(2.5), r"n=2\.5: expected a whole number of targets"),
    (lambda: sim.simulate_targets(6, split="dev"), r"split 'dev': expected one of train, validation, test, shift"),
    (lambda: sim.simulate_targets(6, seed=-1), r"seed=-1: expected a whole number, 0 or larger"),
    (lambda: sim.simulate_scene(0), r"n_targets=0: expected"),
    (lambda: sim.simulate_scene(5, size=64), r"size=64: expected 128 pixels or more"),
    (lambda: sim.simulate_scene(5, psnr=0.0), r"psnr=0\.0: expected a positive number, or None"),
    (lambda: sim.simulate_scene(200, size=128), r"200 targets do not fit 24 pixels apart into 128 x 128"),
    (lambda: sim.Dials(psnr=-1.0), r"dial psnr=-1\.0: expected a finite number, 0 or larger"),
    (lambda: sim.Dials(missing=1.5), r"dial missing=1\.5: expected a share between 0 and 1"),
    (lambda: physics.band_radiance([300.0, -40.0]), r"1 temperatures such as -40 K, expected 20 to 1000 K"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_scene_name_must_be_plain(tmp_path):
    scene = sim.simulate_scene(1, 128)
    with pytest.raises(ValueError, match=r"scene name '\.\./x': expected a plain file name"):
        sim.write_scene(tmp_path, tmp_path, scene, "../x")
