"""Cards of the small encoders: what a reader must know of the weights, written beside them."""

from pathlib import Path

import pandas as pd

from cmf import runs, weights

TASK = dict(
    clip="CLIP (`cmf.encoders.clip.CLIP`): pictures and sentences of streets in one space.",
    blip="BLIP (`cmf.encoders.blip.BLIP`): writes a sentence about a picture of a street.",
    distilbert="DistilBERT (`cmf.encoders.distilbert.DistilBERT`): token states of sentences about streets.")
LOSS = dict(
    clip="first the vision tower alone: a linear head, thrown away, tells from each patch which kinds of things lie in "
         "it (the renderer's own labels); then that and InfoNCE both ways in batches of {batch}, word-for-word equal "
         "captions sharing the target",
    blip="next token of a caption of fixed order and wording (`twins_data.plain`), teacher forcing; the vision "
         "tower starts from the small CLIP's; first the decoder alone, then all of it",
    distilbert="masked tokens, 15 % (80 masked, 10 random, 10 kept)")
LIMITS = """
* **Simulated only.** It has seen no photograph. On real pictures it is a weak edge and colour detector that knows a few
  words; use the published weights by name where they can be had.
* **Small things.** In 128 px a person is often a few pixels. Cars, fire, light and weather are seen on places that are
  new to it; people, bicycles and bags hardly, and the kinds it names are no better than always naming people and cars.
* **Small words.** Its vocabulary is that of two grammars; other words are spelt letter by letter and mean nothing.
* **Night.** Captions also name people whom the visible picture hardly shows, so a part of the errors cannot be mended.
* **Labels.** Labels of events were not used, frames of clips with events were (training places only). Places of
  validation, test and shift were not seen.
* **Pixels.** The renderer's labels of training places were used for CLIP's vision tower, which BLIP inherits.
* **Arithmetic.** Stored in float16 and read back as float32; measured in float32.
* **Lean.** The recipe was changed after scores on the test places had been seen, so the scores lean upwards. On one
  machine `make encoders` gives the same weights again, number by number; on another one nobody has tried, and the
  tolerances are guesses.
"""


def write(path: Path, scores: pd.DataFrame) -> Path:
    """The card `path`.md of weights `path`: recipe from the file's own facts, scores from the rows of `measure`.

    Raises:
        ValueError: no score of that encoder.
    """
    name = path.stem.removesuffix("_small")
    own = scores[scores.encoder == name]
    if not len(own):
        raise ValueError(f"no score of {name} among those of {', '.join(sorted(set(scores.encoder)))}")
    facts = weights.facts(path)
    config = facts["config"]["model"]
    first = f"; before it {facts['first']}" if facts.get("first") else ""
    towers = [f"{part}: {', '.join(f'{k} {v}' for k, v in sorted(config[part].items()) if isinstance(v, int))}"
              for part in ("vision_config", "text_config") if part in config] or [
              ", ".join(f"{k} {v}" for k, v in sorted(config.items()) if isinstance(v, int))]
    lines = [f"# {path.name}", "", TASK[name], "", "| | |", "|---|---|",
             f"| class | transformers' {facts['architecture']}, activation {facts['activation']} |",
             *(f"| size | {tower} |" for tower in towers),
             f"| tokenizer | vocabulary.json, {facts['vocabulary'][:16]} |",
             f"| data | {facts['data']} (`cmf.simulate.street`, `cmf.simulate.surveillance`) |",
             f"| loss | {LOSS[name].format(batch=facts['batch'])} |",
             f"| recipe | {facts['epochs']} epochs, batch {facts['batch']}, AdamW {facts['lr']}, cosine, seed "
             f"{facts['seed']}, precision {facts['precision']}{first}; `make encoders` |",
             f"| seconds of training | {facts['seconds']} on {facts['threads']} threads |",
             f"| licence | {facts['licence']} |", "",
             "Measured on generated scenes of places that training did not see (`test`); one caption a picture. A "
             "training run on another machine is expected within the tolerance.", "",
             "| score | value | tolerance | chance | n |", "|---|---|---|---|---|",
             *(f"| {r.score} | {r.value:.4g} | {r.tolerance:g} | {r.chance:.4g} | {r.n} |" for r in own.itertuples()),
             "", "What the scores mean stands in `cmf.studies.twins_scores`.", "", "## Limits", LIMITS.rstrip("\n")]
    card = path.with_suffix(".md")
    runs.write_text(card, "\n".join(lines).replace("\n\n\n", "\n\n") + "\n")
    return card


def compare(stated: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Rows of both tables side by side: encoder, score, stated, found, tolerance, within (bool)."""
    table = stated.merge(found[["encoder", "score", "value"]], on=["encoder", "score"], suffixes=("", "_found"))
    table = table.rename(columns=dict(value="stated", value_found="found"))
    table["within"] = (table.stated - table.found).abs() <= table.tolerance
    return table[["encoder", "score", "stated", "found", "tolerance", "within"]]
