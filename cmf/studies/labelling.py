"""`python -m cmf train cmfs` and `python -m cmf evaluate cmfs`, alone or under torchrun."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cmf import paths, runs
from cmf.datasets.segmentation_classes import CLASSES
from cmf.studies import commands, segmenting, tracking
from cmf.studies.segment import ABSENT, summary, views_arguments

NAMES = tuple(CLASSES)
HELD_OUT = 0.2      # share of the training pictures, where a collection has no validation part


@dataclass(frozen=True)
class Profile:
    """How large the network is, what it sees of a picture, and how long it is trained."""

    config: str                    # a function of `cmf.methods.cmfs`
    crop: tuple[int, int]
    scales: tuple[float, ...]
    recipe: dict
    rounds: int = 1


PROFILES = {
    "demo": Profile("small", segmenting.CROP, segmenting.SCALES, asdict(segmenting.RECIPE)),
    "small": Profile("small", (240, 320), (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), dict(
        epochs=100, batch=8, lr=1e-3, weight_decay=0.01, warmup=0.05, ema=0.99, schedule="poly")),
    "published": Profile("tiny", (480, 640), (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), dict(
        epochs=500, batch=4, lr=6e-5, weight_decay=0.01, warmup=0.02, schedule="poly"))}
SCENES = segmenting.SCENES


def _shared(parser) -> None:
    parser.add_argument("--data", required=True, metavar="NAME",
                        help=f"{', '.join(NAMES)}, or a folder with visible, infrared and label pictures; street is "
                             "simulated")
    parser.add_argument("--folder", metavar="DIR", help="where a named set lies; default CMF_DATA/NAME")
    parser.add_argument("--classes", metavar="NAMES",
                        help="of a folder: its label values from 0 on, separated by commas (default: MFNet's nine)")
    parser.add_argument("--span", type=float, nargs=2, metavar=("LOW", "HIGH"),
                        help="infrared counts that are black and white, as of raw 16-bit thermal pictures")
    parser.add_argument("--scenes", type=int, metavar="N",
                        help="simulated scenes, of training (validation a twentieth) or of the test; default "
                             f"{SCENES['train']} and {SCENES['test']}")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of training and simulated scenes (default 1)")


def train_arguments(parser) -> None:
    """`python -m cmf train cmfs --data NAME [--profile demo] [--checkpoints DIR] [--out FILE]`."""
    _shared(parser)
    parser.add_argument("--profile", choices=tuple(PROFILES), default="demo",
                        help="demo: 2 M parameters, minutes on a CPU; small: the same, to convergence; published: "
                             "135 M parameters and the published recipe, for GPUs")
    parser.add_argument("--arm", default="CMFS", help="of cmf.studies.segmenting.ARMS (default CMFS)")
    parser.add_argument("--pretrained", metavar="FILE",
                        help="VMamba weights (.pth or .safetensors) for both encoders, of a fitting size")
    parser.add_argument("--rounds", type=int, metavar="R", help="views of a picture; default: the profile's")
    commands.training_arguments(parser, "cmfs", "the profile's")
    parser.set_defaults(run=_train)


def evaluate_arguments(parser) -> None:
    """`python -m cmf evaluate cmfs --data NAME [--weights FILE] [--out DIR]`."""
    _shared(parser)
    parser.add_argument("--split", default="test", choices=("train", "validation", "test", "all"))
    parser.add_argument("--weights", metavar="FILE", help="of `train cmfs`; default: the project's own, street classes")
    parser.add_argument("--out", metavar="DIR", help="for measures.csv and .json; default build/evaluate_cmfs_NAME")
    views_arguments(parser)
    parser.set_defaults(run=_evaluate)


def classes_of(options) -> tuple[str, ...]:
    """Names of the classes that are asked for.

    Raises ValueError for --classes beside a named set, an empty or doubled name.
    """
    if options.data in CLASSES:
        if options.classes:
            raise ValueError(f"--classes beside --data {options.data}: its classes are known; leave --classes out")
        return CLASSES[options.data]
    if not options.classes:
        return CLASSES["mfnet"]
    found = tuple(name.strip() for name in options.classes.split(","))
    if len(found) < 2 or len(set(found)) < len(found) or not all(found):
        raise ValueError(f"--classes {options.classes!r}: expected two or more different names separated by commas, "
                         "the background first")
    return found


def samples(options, split: str | None) -> list:
    """The labelled pairs of a split of a set or folder that is not simulated. Raises as `segmentation.layout`."""
    from cmf.datasets import segmentation

    if options.data in CLASSES:
        return segmentation.layout(options.data, options.folder, split)
    if not Path(options.data).is_dir():
        raise FileNotFoundError(f"--data {options.data}: no such folder and no known set; known are {', '.join(NAMES)}")
    return segmentation.folder(options.data, split, classes_of(options))


def parts(options) -> tuple[list, list]:
    """Labelled pairs to train with and to choose the epoch by: the sets' own validation part, else the last HELD_OUT of
    the training part by name; of a folder without splits, of all."""
    from cmf.datasets import segmentation

    try:
        train = samples(options, "train")
    except FileNotFoundError:
        if options.data in CLASSES or not Path(options.data).is_dir():
            raise
        train = samples(options, None)
    try:
        return train, samples(options, "validation")
    except (FileNotFoundError, ValueError):
        return segmentation.divide(train, max(HELD_OUT, 1 / max(1, len(train))))


def sets(options, profile: Profile):
    """`cmf.studies.segmenting.Sets` of what is asked for; their test part is empty but for simulated scenes."""
    from cmf.datasets import segmentation

    classes = classes_of(options)
    if options.data == "street":
        n = SCENES["train"] if options.scenes is None else options.scenes
        few = dict(windows=min(segmenting.WINDOWS, 8 * n), crop=profile.crop)
        if options.profile != "demo":                                            # scenes are smaller than its crops
            few = dict(windows=4 * n, window=(144, 192), crop=(128, 160))
        return segmenting.sets(options.seed, n, max(4, n // 20), SCENES["test"], **few)
    if options.scenes is not None:
        raise ValueError(f"--scenes is of simulated streets, not of {options.data}; leave it out")
    train, held = parts(options)
    stack = lambda some: segmentation.tensors(some, options.span, stack=False)
    columns, other = stack(train), stack(held)
    if options.profile == "demo":
        small = [min(segmenting.WINDOW[k], *(label.shape[k] for label in columns["label"])) for k in (0, 1)]
        columns = segmenting.cut(columns, segmenting.WINDOWS, tuple(small), options.seed)
    return segmenting.Sets(options.data if options.data in CLASSES else classes, columns, other,
                           dict(visible=[], infrared=[], label=[]), segmenting.prompts(classes), profile.crop)


def _train(options) -> None:
    import torch

    from cmf.methods import cmfs
    from cmf.studies.segmenter import Segmenter
    from cmf.training import Recipe, parameters

    if options.profile == "demo" or "WORLD_SIZE" in os.environ:
        torch.set_num_threads(1)       # small networks wait for each other on more, and one gives equal numbers
    main, name, profile = commands.main_process(), Path(options.data).name, PROFILES[options.profile]
    tracking.check(options.track)
    out = commands.weights_file(options.out, "cmfs", name)
    recipe = Recipe(**profile.recipe | commands.changed(options) | dict(seed=options.seed))
    folder = Path(options.checkpoints or paths.build() / "runs" / f"cmfs_{name}_{options.profile}_{options.seed}")
    some = sets(options, profile)
    network, weights = segmenting.build(options.arm, some, options.seed, getattr(cmfs, profile.config))
    if options.pretrained:
        started(network, Path(options.pretrained))
    if main:
        print(f"{parameters(network) / 1e6:.2f} million parameters, {len(some.train['label'])} pictures or windows, "
              f"checkpoints in {folder}")
    with tracking.followed(options.track if main else (), folder, folder.name):
        result = segmenting.train(network, weights, some, recipe, rounds=options.rounds or profile.rounds, run=folder,
                                  label=f"{options.arm}, {name}", scales=profile.scales)
    if not main:
        return
    segmenter = Segmenter(network, some.classes, device="cpu")
    segmenter.save(out, data=f"{name}, {len(some.train['label'])} pictures or windows for training",
                   seed=str(options.seed), epoch=str(result.best_epoch), arm=options.arm,
                   miou_foreground_validation=f"{result.best_score:.4f}")
    if network.config.needs_text and segmenter.spelled:
        print(f"the text encoder reads letter by letter, as it does not know the words: {', '.join(segmenter.spelled)}")
    print(f"foreground mIoU {result.best_score:.3f} on validation, epoch {result.best_epoch}; {out}")


def started(network, path: Path) -> None:
    """Fill the encoders of a CMFS with VMamba weights, those of a file saved by torch or safetensors.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that cannot be read, weights of other shapes (some named).
    """
    import torch
    from safetensors.torch import load_file

    from cmf.blocks.vmamba import load

    if not path.is_file():
        raise FileNotFoundError(f"--pretrained {path}: no such file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as reason:      # both readers raise almost anything of damaged files
        raise ValueError(f"--pretrained {path}: cannot be read ({type(reason).__name__}); give a state dict of tensors"
                         ) from reason
    for encoder in network.encoders:
        load(encoder, state)


def _evaluate(options) -> None:
    import torch

    from cmf.datasets import segmentation
    from cmf.metrics.segmentation import confusion
    from cmf.studies.score import writable
    from cmf.studies.segmenter import TRAINED, Segmenter, Views

    views = Views(tuple(options.scales), options.flip, options.window and tuple(options.window))
    segmenter, name = Segmenter.load(options.weights or TRAINED), Path(options.data).name
    if classes_of(options) != segmenter.classes:
        raise ValueError(f"{name} has the classes {', '.join(classes_of(options))} and the weights "
                         f"{', '.join(segmenter.classes)}; give weights that were trained on such labels")
    if options.data == "street":
        n = SCENES["test"] if options.scenes is None else options.scenes
        split = "test" if options.split == "all" else options.split
        made = segmenting.street(n, split, options.seed)
        loaded = zip(made["visible"], made["infrared"], made["label"], strict=True)
    else:
        listed = samples(options, None if options.split == "all" else options.split)
        n, loaded = len(listed), (segmentation.load(sample, options.span) for sample in listed)
    out = writable(Path(options.out or paths.build() / f"evaluate_cmfs_{name}"))
    counts, seconds = [], 0.0
    for visible, infrared, label in runs.progress(loaded, "evaluate", n):
        began = time.perf_counter()
        found = segmenter.segment(visible, infrared, views)
        seconds += time.perf_counter() - began
        counts.append(confusion(label, found.label, len(segmenter.classes)))
    table = summary(np.stack(counts), segmenter.classes)
    print(f"{name}, {options.split}: {n} pictures, 95 % intervals over pictures",
          *commands.lines(table, absent=ABSENT), sep="\n")
    print(f"  seconds a picture, on {segmenter.device}: {seconds / n:.2f}")
    if torch.cuda.is_available():
        print(f"  memory on the GPU, at most: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    print(commands.write_measures(out, table, data=name, split=options.split, weights=segmenter.facts,
                                  views=vars(views), seconds_a_picture=round(seconds / n, 4)))
