from cmf.datasets.deepspace import read_training
from cmf.studies import classifying, commands

targets = read_training("build/example/train", size=32)
rows = commands.divided(targets.labels, targets.classes, seed=1)
sets = {part: targets.subset(some) for part, some in rows.items()}

model, result = classifying.teach(sets, classifying.recipe_for(len(sets["train"]), seed=1, epochs=4))
print(f"macro F1 {result.best_score:.2f} on validation, epoch {result.best_epoch}")
print(classifying.measures(model, sets["test"]))
model.save("build/own_targets.safetensors", data="my_data")
