import torch
from torch import nn
from torch.nn import functional as F

from cmf import runs
from cmf.metrics.recognition import macro_f1
from cmf.training import Recipe, Tensors, fit


class Product(nn.Module):
    """Classify by the product of two modalities. A batch: image (B, I) and sequence (B, S); logits (B, K)."""

    def __init__(self, image: int, sequence: int, classes: int, width: int = 32):
        super().__init__()
        self.image, self.sequence = nn.Linear(image, width), nn.Linear(sequence, width)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fused = self.image(batch["image"]) * self.sequence(batch["sequence"])   # (B, width)
        return dict(logits=self.head(fused), fused=fused)


def criterion(outputs, batch):
    return dict(loss=F.cross_entropy(outputs["logits"], batch["labels"]))


def table(rows: int, seed: int) -> Tensors:
    """The class is whether two signs agree: neither modality knows it alone."""
    draw = torch.Generator().manual_seed(seed)
    image, sequence = torch.randn(rows, 4, generator=draw), torch.randn(rows, 6, generator=draw)
    return Tensors(image=image, sequence=sequence, labels=(image[:, 0] * sequence[:, 0] > 0).long())


runs.seed_everything(1)
train, held = table(2000, seed=1), table(500, seed=2)


@torch.no_grad()
def score(model) -> float:
    return macro_f1(held.columns["labels"].numpy(), model(held.columns)["logits"].argmax(1).numpy(), 2)


network = Product(4, 6, 2)
result = fit(network, train, criterion, Recipe(epochs=20, seed=1), score=score)
print(f"macro F1 {result.best_score:.2f} after epoch {result.best_epoch}")
