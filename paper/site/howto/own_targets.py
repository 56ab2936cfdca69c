import numpy as np

from cmf.datasets.deepspace import read_training
from cmf.studies import deepspace, scenes
from cmf.training import Recipe

targets = read_training("build/example/train", size=32)
order = np.random.default_rng(0).permutation(len(targets.ids))
sets = dict(train=targets.subset(order[:36]), validation=targets.subset(order[36:48]), test=targets.subset(order[48:]))

backbone = deepspace.Backbone()
tables, projection = deepspace.features(sets, backbone)
network, result = deepspace.train("SA-CMF", tables, seed=1, recipe=Recipe(epochs=4, batch=16, lr=3e-3))
print(f"macro F1 {deepspace.judge(network, tables['test'])['f1_macro']:.2f}, epoch {result.best_epoch}")
scenes.Classifier.of(network, projection, backbone).save("build/own_targets.safetensors", data="my_data")
