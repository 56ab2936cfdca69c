"""`python -m cmf train METHOD` and `python -m cmf evaluate METHOD`; those of cmaf are here."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from cmf import paths
from cmf.studies import anomaly, classifying, collected, commands, labelling, pairing, tracking, watching
from cmf.studies.collected import ARMS, NAMES
from cmf.studies.score import quiet, writable
from cmf.studies.watching import Watcher

COUNTS = ("videos", "abnormal_videos", "frames", "macro_videos")


def _shared(parser) -> None:
    parser.add_argument("--data", required=True, metavar="NAME",
                        help=f"{', '.join(NAMES)}, or a folder with annotations.csv, or with normal/ and one folder a "
                             "class; surveillance is simulated")
    parser.add_argument("--folder", metavar="DIR", help="where a named collection lies; default CMF_DATA/NAME")
    parser.add_argument("--captions", metavar="CSV", help="default: captions.csv beside the videos, else BLIP's own")
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second of folders of frames")
    parser.add_argument("--clips", type=int, metavar="N", help="simulated clips (of training; a fifth for validation)")
    parser.add_argument("--seed", type=int, default=1, metavar="S",
                        help="of training, of simulated clips and of the split of Ped2 (default 1)")


def train_arguments(parser) -> None:
    """`python -m cmf train METHOD --data NAME`."""
    _methods(parser, "train_arguments", _train_arguments)


def evaluate_arguments(parser) -> None:
    """`python -m cmf evaluate METHOD --data NAME`."""
    _methods(parser, "evaluate_arguments", _evaluate_arguments)


def _methods(parser, function: str, own) -> None:
    known = dict(sacmf=classifying, cmaf=None, cmi_fusion=pairing, cmfs=labelling)
    methods = parser.add_subparsers(dest="method", required=True, metavar=" or ".join(known))
    for name, module in known.items():
        (getattr(module, function) if module else own)(methods.add_parser(name, help=f"the options of {name}"))


def _train_arguments(parser) -> None:
    """`python -m cmf train cmaf --data NAME [--out FILE]`."""
    _shared(parser)
    parser.add_argument("--out", metavar="FILE", help="weights; default build/cmaf_NAME.safetensors")
    parser.add_argument("--epochs", type=int, default=collected.RECIPE.epochs, metavar="E")
    parser.add_argument("--labels", choices=tuple(ARMS),
                        help="that training sees: one a video, or those of frames; default: frames of simulated clips, "
                             "else videos")
    parser.add_argument("--encoders", choices=tuple(watching.ENCODERS), default="small")
    tracking.arguments(parser)
    parser.set_defaults(run=_train)


def _evaluate_arguments(parser) -> None:
    """`python -m cmf evaluate cmaf --data NAME [--weights FILE] [--out DIR]`."""
    _shared(parser)
    parser.add_argument("--weights", metavar="FILE", help="of `train cmaf`; default: the project's own")
    parser.add_argument("--out", metavar="DIR", help="for measures.csv and .json; default build/evaluate_cmaf_NAME")
    parser.set_defaults(run=_evaluate)


def _train(options) -> None:
    quiet()
    encoders, name = watching.ENCODERS[options.encoders], Path(options.data).name
    tracking.check(options.track)
    out = commands.weights_file(options.out, "cmaf", name)
    recipe = replace(collected.RECIPE, epochs=options.epochs)
    if options.data == "surveillance":
        count = anomaly.CLIPS["train"] if options.clips is None else options.clips
        clips = dict(train=count, validation=max(12, count // 5), test=max(24, count // 5))
        found = collected.train_bundle(out, clips, options.seed, options.seed, encoders, recipe,
                                       options.labels or "frames")
        curves = tracking.Curves(options.track, out.stem)     # told at the end: the training may have been a cached one
        curves.tell(found["history"], asdict(recipe))
        curves.close()
        print(f"frame AUC {found['roc_auc']:.3f} on {clips['test']} simulated test clips")
    else:
        part = lambda split: collected.find(options.data, split, options.folder, options.fps, options.seed)
        train, validation = part("train"), part("validation")
        if not validation:
            train, validation = collected.held_out(train, options.seed)
        sets = [collected.collect(items, encoders, options.captions) for items in (train, validation)]
        labels = options.labels or "videos"
        with tempfile.TemporaryDirectory() as run, tracking.followed(options.track, Path(run), out.stem):
            watcher = collected.teach(*sets, encoders, options.seed, recipe, labels,
                                      Path(run) if options.track else None)
        watcher.save(out, data=f"{name}, {len(train)} videos for training", labels=labels, seed=str(options.seed),
                     epochs=str(recipe.epochs))
    print(f"threshold {Watcher.load(out).settings.threshold:.3f}, from validation; {out}")


def _evaluate(options) -> None:
    quiet()
    watcher = Watcher.load(options.weights or watching.TRAINED)
    encoders, name = watcher.encoders(), Path(options.data).name
    if options.data == "surveillance":
        scores, labels, abnormal = collected.simulated(
            watcher, encoders, anomaly.CLIPS["test"] if options.clips is None else options.clips, options.seed)
    else:
        items = collected.find(options.data, "test", options.folder, options.fps, options.seed)
        unknown = [item.id for item in items if item.events is None]
        if unknown or not items:
            raise ValueError(f"{options.data}: {len(items)} test videos, {len(unknown)} without annotated frames "
                             f"({', '.join(unknown[:3])}); measures over frames need annotations.csv, or a collection "
                             f"with annotated frames: {', '.join(NAMES)}")
        scores, labels = collected.collect(items, encoders, options.captions).frames(watcher, encoders)
        abnormal = [item.anomalous for item in items]
    out = writable(Path(options.out or paths.build() / f"evaluate_cmaf_{name}"))
    table = collected.evaluation(scores, labels, abnormal, watcher.settings.threshold)
    value = table.set_index("measure").value
    print(f"{name}: {int(value['videos'])} videos, {int(value['frames'])} frames, {value['base_rate']:.1%} anomalous "
          "(average precision by chance)")
    print(*commands.lines(table, COUNTS), "95 % intervals over videos", sep="\n")
    print(commands.write_measures(out, table, data=name,
                                  weights=watcher.facts | {"threshold": watcher.settings.threshold}))
