"""The long results: computed here, committed as small tables below figures/<profile>/results, drawn by notebooks.

Every training run goes through the cache, so that a run that was cut short is taken up where it stopped.
"""

import argparse
from dataclasses import asdict, replace

import pandas as pd
import torch

from cmf import runs, weights
from cmf.studies import (
    anomaly,
    collected,
    cost,
    deepspace,
    downstream,
    explained,
    fusion,
    fusion_arms,
    robustness,
    scenes,
    segmenter,
    segmenting,
    segmenting_start,
    shared,
    trios,
    withheld,
)
from cmf.studies.footage import Encoders

WORLD = 1            # settings were chosen on world 0, of which nothing is reported
SEEDS = range(1, 6)
TARGETS = dict(train=3000, validation=600, test=1000)


def deepspace_arms() -> None:
    """All arms of SA-CMF on simulated targets, five seeds: results/deepspace_arms.csv."""
    sets, _ = deepspace.features(deepspace.simulated(**TARGETS, seed=WORLD))
    table = deepspace.arms(deepspace.ARMS, sets, SEEDS)
    runs.write_result("deepspace_arms", table.drop(columns="seconds"), profile="demo", targets=TARGETS,
                      training_seconds=round(float(table.seconds.sum())), training=asdict(deepspace.RECIPE))


def sacmf_robustness() -> None:
    """SA-CMF and either modality alone, of the first seed, on worse sensors: results/sacmf_dials.csv; with a modality
    missing from shares of the targets: results/sacmf_withheld.csv."""
    sets, projection = deepspace.features(deepspace.simulated(**TARGETS, seed=WORLD))
    models = {arm: deepspace.trained(arm, sets, SEEDS[0])[0] for arm in ("SA-CMF", "image only", "sequence only")}
    swept = [robustness.sweep(models, projection, dial, values) for dial, values in robustness.DIALS.items()]
    facts = dict(profile="demo", targets=TARGETS, training=asdict(deepspace.RECIPE))
    runs.write_result("sacmf_dials", pd.concat(swept, ignore_index=True), **facts)
    runs.write_result("sacmf_withheld", robustness.shares_missing(models["SA-CMF"], sets["test"], robustness.SHARES),
                      **facts)


def deepspace_classifier() -> None:
    """The classifier of `python -m cmf detect`: SA-CMF, the first seed, as cmf/trained/sacmf_deepspace.safetensors."""
    backbone = deepspace.Backbone()
    sets, projection = deepspace.features(deepspace.simulated(**TARGETS, seed=WORLD), backbone)
    network, record = deepspace.trained("SA-CMF", sets, SEEDS[0])
    facts = dict(data=f"simulated deep-space targets, {TARGETS['train']} for training", licence="MIT",
                 f1_macro_test=f"{record['measures']['f1_macro']:.4f}", backbone="InceptionV3, untrained, calibrated")
    scenes.Classifier.of(network, projection, backbone).save(scenes.TRAINED, **facts)


def cmaf_arms() -> None:
    """All arms of CMAF on simulated clips, five seeds: results/cmaf_arms.csv."""
    sets = anomaly.footage(**anomaly.CLIPS, seed=WORLD)
    table = anomaly.arms(anomaly.ARMS, sets, SEEDS)
    runs.write_result("cmaf_arms", table.drop(columns="seconds"), profile="demo", clips=anomaly.CLIPS,
                      training_seconds=round(float(table.seconds.sum())), training=asdict(anomaly.RECIPE))


def cmaf_controls() -> None:
    """CMAF of the five seeds when the test clips' captions are changed: results/cmaf_controls.csv."""
    sets = anomaly.footage(**anomaly.CLIPS, seed=WORLD)
    models = {seed: anomaly.trained("CMAF", sets, seed)[0] for seed in SEEDS}
    names = [*anomaly.CONTROLS, *(f"corrupted {share:g}" for share in anomaly.CORRUPTED)]
    table = anomaly.controls(models, sets["test"], Encoders(), names, seed=WORLD)
    runs.write_result("cmaf_controls", table, profile="demo", clips=anomaly.CLIPS)


def cmaf_scores() -> None:
    """Scores of four arms of the first seed in every segment of the test clips: results/cmaf_scores.csv."""
    sets = anomaly.footage(**anomaly.CLIPS, seed=WORLD)
    models = {arm: anomaly.trained(arm, sets, SEEDS[0])[0] for arm in ("CMAF", "visual only", "text only", "published")}
    runs.write_result("cmaf_scores", explained.segment_table(models, sets["test"]).round(5), profile="demo",
                      clips=anomaly.CLIPS)


def cmaf_surveillance() -> None:
    """The network of `python -m cmf score`: CMAF, the first seed, as cmf/trained/cmaf_surveillance.safetensors."""
    collected.train_bundle(world=WORLD, seed=SEEDS[0])


def cmi_arms() -> None:
    """All arms of CMI-Fusion, three seeds, a row an arm, seed and test pair: results/cmi_arms.csv."""
    some = fusion_arms.sets(seed=WORLD)
    table = fusion_arms.arms(fusion_arms.ARMS, some, SEEDS[:3])
    once = table.drop_duplicates(["arm", "seed"])
    runs.write_result("cmi_arms", table.drop(columns="seconds").round(4), profile="demo", pairs=fusion_arms.PAIRS,
                      training_seconds=round(float(once.seconds.sum())), training=asdict(fusion_arms.RECIPE))


def cmi_fusion() -> None:
    """The network of `python -m cmf fuse`, trained on real and simulated pairs: cmf/trained/cmi_fusion.safetensors."""
    fusion.ready()


def cmfs_encoder() -> None:
    """Where the encoders of CMFS's arms start: cmf/trained/vmamba_small.safetensors, from scenes of world 0."""
    some = segmenting.sets(seed=0, windows=segmenting_start.WINDOWS)
    some = replace(some, train=segmenting_start.single(some.train), held=segmenting_start.single(some.held))
    network, loss = segmenting.build("visible only", some, 0, start=None)
    result = segmenting.train(network, loss, some, replace(segmenting.RECIPE, epochs=segmenting_start.EPOCHS),
                              label="encoder")
    config = network.config
    weights.save(segmenting_start.START, network.encoders[0], dict(widths=config.widths, depths=config.depths),
                 data=f"{segmenting.SCENES['train']} simulated street scenes, {segmenting_start.WINDOWS} windows",
                 licence="MIT", miou_foreground_validation=f"{result.best_score:.4f}", seconds=f"{result.seconds:.0f}")


def cmfs_street() -> None:
    """The network of `python -m cmf segment`: CMFS, the first seed, as cmf/trained/cmfs_street.safetensors."""
    some = segmenting.sets(seed=WORLD)
    network, record = segmenting.trained("CMFS", some, SEEDS[0])
    found = segmenting.scores(record["counts"].sum(0))
    segmenter.Segmenter(network, some.classes, device="cpu").save(
        segmenter.TRAINED, data=f"{segmenting.SCENES['train']} simulated street scenes for training", licence="MIT",
        miou_test=f"{found['miou']:.4f}", miou_foreground_test=f"{found['miou_foreground']:.4f}", seed=str(SEEDS[0]),
        epochs=str(segmenting.RECIPE.epochs), seconds=f"{record['seconds']:.0f}")


def cmfs_arms() -> None:
    """CMFS, either modality alone and both as one picture of four channels, three seeds: results/cmfs_arms.csv,
    cmfs_compare.csv and cmfs_classes.csv, see `_cmfs`."""
    _cmfs("", segmenting.MAIN, SEEDS[:3])


def cmfs_ablations() -> None:
    """CMFS without each of its parts and as published, the first seed: results/cmfs_ablations.csv, ..._compare.csv."""
    _cmfs("ablations", ["CMFS", *(name for name in segmenting.ARMS if name not in segmenting.MAIN)], SEEDS[:1])


def _cmfs(group: str, names, seeds) -> None:
    """Three tables of arms: a row an arm and seed; mIoU with intervals and differences to CMFS over test pictures, of
    all classes and without the background; the same of each class."""
    some = segmenting.sets(seed=WORLD)
    table = segmenting.arms(names, some, seeds)
    name = lambda what: "_".join(filter(None, ["cmfs", group, what]))
    facts = dict(profile="demo", scenes=segmenting.SCENES, windows=segmenting.WINDOWS, crowd=segmenting.CROWD,
                 training=asdict(segmenting.RECIPE))
    runs.write_result(name("" if group else "arms"), table.drop(columns="seconds"), **facts,
                      training_seconds=round(float(table.seconds.sum())))
    compared = [segmenting.compare(names, some, seeds, foreground=foreground).assign(foreground=foreground)
                for foreground in (False, True)]
    runs.write_result(name("compare"), pd.concat(compared, ignore_index=True), **facts)
    runs.write_result(name("classes"), segmenting.by_class(names, some, seeds), **facts)


def cmfs_noise() -> None:
    """Four arms of the first seed with noise in either picture: results/cmfs_noise.csv."""
    table = segmenting.noisy(segmenting.MAIN, segmenting.sets(seed=WORLD), SEEDS[:1])
    runs.write_result("cmfs_noise", table, profile="demo", training=asdict(segmenting.RECIPE))


def downstream_miou() -> None:
    """A small U-Net on the pictures of each fusion method, one seed: results/downstream.csv, and the measures and
    ranks of the same test pictures: results/downstream_ranks.csv."""
    some = downstream.scenes(seed=WORLD)
    made = {name: downstream.pictures(name, some, method, downstream.ready())
            for name, method in downstream.methods().items()}
    facts = dict(profile="demo", scenes=downstream.SCENES, training=asdict(downstream.RECIPE))
    runs.write_result("downstream_ranks", downstream.ranked(some, made), **facts)
    runs.write_result("downstream", downstream.table(some, SEEDS[:1], made), **facts)


def shared_information() -> None:
    """Redundancy of two modalities and the gain of fusing them, at settings of the simulators' dials, four methods, one
    seed: results/shared_information.csv; does one order the other: results/shared_ranks.csv."""
    facts = dict(profile="demo", targets=trios.TARGETS, clips=anomaly.CLIPS, scenes=trios.SCENES)
    table = shared.table()
    runs.write_result("shared_information", table, **facts)
    runs.write_result("shared_ranks", shared.ranks(table), **facts)


def missing_modality() -> None:
    """The four methods when a modality is missing or that of another object: results/missing_modality.csv."""
    runs.write_result("missing_modality", withheld.table(), profile="demo", targets=trios.TARGETS, clips=anomaly.CLIPS,
                      scenes=trios.SCENES)


def cost_gpu() -> None:
    """What the methods cost on a GPU: results/cost_gpu.csv. Left out where there is none; the committed table stays."""
    if not torch.cuda.is_available():
        print("cost_gpu is left out: it needs a CUDA device; the committed table stays")
        return
    table = cost.table(most=float("inf"), methods=tuple(cost.NETWORKS), device="cuda")
    runs.write_result("cost_gpu", table, profile="demo", precision="float32; convolutions in TF32, torch's default")


RESULTS = {"demo": {"deepspace_classifier": deepspace_classifier, "deepspace_arms": deepspace_arms,
                    "sacmf_robustness": sacmf_robustness,
                    "cmaf_arms": cmaf_arms, "cmaf_controls": cmaf_controls, "cmaf_scores": cmaf_scores,
                    "cmaf_surveillance": cmaf_surveillance, "cmi_arms": cmi_arms, "cmfs_encoder": cmfs_encoder,
                    "cmfs_street": cmfs_street, "cmfs_arms": cmfs_arms, "cmfs_ablations": cmfs_ablations,
                    "cmfs_noise": cmfs_noise, "downstream": downstream_miou,
                    "shared_information": shared_information, "missing_modality": missing_modality,
                    "cost_gpu": cost_gpu},
           "real": {"cmi_fusion": cmi_fusion}}


def main(argv=None) -> None:
    """`python -m cmf.results [--profile demo] [--only NAME]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="demo", choices=sorted(RESULTS))
    parser.add_argument("--only", metavar="NAME", help="one result of the profile")
    chosen = parser.parse_args(argv)
    known = RESULTS[chosen.profile]
    if chosen.only and chosen.only not in known:
        parser.error(f"no result {chosen.only!r} in profile {chosen.profile}; there are {', '.join(known)}")
    torch.set_num_threads(1)  # small networks: threads cost more than they bring, and one gives equal numbers
    for name, compute in known.items():
        if chosen.only in (None, name):
            compute()


if __name__ == "__main__":
    main()
