"""The command line: `python -m cmf COMMAND ...`.

A command is a line of COMMANDS: its help, and the function that adds its arguments to a parser and sets `run`,
a function of the parsed arguments that returns an exit status or None. The function is imported only when its
command is named, so that help stays quick; `run` imports what it needs itself.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

from cmf import __version__

COMMANDS = {
    "book": ("run the notebooks that are out of date", "cmf.book.__main__:arguments"),
    "detect": ("find and classify the targets of scenes", "cmf.studies.scenes:arguments"),
    "score": ("score videos over time, with pages that explain the alarms", "cmf.studies.score:arguments"),
    "fuse": ("fuse pairs of infrared and visible pictures as a sentence asks", "cmf.studies.fuse:arguments"),
    "segment": ("label and fuse pairs of infrared and visible pictures", "cmf.studies.segment:arguments"),
    "train": ("train a method on a collection", "cmf.studies.learning:train_arguments"),
    "evaluate": ("measure a trained method on a collection", "cmf.studies.learning:evaluate_arguments"),
    "measure": ("measure fused pictures, and rank the methods that made them", "cmf.studies.measured:arguments"),
    "doctor": ("say what is here, what is missing, and the command that mends it", "cmf.doctor:arguments"),
    "data": ("list, get, check and make data sets and weights", "cmf.cli:data_arguments"),
}


def main(argv=None) -> int:
    """Run one command and return the exit status: 0 done, 1 refused with one line on stderr, 2 bad usage."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser("python -m cmf", argv)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # argparse has already spoken
        return int(end.code or 0)
    usual = warnings.formatwarning
    if not arguments.debug:
        warnings.formatwarning = _note
    try:
        return arguments.run(arguments) or 0
    except (ValueError, OSError) as reason:
        if arguments.debug:
            raise
        print(f"cmf: {' '.join(str(reason).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cmf: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = usual


def _note(message, category, *place) -> str:
    """A warning as a line for the user, without the place in the code, which --debug shows."""
    return f"cmf: note: {' '.join(str(message).split())}\n"


def _parser(prog: str, named) -> argparse.ArgumentParser:
    """The parser, with the arguments of the commands in `named`."""
    parser = argparse.ArgumentParser(prog=prog, description="Cross-modal fusion, reproducible.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--completion", choices=("bash", "zsh", "fish", "tcsh"), action=_Completion,
                        help="print a script with which the shell completes the command `cmf`")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, source) in COMMANDS.items():
        child = commands.add_parser(name, help=text, description=text)
        if name in named:
            module, _, function = source.partition(":")
            getattr(importlib.import_module(module), function)(child)
    return parser


class _Completion(argparse.Action):
    """Print the script for a shell, and end."""

    def __call__(self, parser, namespace, shell, option_string=None):
        import shtab

        print(shtab.complete(_parser("cmf", COMMANDS), shell))
        parser.exit()


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """`data list`, `data get NAME`, `data check NAME`, `data make deepspace|surveillance --out DIR`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="all entries and where they are").set_defaults(run=_data_list)
    get = actions.add_parser("get", help="fetch an entry, or say how to obtain it")
    check = actions.add_parser("check", help="compare the checksums of an entry's files")
    for action, run in ((get, _data_get), (check, _data_check)):
        action.add_argument("name", metavar="NAME")
        action.set_defaults(run=run)
    make = actions.add_parser("make", help="generate a simulated set as folders")
    sets = make.add_subparsers(dest="what", required=True, metavar="SET")
    scenes = sets.add_parser("deepspace", help="targets and scenes of two frames and sequences")
    scenes.add_argument("--targets", type=int, default=600, metavar="N", help="training targets (default 600)")
    scenes.add_argument("--scenes", type=int, default=3, metavar="K", help="scenes of 1024 x 1024 px (default 3)")
    scenes.add_argument("--psnr", type=_psnr, default=8.0, metavar="P",
                        help="peak signal-to-noise of the scenes' targets (default 8), or physical: as their range "
                             "and radiance make it")
    scenes.set_defaults(run=_data_make)
    street = sets.add_parser("surveillance", help="clips of a street as MP4 files, with captions and annotations")
    street.add_argument("--clips", type=int, default=12, metavar="N", help="clips of 10 to 60 s (default 12)")
    street.add_argument("--split", choices=("train", "validation", "test", "shift"), default="test",
                        help="each has streets of its own (default test)")
    street.add_argument("--size", type=_size, default=(240, 320), metavar="HxW",
                        help="pixels, even numbers (default 240x320)")
    street.set_defaults(run=_data_film)
    for kind in (scenes, street):
        kind.add_argument("--out", required=True, metavar="DIR", help="folder to make; must not hold anything yet")
        kind.add_argument("--seed", type=int, default=0, metavar="S", help="seed, 0 or larger (default 0)")


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) >= 48 and int(side) % 2 == 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected height x width in even pixels from 48 on, as 240x320, got {text!r}")
    return int(sides[0]), int(sides[1])


def _psnr(text: str) -> float | None:
    if text == "physical":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or physical, got {text!r}") from None


def _data_list(arguments) -> None:
    from cmf.catalogue import rows

    for row in rows():
        size = f"{row['size'] / 1e6:.0f} MB" if row["size"] else ""
        print(f"{row['name']:<28}{row['kind']:<11}{size:>7}  {row['path'] or 'not here; ' + row['how']}")


def _data_get(arguments) -> None:
    from cmf.catalogue import get

    print(get(arguments.name))


def _data_check(arguments) -> None:
    from cmf.catalogue import check, entry

    path = check(arguments.name, progress=True)
    listed = path.is_file() or (path / "SHA256SUMS").is_file() or entry(arguments.name).sha256
    print(f"{path}: {'checksums agree' if listed else 'here; no checksum is known'}")


def _data_make(arguments) -> None:
    print(make_deepspace(arguments.out, arguments.targets, arguments.scenes, arguments.seed, arguments.psnr))


def _data_film(arguments) -> None:
    from cmf.datasets.clips import write_clips
    from cmf.simulate.surveillance import simulate_clips

    clips = simulate_clips(arguments.clips, arguments.split, arguments.seed)
    print(write_clips(clips, arguments.out, arguments.size))


def make_deepspace(out, targets: int, scenes: int, seed: int = 0, psnr: float | None = 8.0) -> Path:
    """Write simulated deep-space folders: out/train/{2D,1D} and the scenes out/images, out/sequences.

    targets: training targets, split "train". scenes: scenes of 20 targets, split "test". seed: 0 or larger.
    psnr: peak signal-to-noise of a scene's targets, None: by range and radiance. Everything is written to
    `<out>.part` and renamed at the end.
    Raises FileExistsError when `out` holds something, ValueError on a bad number.
    """
    import numpy as np
    from tqdm import tqdm

    from cmf.simulate.deepspace import simulate_scene, simulate_targets, write_scene, write_training

    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; remove it or choose another one")
    if seed < 0 or scenes < 0:
        raise ValueError(f"seed {seed} and scenes {scenes}: expected 0 or larger")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    made = simulate_targets(targets, split="train", seed=seed)
    try:
        with tqdm(total=targets + scenes, desc=f"write {out}", unit="file set", delay=1) as bar:
            for start in range(0, targets, 100):
                rows = slice(start, start + 100)
                write_training(part / "train", replace(
                    made, images=made.images[rows], times=made.times[rows], sequences=made.sequences[rows],
                    labels=made.labels[rows], ids=made.ids[rows], truth={k: v[rows] for k, v in made.truth.items()}))
                bar.update(len(made.ids[rows]))
            for k in range(scenes):
                own = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
                scene = simulate_scene(psnr=psnr, split="test", seed=own)
                write_scene(part / "images", part / "sequences", scene, f"scene{k:02d}")
                bar.update()
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out
