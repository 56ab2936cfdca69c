"""`python -m cmf train sacmf` and `python -m cmf evaluate sacmf`.

Targets come from two folders, the simulator or the ZTF pack. Those of a folder or pack are divided by
`cmf.studies.commands.divided`: of each class a fifth for validation, which chooses the epoch, and a fifth for the test.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cmf import cache, catalogue, paths, runs
from cmf.datasets.deepspace import from_simulator, read_training
from cmf.datasets.survey import read_ztf
from cmf.datasets.targets import TargetSet
from cmf.methods import sacmf
from cmf.metrics.intervals import bootstrap_interval
from cmf.metrics.recognition import classification, macro_f1
from cmf.simulate.deepspace import CLASSES, simulate_targets
from cmf.studies import commands, deepspace, tracking
from cmf.studies.scenes import CHIP, TRAINED, Classifier, padded
from cmf.studies.score import quiet, writable
from cmf.training import Recipe, Result, fit, parameters

NAMES = ("deepspace", "ztf")
TARGETS = 3000      # simulated ones for training; a fifth as many for validation, a third for the test
STEPS = 300         # of the optimiser, at least, however few the targets
RESAMPLES = 1000    # for intervals
SHOWN = ("precision_macro", "recall_macro", "f1_weighted", "roc_auc", "ece")


def _shared(parser) -> None:
    parser.add_argument("--data", required=True, metavar="NAME",
                        help="a folder with 2D and 1D, see cmf.datasets.deepspace; deepspace, which is simulated; or "
                             "ztf, which lies in CMF_DATA/deepspace or at --folder")
    parser.add_argument("--folder", metavar="DIR", help="where the set ztf lies; default CMF_DATA/deepspace")
    parser.add_argument("--targets", type=int, metavar="N",
                        help=f"simulated targets, of training (validation a fifth, test a third; default {TARGETS}) or "
                             f"of the test (default {TARGETS // 3})")


def train_arguments(parser) -> None:
    """`python -m cmf train sacmf --data NAME [--checkpoints DIR] [--out FILE]`."""
    _shared(parser)
    parser.add_argument("--classes", metavar="NAMES",
                        help="labels of a folder, separated by commas; default: those that its files have")
    parser.add_argument("--inception", metavar="FILE",
                        help="InceptionV3 weights, or imagenet; default: untrained, as those of the ready weights")
    parser.add_argument("--seed", type=int, default=1, metavar="S",
                        help="of training, simulated targets and the division of others (default 1)")
    commands.training_arguments(parser, "sacmf", f"by the number of targets, {STEPS} steps or more")
    parser.set_defaults(run=_train)


def evaluate_arguments(parser) -> None:
    """`python -m cmf evaluate sacmf --data NAME [--weights FILE] [--out DIR]`."""
    _shared(parser)
    parser.add_argument("--split", default="test", choices=(*commands.PARTS, "all"),
                        help="part of a folder or pack (default test)")
    parser.add_argument("--seed", type=int, metavar="S",
                        help="of simulated targets and the division of others; default: the weights' own")
    parser.add_argument("--weights", metavar="FILE", help="of `train sacmf`; default: the project's own")
    parser.add_argument("--out", metavar="DIR", help="for measures.csv and .json; default build/evaluate_sacmf_NAME")
    parser.set_defaults(run=_evaluate)


def labels(folder: Path) -> tuple[str, ...]:
    """The labels that the LabelMe files of a training folder have, sorted; the simulated ones where there are none."""
    found = set()
    for path in sorted((folder / "2D").glob("*.json")):
        try:
            found.add(json.loads(path.read_text(encoding="utf-8"))["shapes"][0]["label"])
        except (ValueError, KeyError, IndexError, TypeError):       # `read_training` names the file and what is wrong
            continue
    return tuple(sorted(label for label in found if isinstance(label, str))) or CLASSES


def read(options, classes: Sequence[str] | None = None) -> TargetSet:
    """The targets of a folder or pack. classes: labels of a folder; default `labels`. Of one frame both are made.

    Raises:
        FileNotFoundError, ValueError: no such folder; a number of simulated targets beside it; as `read_training`
            and `read_ztf`.
    """
    if options.targets is not None:
        raise ValueError(f"--targets is of simulated targets, not of {options.data}; leave it out")
    if options.data == "ztf":
        return read_ztf(options.folder or catalogue.find("deepspace"))
    folder = Path(options.data)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data {folder}: no such folder and no known set; known are {', '.join(NAMES)}")
    targets = read_training(folder, classes or labels(folder), size=CHIP)
    if len(targets.frames) == 1:     # what stays the same in training tells nothing and is not used
        targets = replace(targets, images=np.repeat(targets.images, 2, 1), frames=("A", "B"))
    return targets


def parts(options) -> tuple[dict[str, TargetSet], str]:
    """Targets to train with, to choose the epoch by, and of the test, and the SHA-256 of them all.

    Raises ValueError for classes that are doubled, empty or known; as `read` and `commands.divided`.
    """
    if options.data in NAMES and options.classes:
        raise ValueError(f"--classes beside --data {options.data}: its classes are known; leave --classes out")
    if options.data == "deepspace":
        n = _count(options.targets, TARGETS)
        sets = deepspace.simulated(n, max(30, n // 5), max(30, n // 3), options.seed)
        return sets, cache.digest({part: some.digest() for part, some in sets.items()})
    classes = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    if classes and (len(set(classes)) < len(classes) or not all(classes)):
        raise ValueError(f"--classes {options.classes!r}: expected different names separated by commas")
    targets = read(options, classes)
    rows = commands.divided(targets.labels, targets.classes, options.seed)
    return {part: targets.subset(some) for part, some in rows.items()}, targets.digest()


def recipe_for(targets: int, seed: int, **changed) -> Recipe:
    """The recipe of the study; of few targets smaller batches, and so many epochs that STEPS steps are made."""
    batch = changed.get("batch", min(deepspace.RECIPE.batch, max(8, targets // 8 // 8 * 8)))
    epochs = max(deepspace.RECIPE.epochs, round(STEPS * batch / targets))
    return replace(deepspace.RECIPE, **dict(epochs=epochs, batch=batch, seed=seed) | changed)


def teach(sets: dict[str, TargetSet], recipe: Recipe, backbone: deepspace.Backbone | None = None,
          run: Path | None = None, label: str = "SA-CMF") -> tuple[Classifier, Result]:
    """Train SA-CMF on "train"; the epoch is that of the best macro F1 on "validation". run: as of `fit`."""
    backbone = backbone or deepspace.Backbone()
    train, classes = sets["train"], sets["train"].classes
    tables, projection = deepspace.features({part: padded(some) for part, some in sets.items()}, backbone)
    runs.seed_everything(recipe.seed)
    changes, losses = deepspace.ARMS["SA-CMF"]
    network = sacmf.SACMF(deepspace.config(tables["train"], classes=len(classes), **changes))
    network.fit_inputs(tables["train"].columns)
    held, truth = tables["validation"], sets["validation"].labels

    def score(model) -> float:
        return macro_f1(truth, deepspace.predict(model, held)["logits"].argmax(1).numpy(), len(classes))

    result = fit(network, tables["train"], sacmf.criterion(network, **losses), recipe, score=score, run=run,
                 label=label)
    model = Classifier.of(network, projection, backbone)
    model.facts = dict(classes=json.dumps(classes), frames=json.dumps(train.frames),
                       channels=json.dumps(train.channels), steps=str(train.values.shape[1]))
    return model, result


def measures(model: Classifier, targets: TargetSet) -> pd.DataFrame:
    """Measures of a classifier: columns measure, value, low, high (95 % over targets; NaN where there is no interval):
    f1_macro, accuracy, SHOWN, and f1 of each class."""
    p = deepspace.predict(model.network, model.table(targets))["probabilities"].numpy()         # (n, K)
    found, k = classification(targets.labels, p, targets.classes), len(targets.classes)
    rows = []
    for name, statistic in (("f1_macro", lambda y, q: macro_f1(y, q, k)), ("accuracy", lambda y, q: (y == q).mean())):
        own = bootstrap_interval((targets.labels, p.argmax(1)), statistic, n=RESAMPLES)
        rows.append(dict(measure=name, value=own.estimate, low=own.low, high=own.high))
    others = {name: found[name] for name in SHOWN} | {f"f1 {c}": v["f1"] for c, v in found["per_class"].items()}
    return pd.DataFrame(rows + [dict(measure=m, value=v, low=np.nan, high=np.nan) for m, v in others.items()])


def _train(options) -> None:
    quiet()
    name = Path(options.data).name
    tracking.check(options.track)
    out = commands.weights_file(options.out, "sacmf", name)
    sets, digest = parts(options)
    train = sets["train"]
    recipe = recipe_for(len(train), options.seed, **commands.changed(options))
    backbone = deepspace.Backbone(weights=options.inception or "untrained")
    folder = commands.run_folder(options.checkpoints, f"sacmf_{name}_{options.seed}",
                                 cache.digest(dict(data=digest, recipe=asdict(recipe), backbone=asdict(backbone))))
    main = commands.main_process()
    if main:
        counts = ", ".join(f"{len(some)} for {part}" for part, some in sets.items())
        print(f"{name}: {len(train.classes)} classes; targets: {counts}; {recipe.epochs} epochs, checkpoints in "
              f"{folder}")
    with tracking.followed(options.track if main else (), folder, folder.name):
        model, result = teach(sets, recipe, backbone, folder, f"SA-CMF, {name}")
    if not main:
        return
    table = measures(model, sets["test"])
    f1 = table.set_index("measure").value["f1_macro"]
    model.save(out, data=f"{name}, {len(train)} targets for training", seed=str(options.seed),
               data_sha256=digest, epoch=str(result.best_epoch),
               f1_macro_validation=f"{result.best_score:.4f}", f1_macro_test=f"{f1:.4f}")
    print(f"{parameters(model.network) / 1e3:.0f} thousand parameters; macro F1 {result.best_score:.3f} on validation, "
          f"epoch {result.best_epoch}", f"test: {len(sets['test'])} targets, 95 % intervals over targets",
          *commands.lines(table), str(out), sep="\n")


def _evaluate(options) -> None:
    quiet()
    model, name = Classifier.load(options.weights or TRAINED), Path(options.data).name
    seed = int(model.facts.get("seed", 1)) if options.seed is None else options.seed
    if options.data == "deepspace":
        n = _count(options.targets, TARGETS // 3)
        split = "test" if options.split == "all" else options.split
        targets = from_simulator(simulate_targets(n, split, seed))
    else:
        targets, split = read(options, model.classes), options.split
    trained, told = (model.classes, model.frames, model.channels), (targets.classes, targets.frames, targets.channels)
    if trained != told:
        said = lambda facts: "; ".join(", ".join(words) for words in facts)
        raise ValueError(f"{name} has the classes, frames and channels {said(told)}, and the weights {said(trained)}; "
                         "give weights that were trained on such targets")
    if targets.values.shape[1] != model.steps:
        raise ValueError(f"{name}: sequences of {targets.values.shape[1]} samples, but the weights were trained on "
                         f"{model.steps}; resample them, NaN where a sample is missing")
    if options.data != "deepspace" and split != "all":
        if targets.digest() != model.facts.get("data_sha256"):
            commands.say_other_data("targets", split)
        targets = targets.subset(commands.divided(targets.labels, targets.classes, seed)[split])
    out = writable(Path(options.out or paths.build() / f"evaluate_sacmf_{name}"))
    table = measures(model, targets)
    print(f"{name}, {split}: {len(targets)} targets of {len(targets.classes)} classes, 95 % intervals over targets",
          *commands.lines(table), sep="\n")
    print(commands.write_measures(out, table, data=name, split=split, targets=len(targets), weights=model.facts))


def _count(given: int | None, default: int) -> int:
    """A number of simulated targets. Raises ValueError below 1."""
    if given is not None and given < 1:
        raise ValueError(f"--targets {given}: expected 1 or more")
    return default if given is None else given
