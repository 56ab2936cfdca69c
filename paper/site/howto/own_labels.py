from pathlib import Path

from PIL import Image

from cmf.datasets import segmentation

for split, count in (("train", 12), ("validation", 4), ("test", 4)):
    made = segmentation.street(count, split, seed=1)
    for k, name in enumerate(made["ids"]):
        for kind in ("visible", "infrared", "label"):
            path = Path("build/labelled_pairs", split, kind, f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made[kind][k]).save(path)
