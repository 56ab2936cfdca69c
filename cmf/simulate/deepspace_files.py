"""Generated targets and scenes as folders: 16-bit grey pictures, LabelMe labels, NumPy sequences."""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from cmf.simulate.deepspace_physics import CLASSES, NAMES
from cmf.simulate.deepspace_sensor import VERSION, boxes_around


def _aside(path: Path, write) -> Path:
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as stream:
        write(stream)
    os.replace(part, path)
    return path


def _picture(path: Path, frame, compression: int) -> Path:
    counts = np.clip(np.rint(frame), 0, 65535).astype(np.uint16)
    picture = Image.fromarray(counts)
    return _aside(path, lambda stream: picture.save(stream, format="PNG", compress_level=compression))


def _array(path: Path, array) -> Path:
    return _aside(path, lambda stream: np.save(stream, np.asarray(array), allow_pickle=False))


def _json(path: Path, content) -> Path:
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return _aside(path, lambda stream: stream.write(text.encode("utf-8")))


def _plain(array) -> list:
    """Nested lists, missing numbers as None: JSON has no NaN."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        return np.where(np.isnan(array), None, array.astype(object)).tolist()
    return array.tolist()


def write_training(folder, targets) -> Path:
    """Write targets as a training folder and return it.

    2D/<id>.png and 2D/<id>_B.png: frames A and B, 16-bit grey, counts as they are, not compressed (the size
    of a compressed file would tell the brightness); 2D/<id>.json: LabelMe, one rectangle of 11 x 11 pixels
    around the target in A; 1D/<id>.npy: float32, 16 temperatures [K] then 16 radiant intensities [W/sr], NaN
    where missing; 1D/<id>_time.npy: float32, 16 instants [s].
    targets: `Targets`. Files of the same name are replaced, each at once.
    """
    folder = Path(folder)
    for part in ("2D", "1D"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    size = targets.images.shape[-1]
    boxes = boxes_around(targets.truth["position_a"])
    for i, name in enumerate(targets.ids):
        _picture(folder / "2D" / f"{name}.png", targets.images[i, 0], 0)
        _picture(folder / "2D" / f"{name}_B.png", targets.images[i, 1], 0)
        x0, y0, x1, y1 = (int(v) for v in boxes[i])
        _json(folder / "2D" / f"{name}.json", {
            "version": "5.0.0", "flags": {}, "imagePath": f"{name}.png", "imageData": None,
            "imageHeight": size, "imageWidth": size,
            "shapes": [{"label": CLASSES[int(targets.labels[i])], "points": [[x0, y0], [x1, y1]],
                        "group_id": None, "shape_type": "rectangle", "flags": {}}]})
        _array(folder / "1D" / f"{name}.npy", targets.sequences[i].T.reshape(-1))          # (32,)
        _array(folder / "1D" / f"{name}_time.npy", targets.times[i])
    return folder


def write_scene(images_folder, sequences_folder, scene, name: str) -> Path:
    """Write a scene as a pair of inference folders and return the path of its truth.

    images: <name>_A.png, <name>_B.png (16-bit grey, counts) and <name>_truth.json; sequences:
    <name>_temp.npy, <name>_rad.npy, <name>_time.npy, float32 (n, 16), and <name>_positions.npy, float32
    (n, 2), x and y in A, one row a target. The rows run from left to right in A; `row` in the truth gives the
    target of each row. Raises ValueError if the name is not a plain file name.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"scene name {name!r}: expected a plain file name without folders")
    images, sequences = Path(images_folder), Path(sequences_folder)
    images.mkdir(parents=True, exist_ok=True)
    sequences.mkdir(parents=True, exist_ok=True)
    row = np.lexsort(scene.positions_a.T[::-1])                                            # left to right
    _picture(images / f"{name}_A.png", scene.frames[0], 4)
    _picture(images / f"{name}_B.png", scene.frames[1], 4)
    _array(sequences / f"{name}_temp.npy", scene.sequences[row, :, 0])
    _array(sequences / f"{name}_rad.npy", scene.sequences[row, :, 1])
    _array(sequences / f"{name}_time.npy", scene.times[row])
    _array(sequences / f"{name}_positions.npy", scene.positions_a[row])
    return _json(images / f"{name}_truth.json", {
        "simulated": True, "version": VERSION, "classes": CLASSES, "names": NAMES, "row": row.tolist(),
        "labels": [CLASSES[int(label)] for label in scene.labels],
        "boxes_a": scene.boxes_a.tolist(), "boxes_b": scene.boxes_b.tolist(),
        "positions_a": _plain(scene.positions_a), "positions_b": _plain(scene.positions_b),
        "stars": _plain(scene.stars), "drift": _plain(scene.drift),
        "truth": {key: _plain(value) for key, value in scene.truth.items()}})
