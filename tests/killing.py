"""A training that is killed and goes on, beside one that nothing stops."""

import pandas as pd
import torch
from safetensors.torch import load_file

from cmf.training_state import State


def killed_and_resumed(train, where, monkeypatch, epoch: int) -> pd.DataFrame:
    """Both end in the same weights and history, which is returned. train(weights, checkpoints): the exit status of one
    training to these paths below `where`: NAME.safetensors and NAME, of whole and cut. epoch: after it comes the kill.
    """
    whole, cut = ((where / f"{name}.safetensors", where / name) for name in ("whole", "cut"))
    assert train(*whole) == 0
    save = State._save

    def killed(self):
        save(self)
        if self.epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(State, "_save", killed)
        assert train(*cut) == 130
    assert not cut[0].exists() and train(*cut) == 0
    one, other = load_file(whole[0]), load_file(cut[0])
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    rows, again = (pd.read_csv(path / "history.csv").drop(columns="seconds") for _, path in (whole, cut))
    assert rows.equals(again)
    return rows
