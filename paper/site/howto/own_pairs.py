from cmf.datasets import pairs, pictures

made = pairs.simulated(6, "test", seed=1, size=(240, 320))
for k, name in enumerate(made["ids"]):
    pictures.write(f"build/pairs/visible/{name}.png", made["visible"][k], made["chroma"][k])
    pictures.write(f"build/pairs/infrared/{name}.png", made["infrared"][k])
