"""`python -m cmf fuse`: pairs of pictures and sentences to a folder of fused pictures, measured and shown.

The folder holds, for each pair, the fused picture under the pair's name: PNG, or TIFF where the visible picture is one
without alpha; 16 bits a channel where one of the two has more than 8. Beside them lie measures.csv and its means,
run.json (weights, prompts, seconds) and sheet/contact_sheet.png; no other picture, so that the folder can be measured.
It is made aside as `<folder>.part` and renamed when it is complete.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmf import runs, sources
from cmf.datasets.names import listed
from cmf.datasets.pairs import Pair, load, match
from cmf.datasets.pictures import Picture, read, to_rgb, write
from cmf.studies import folders

SHOWN = 12            # pairs on the contact sheet, at most
CELL = 300            # pixels: longest side of a picture on it
LARGE = 4_000_000     # pixels of a picture that is too large to be measured in a few seconds and gigabytes


@dataclass(frozen=True)
class Done:
    """One pair that was fused. seconds: of reading, fusing and writing. shown: its row of the contact sheet or None."""

    pair: Pair
    path: Path
    prompt: str
    size: tuple[int, int]
    bits: int
    seconds: dict[str, float]
    shown: list[np.ndarray] | None


def prompts_of(pairs: Sequence[Pair], prompt: str = "", table: Path | str | None = None) -> dict[str, str]:
    """The sentence of each pair by its stem: one for all, or those of a CSV with the columns stem and prompt.

    A pair about which the CSV says nothing is balanced, with a warning.

    Raises:
        FileNotFoundError: no CSV there.
        ValueError: a CSV without these columns, with a stem twice, or with one that no pair has.
    """
    import warnings

    import pandas as pd

    stems = [pair.stem for pair in pairs]
    if table is None:
        return dict.fromkeys(stems, prompt)
    if not Path(table).is_file():
        raise FileNotFoundError(f"{table}: no such file; expected a CSV with the columns stem and prompt")
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as reason:             # pandas' and the decoder's
        raise ValueError(f"{table} cannot be read ({reason}); expected a CSV in UTF-8 with the columns stem and "
                         "prompt") from reason
    if not {"stem", "prompt"} <= set(rows.columns):
        raise ValueError(f"{table} has the columns {', '.join(map(str, rows.columns))}; expected stem and prompt")
    for wrong, why in ((rows.stem[rows.stem.duplicated()], "several prompts for"),
                       (rows.stem[~rows.stem.isin(stems)], "prompts for pairs that are not here:")):
        if len(wrong):
            raise ValueError(f"{table}: {why} {listed(wrong.unique())}; expected one line a pair")
    found = dict(zip(rows.stem, rows.prompt, strict=True))
    silent = [stem for stem in stems if stem not in found]
    if silent:
        warnings.warn(f"{table}: no prompt for {len(silent)} of {len(stems)} pairs, first {silent[0]}; they are "
                      "balanced", stacklevel=2)
    return {stem: found.get(stem, "") for stem in stems}


def fuse(pairs: Sequence[Pair], fuser, prompts: dict[str, str], folder: Path, align: str = "refuse",
         ) -> tuple[list[Done], dict[str, str]]:
    """Fuse pairs and write the pictures into a folder.

    Args:
        pairs: of `cmf.datasets.pairs.match`. fuser: a `cmf.studies.fusing.Fuser`. prompts: by stem.
        align: what to do about different sizes, see `cmf.datasets.pairs.load`.

    Returns:
        what was fused, and by stem the reason why a pair could not be read or fused.

    Raises:
        OSError: the folder cannot be written.
    """
    shown = set(np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).round().astype(int).tolist())
    done, failed = [], {}
    for k, pair in enumerate(runs.progress(pairs, "fuse") if len(pairs) > 1 else pairs):
        began = time.perf_counter()
        try:
            visible, infrared = load(pair, align)
            loaded = time.perf_counter()
            found = fuser.fuse(visible, infrared, prompts[pair.stem])
        except (ValueError, OSError) as reason:
            failed[pair.stem] = folders.why(pair.stem, reason)
            continue
        fused = time.perf_counter()
        tiff = pair.visible.suffix.lower() in (".tif", ".tiff") and found.alpha is None
        path = write(folder / (pair.stem + (pair.visible.suffix if tiff else ".png")), found.luma, found.chroma,
                     found.bits, found.alpha)
        took = dict(read=loaded - began, fuse=fused - loaded, write=time.perf_counter() - fused)
        row = [small(p) for p in (visible, infrared, Picture(found.luma, found.chroma))] if k in shown else None
        done.append(Done(pair, path, prompts[pair.stem], found.luma.shape, found.bits, took, row))
    return done, failed


def small(picture: Picture, side: int = CELL) -> np.ndarray:
    """A picture as uint8 (h, w, 3), its longest side at most `side` pixels, each the mean of those it covers."""
    import cv2

    share = min(1, side / max(picture.luma.shape))
    size = [max(1, round(n * share)) for n in picture.luma.shape[::-1]]
    luma, chroma = (None if x is None else cv2.resize(x, size, interpolation=cv2.INTER_AREA)
                    for x in (picture.luma, picture.chroma))
    rgb = np.stack([luma] * 3, -1) if chroma is None else to_rgb(luma, chroma)
    return np.rint(rgb * 255).astype(np.uint8)


def contact_sheet(done: Sequence[Done], path: Path) -> Path:
    """Draw visible, infrared and fused pictures side by side, a pair a row, with its name and prompt, as PNG."""
    from PIL import Image, ImageDraw, ImageFont

    from cmf.studies.fusing import plain

    rows = [one for one in done if one.shown]
    gap, line = 8, 18
    high = [max(p.shape[0] for p in one.shown) for one in rows]
    sheet = Image.new("RGB", (3 * CELL + 4 * gap, gap + line + sum(h + line + gap for h in high)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, title in enumerate(("visible", "infrared", "fused")):
        draw.text((gap + k * (CELL + gap), gap // 2), title, "black", font)
    top = gap + line
    for one, height in zip(rows, high, strict=True):
        said = plain(f"{one.pair.stem}: {one.prompt}" if one.prompt else one.pair.stem)
        wide = 3 * CELL + 2 * gap
        if draw.textlength(said, font) > wide:
            while draw.textlength(said + " ...", font) > wide:
                said = said[:-max(1, len(said) // 20)]
            said += " ..."
        draw.text((gap, top), said, "black", font)
        for k, picture in enumerate(one.shown):
            sheet.paste(Image.fromarray(picture), (gap + k * (CELL + gap), top + line))
        top += height + line + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path


def measures(done: Sequence[Done], align: str, name: str, jobs: int | None = None):
    """Rows of `cmf.studies.measured.measure_folders` for what was fused, as a DataFrame; the column fused is `name`.

    A picture of more than LARGE pixels has no measures, with a warning. jobs: processes; None: as many as pay.
    """
    import warnings

    import pandas as pd

    from cmf.metrics import fusion
    from cmf.studies import measured

    large = [one.pair.stem for one in done if math.prod(one.size) > LARGE]
    if large:
        warnings.warn(f"{listed(large)}: larger than {LARGE / 1e6:g} million pixels and not measured; `python -m cmf "
                      "measure` does it, where there is memory for it", stacklevel=2)
    tasks = [(one, align) for one in done if one.pair.stem not in large]
    found = measured.spread(_scores, tasks, jobs) if tasks else []
    return pd.DataFrame([dict(fused=name, stem=one.pair.stem) for one in done]).merge(
        pd.DataFrame(found, columns=["stem", *fusion.MEASURES]), "left", "stem")


def _scores(task) -> dict:
    from cmf.metrics import fusion
    from cmf.studies.measured import levels

    one, align = task
    visible, infrared = load(one.pair, align)
    return dict(stem=one.pair.stem, **fusion.evaluate(*map(levels, (infrared, visible, read(one.path))), 255))


def record(done: Sequence[Done], failed: dict[str, str], fuser) -> dict:
    """What run.json says: weights, text encoder, device, pairs with prompts, sizes and seconds, and what failed."""
    seconds = {name: round(float(np.mean([one.seconds[name] for one in done])), 4) for name in done[0].seconds}
    weights = fuser.path and dict(file=fuser.path.name, sha256=sources.sha256(fuser.path))
    return runs.provenance(
        weights=weights, text_encoder=fuser.facts.get("text_encoder"), network_device=str(fuser.device),
        mean_seconds=seconds, failed=failed,
        pairs=[dict(stem=one.pair.stem, visible=one.pair.visible.name, infrared=one.pair.infrared.name,
                    fused=one.path.name, prompt=one.prompt, rows=one.size[0], columns=one.size[1], bits=one.bits,
                    seconds={name: round(value, 4) for name, value in one.seconds.items()}) for one in done])


def arguments(parser) -> None:
    """`python -m cmf fuse --visible PATH --infrared PATH --out DIR`."""
    parser.add_argument("--visible", required=True, metavar="PATH",
                        help="a picture or a folder of them (medical: CT, PET or SPECT); gives names and colours")
    parser.add_argument("--infrared", required=True, metavar="PATH",
                        help="a picture, or a folder with the same names (medical: MRI)")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="folder to make: fused pictures, measures.csv, run.json, sheet/contact_sheet.png")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--prompt", default="", metavar="TEXT",
                       help="what the pictures should show, as 'highlight warm people'; default: balanced")
    words.add_argument("--prompts", metavar="CSV", help="a sentence for each pair: columns stem and prompt")
    parser.add_argument("--weights", metavar="FILE", help="of a CMIFusion; default: the project's own")
    folders.arguments(parser)
    parser.add_argument("--no-measures", action="store_true", help="leave measures.csv out, which takes the longest")
    parser.add_argument("--jobs", type=int, metavar="N",
                        help="threads of the network, processes that measure; default: all cores")
    parser.set_defaults(run=_run)


def _run(options) -> int:
    pairs = match(options.visible, options.infrared)
    prompts = prompts_of(pairs, options.prompt, options.prompts)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: expected 1 or more")
    import torch

    from cmf.studies.fusing import TRAINED, Fuser

    if options.jobs:
        torch.set_num_threads(options.jobs)
    fuser = Fuser.load(options.weights or TRAINED, options.device)
    out = Path(options.out).absolute()
    lines = []
    with folders.aside(out) as part:
        done, failed = fuse(pairs, fuser, prompts, part, options.align)
        if done:
            with folders.completed(part, out):
                lines = _finish(done, failed, fuser, part, out.name, options)
    return folders.closing(lines, len(done), len(pairs), "fused", failed, out)


def _finish(done, failed, fuser, part, name, options) -> list[str]:
    """Write what goes beside the pictures; what to print."""
    lines = []
    if not options.no_measures:
        from cmf.studies import measured

        table = measures(done, options.align, name, options.jobs)
        average = measured.means(table)
        measured.write(part / "measures.csv", {"": table, "_means": average})
        lines += [measured.shown(average)] if average["mean"].notna().any() else []
    contact_sheet(done, part / "sheet" / "contact_sheet.png")
    runs.write_text(part / "run.json", json.dumps(record(done, failed, fuser), indent=1, sort_keys=True) + "\n")
    return lines
