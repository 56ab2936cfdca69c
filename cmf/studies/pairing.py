"""`python -m cmf train cmi_fusion` and `python -m cmf evaluate cmi_fusion`.

Pairs come from folders, sets by name, or the simulator. Those of folders and sets without parts of their own are
divided by name: the last fifth is for the test, the fifth before it for validation, which chooses the epoch. Names
that follow each other are often frames of one recording; so they lie on one side, but for two cuts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cmf import cache, paths, sources, weights
from cmf.datasets import pairs
from cmf.datasets.pairs import Pair
from cmf.studies import asked, commands, folders, fused, fusion, measured, tracking
from cmf.studies.asked import Pictures
from cmf.studies.commands import HELD_OUT, PARTS
from cmf.studies.fusing import TRAINED, Fuser
from cmf.studies.score import quiet, writable
from cmf.training import Recipe, parameters

NAMES = ("street", "real", *pairs.SETS)
SIMULATED = 250                 # pairs for training; a tenth as many for validation and for the test
VALIDATED = ("roadscene", "tno")    # of "real"
CROP, LEAST = 128, 48           # side of a crop: default and smallest, pixels
STEPS = 100                     # of an epoch, at least, however few the pairs
LOOKS = 96                      # crops for validation, at least: a few would hang on what few sentences ask for
SHOWN = ("pixel maximum", "Laplacian pyramid", fused.OURS)
Named = list[tuple[Pair, str]]  # pairs, and the set each one is of


def _shared(parser) -> None:
    parser.add_argument("--data", metavar="NAME",
                        help="a folder with visible and infrared, or with train, validation and test, in each of which "
                             f"these are; street, which is simulated; real: {', '.join(asked.REAL)}; or one of "
                             f"{', '.join(pairs.SETS)}")
    parser.add_argument("--visible", metavar="DIR",
                        help="in place of --data: a folder of visible pictures (medical: CT, PET or SPECT)")
    parser.add_argument("--infrared", metavar="DIR",
                        help="and one of infrared pictures with the same names (medical: MRI)")
    parser.add_argument("--folder", metavar="DIR", help="where a set known by name lies; default CMF_DATA")
    folders.alignment(parser)
    parser.add_argument("--simulated", type=int, metavar="N",
                        help=f"simulated street pairs, of training with others or alone (default {SIMULATED} with "
                             f"street and real, else none), or of the test of street (default {SIMULATED // 10})")


def train_arguments(parser) -> None:
    """`python -m cmf train cmi_fusion --data NAME | --visible DIR --infrared DIR [--out FILE]`."""
    _shared(parser)
    parser.add_argument("--start", metavar="FILE", default=str(TRAINED),
                        help="weights to begin with, or none: an untrained network; default: the project's own")
    parser.add_argument("--medical", action="store_true", help="nothing in these pairs is warm, however bright")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="S",
                        help=f"an epoch has so many or more: crops of each pair are added up to it (default {STEPS})")
    parser.add_argument("--crop", type=int, default=CROP, metavar="N", help=f"pixels, side of a crop (default {CROP})")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of training and simulated pairs (default 1)")
    commands.training_arguments(parser, "cmi_fusion", "those of the ready weights, cmf.studies.fusion.RECIPE")
    parser.set_defaults(run=_train)


def evaluate_arguments(parser) -> None:
    """`python -m cmf evaluate cmi_fusion --data NAME | --visible DIR --infrared DIR [--weights FILE] [--out DIR]`."""
    _shared(parser)
    parser.add_argument("--split", default="test", choices=(*PARTS, "all"), help="of files (default test)")
    parser.add_argument("--most", type=int, metavar="N", help="at most so many pairs of a set, evenly over their names")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of simulated pairs (default 1)")
    parser.add_argument("--weights", metavar="FILE", help="of `train cmi_fusion`; default: the project's own")
    parser.add_argument("--out", metavar="DIR",
                        help="for measures.csv and .json, and pairs.csv; default build/evaluate_cmi_fusion_NAME")
    parser.set_defaults(run=_evaluate)


def name_of(options) -> str:
    """What the data are called. Raises ValueError without data, or with both ways to say them."""
    folders = options.visible, options.infrared
    if bool(options.data) == any(folders) or any(folders) != all(folders):
        raise ValueError("expected --data NAME, or --visible DIR with --infrared DIR")
    return Path(options.data or options.visible).absolute().name


def parts(options) -> dict[str, Named]:
    """Pairs of files by part. Those of a set or folder with a training part only lend its last fifth for validation.

    Raises FileNotFoundError, ValueError: no such folder; as `cmf.datasets.pairs.match`, `layout` and `by_name`.
    """
    if options.data == "street":
        return {}
    if options.data == "real":
        wanted = dict(train=asked.REAL, validation=VALIDATED, test=asked.REAL)
        return {part: [(pair, name) for name in names for pair in pairs.layout(name, options.folder, part)]
                for part, names in wanted.items()}
    found, name = {}, name_of(options)
    if options.data in pairs.SETS:
        whole = pairs.layout(options.data, options.folder)
        for part in PARTS:
            try:
                found[part] = pairs.layout(options.data, options.folder, part)
            except ValueError:       # the set has no such part; what else is wrong was said of the whole
                continue
    elif options.data:
        root = Path(options.data)
        if not root.is_dir():
            raise FileNotFoundError(f"--data {root}: no such folder and no known set; known are {', '.join(NAMES)}")
        both = lambda folder: pairs.match(folder / "visible", folder / "infrared")
        found = {part: both(root / part) for part in PARTS if (root / part).is_dir()}
        whole = [] if found else both(root)
    else:
        whole = pairs.match(options.visible, options.infrared)
    if not found:
        found = by_name(whole)
    elif "train" in found and "validation" not in found:
        found |= by_name(found["train"], ("train", "validation"))
    return {part: [(pair, name) for pair in some] for part, some in found.items()}


def by_name(some: Sequence[Pair], into: Sequence[str] = PARTS) -> dict[str, list[Pair]]:
    """Pairs, sorted by name, divided in this order: the parts after the first have HELD_OUT of them, one at least.

    Raises ValueError for fewer pairs than parts.

    >>> {part: len(own) for part, own in by_name([Pair(str(k), Path("v"), Path("u")) for k in range(10)]).items()}
    {'train': 6, 'validation': 2, 'test': 2}
    """
    if len(some) < len(into):
        raise ValueError(f"{len(some)} pairs for {', '.join(into)}; expected {len(into)} or more")
    held, some = max(1, round(HELD_OUT * len(some))), sorted(some, key=lambda pair: pair.stem)
    cuts = [len(some) - held * k for k in range(len(into) - 1, 0, -1)]
    return {part: some[a:b] for part, a, b in zip(into, [0, *cuts], [*cuts, len(some)], strict=True)}


def pictures(some: Named, options) -> Pictures:
    """Pairs to learn from, in memory.

    Raises ValueError for a picture smaller than a crop (named), and as `cmf.datasets.pairs.load`.
    """
    made = Pictures([], [], [], [])
    for pair, name in some:
        one = asked.loaded([pair], not (options.medical or asked.medical(name)), options.align)
        height, width = one.visible[0].shape
        if min(height, width) < options.crop:
            raise ValueError(f"{pair.stem}: {width} x {height} pixels (width x height), smaller than crops of "
                             f"{options.crop}; leave it out, or give smaller crops with --crop, from {LEAST} on")
        made += one
    return made


def _count(options, default: int) -> int:
    if options.simulated is not None and options.simulated < 0:
        raise ValueError(f"--simulated {options.simulated}: expected 0 or more")
    return default if options.simulated is None else options.simulated


def _train(options) -> None:
    quiet()
    name = name_of(options)
    if options.crop < LEAST or options.steps < 1:
        raise ValueError(f"--crop {options.crop} and --steps {options.steps}: expected {LEAST} and 1 or more")
    tracking.check(options.track)
    out = commands.weights_file(options.out, "cmi_fusion", name)
    start = None if options.start == "none" else Path(options.start)
    if start is not None:
        Fuser.load(start, "cpu")                # refuses weights of another architecture or text encoder
    found = parts(options)
    simulated = _count(options, SIMULATED if options.data in ("street", "real") else 0)
    if options.data == "street" and not simulated:
        raise ValueError("--simulated 0 with --data street leaves nothing to train with; expected 1 or more")
    sets, few = {}, max(4, simulated // 10)
    for part, count in (("train", simulated), ("validation", few if simulated else 0)):
        sets[part] = pictures(found.get(part, []), options)
        if count:
            sets[part] += asked.simulated(count, part, options.seed, (max(192, options.crop), max(256, options.crop)))
        if not len(sets[part]):
            raise ValueError(f"{name} has no pairs for {part}; give some, or simulated ones with --simulated")
    recipe = Recipe(**asdict(fusion.RECIPE) | commands.changed(options) | dict(seed=options.seed))
    rounds = max(2, math.ceil(options.steps * recipe.batch / len(sets["train"])))
    inputs = dict(pairs={part: [some.visible, some.infrared, some.warm, some.captions] for part, some in sets.items()},
                  recipe=asdict(recipe), rounds=rounds, crop=options.crop, start=start)
    folder = commands.run_folder(options.checkpoints, f"cmi_fusion_{name}_{options.seed}", cache.digest(inputs))
    main = commands.main_process()
    if main:
        print(f"{name}: {len(sets['train'])} pairs for training, {simulated} of them simulated, "
              f"{len(sets['validation'])} for validation; {rounds} crops of each, checkpoints in {folder}")
    with tracking.followed(options.track if main else (), folder, folder.name):
        network, encoder, result, before = fusion.teach(
            sets["train"], sets["validation"], recipe, rounds, start, read=start is None, size=options.crop,
            looks=math.ceil(LOOKS / len(sets["validation"])), run=folder, label=f"CMI-Fusion, {name}")
    if not main:
        return
    weights.save(out, network, network.shape, text_encoder=encoder.fingerprint(), seed=str(options.seed),
                 data=f"{name}, {len(sets['train'])} pairs for training, {simulated} of them simulated",
                 start="none" if start is None else start.name, data_sha256=digest(found),
                 epoch=str(result.best_epoch), validation_loss=f"{-result.best_score:.4f}")
    print(f"{parameters(network) / 1e6:.2f} million parameters; loss on validation {before:.4f} before training, "
          f"{-result.best_score:.4f} after epoch {result.best_epoch}; {out}")
    if start is not None and -result.best_score >= before:
        print(f"training did not help: {start} is better on these validation pairs")


def digest(found: dict[str, Named]) -> str:
    """SHA-256 of the files of all parts and their names; "" where there are none."""
    told = {part: [(pair.stem, *map(sources.sha256, (pair.visible, pair.infrared))) for pair, _ in some]
            for part, some in found.items()}
    return cache.digest(told) if any(told.values()) else ""


def _evaluate(options) -> None:
    quiet()
    name = name_of(options)
    fuser = Fuser.load(options.weights or TRAINED)
    if options.most is not None and options.most < 1:
        raise ValueError(f"--most {options.most}: expected 1 or more")
    if options.data == "street":
        split, several = "test", fused.simulated(_count(options, SIMULATED // 10), options.seed)
    else:
        found, split = parts(options), options.split
        some = [one for own in found.values() for one in own] if split == "all" else found.get(split, [])
        if not some:
            raise ValueError(f"{name} has no pairs for {split}; there are {', '.join(found)}, and --split all")
        if "data_sha256" in fuser.facts and split != "all" and fuser.facts["data_sha256"] != digest(found):
            commands.say_other_data("pairs", split)
        several = fused.loaded(some, options.most, options.align)
    out = writable(Path(options.out or paths.build() / f"evaluate_cmi_fusion_{name}"))
    rows = fused.compare(fuser, several)
    means = fused.summary(rows)[0]
    whole = means[means.group == ("all" if "all" in set(means.group) else means.group.iloc[0])]
    print(f"{name}, {split}: {len(several)} pairs, means with 95 % intervals over pairs; up or down is better",
          measured.shown(whole[whole.fused.isin(SHOWN)].reset_index(drop=True)), sep="\n")
    measured.write(out / "pairs.csv", {"": rows})
    label = lambda row: f"{row.group}, {row.fused}: {row.measure}"
    table = means.assign(measure=[label(row) for row in means.itertuples()]).rename(columns=dict(mean="value"))
    table = table[["measure", "value", "low", "high", "n"]]
    print(commands.write_measures(out, table, data=name, split=split, pairs=len(several), weights=fuser.facts))
