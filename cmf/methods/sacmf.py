"""SA-CMF: secondary-attention cross-modal fusion weighted by copula mutual information.

Two modalities of one target, pictures and a sequence, come as tokens. Attention within each modality is
followed by cross-attention in both directions; every token is reduced to one scalar, mapped by its empirical
distribution to (0, 1), and the mutual information of all image-sequence pairs is fitted with Gumbel copulas.
A token's weight in the fused vector is its relevance for the class minus its redundancy with the other
modality. `SACMF` is the corrected method; `PublishedSACMF` keeps the published arithmetic as an arm.

Axes: B batch, Ti image tokens, To sequence tokens, T = Ti + To, H heads, d width, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.attention import Block
from cmf.copula.differentiable import gumbel_mi, pairwise_logpdf, pairwise_theta
from cmf.copula.soft_ranks import QuantileTable, ToNormal, soft_ecdf
from cmf.losses import hard_negative_hinge

IMAGE, SEQUENCE = "image", "sequence"


@dataclass(frozen=True)
class Config:
    """The shape of an `SACMF`; stored with its weights and compared when they are loaded.

    `image` and `sequence` list the token sources of each modality as (name in the batch, tokens, channels).
    """

    classes: int
    image: tuple[tuple[str, int, int], ...]
    sequence: tuple[tuple[str, int, int], ...]
    width: int = 64              # d
    heads: int = 4               # H
    depth: int = 1               # self-attention blocks a modality
    dropout: float = 0.1
    withheld: float = 0.25       # share of training samples that are seen once more without one modality
    modalities: tuple[str, ...] = (IMAGE, SEQUENCE)  # what the network may look at
    cross: bool = True           # cross-attention in both directions
    weighting: str = "copula"    # copula | published | uniform: how tokens are weighted in the fused vector
    information: bool = True     # fit the copulas of all token pairs
    rotation: bool = True        # let the copula express negative dependence
    memory: int = 512            # recent samples behind the empirical distributions; 0: this batch alone
    temperature: float = 0.5     # nats; the softmax over relevance minus redundancy
    refit: int = 4               # training steps between fits of the copulas
    wide: tuple[str, ...] = ()   # sources that also reach the logits through one linear layer

    def __post_init__(self):
        if self.weighting not in ("copula", "published", "uniform"):
            raise ValueError(f"weighting must be one of copula, published, uniform, got {self.weighting!r}")
        if not self.modalities or set(self.modalities) - {IMAGE, SEQUENCE}:
            raise ValueError(f"modalities must be some of {(IMAGE, SEQUENCE)}, got {self.modalities}")
        if self.information and len(self.modalities) < 2:
            raise ValueError(f"information between modalities needs two of them, got {self.modalities}; "
                             "set information=False")
        if self.weighting == "copula" and not self.information:
            raise ValueError("weighting by copulas needs information=True; choose uniform, or fit the copulas")


class SACMF(nn.Module):
    """The corrected method.

    A batch is a dict of float tensors: for each source of the configuration its name -> (B, tokens, channels);
    optionally "has_image" and "has_sequence", (B,) bool, False where a modality is missing. `fit_inputs` must
    have seen the training data once, to map the inputs to one scale.

    The outputs, a dict: logits (B, K); fused (B, d); the modality vectors image and sequence (B, d) and their
    shared parts shared_image, shared_sequence (B, d); importance (B, T), mean 1 over the tokens; information
    (Ti, To), the fitted mutual information in nats; pointwise (B, Ti, To), log copula densities whose mean
    is a differentiable lower bound on it; probe (B, T, K), logits of each token's scalar alone; attention
    (B, H, Ti, To) from image to sequence.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, d = config, config.width
        self.inputs = nn.ModuleDict({n: ToNormal(c) for n, _, c in config.image + config.sequence})
        self.embed = nn.ModuleDict({n: nn.Linear(c, d) for n, _, c in config.image + config.sequence})
        counts = {IMAGE: sum(n for _, n, _ in config.image), SEQUENCE: sum(n for _, n, _ in config.sequence)}
        self.place = nn.ParameterDict({m: 0.02 * torch.randn(n, d) for m, n in counts.items()})
        self.null = nn.ParameterDict({m: 0.02 * torch.randn(n, d) for m, n in counts.items()})
        block = lambda: Block(d, config.heads, config.dropout)
        self.within = nn.ModuleDict({m: nn.ModuleList(block() for _ in range(config.depth)) for m in counts})
        self.across = nn.ModuleDict({m: block() for m in counts} if config.cross else {})
        for crossing in self.across.values():  # starts as the identity: what crosses has to earn its place
            for last in (crossing.attention.out, crossing.feed[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.shared = nn.ModuleDict({m: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d)) for m in counts})
        self.copula = TokenInformation(counts[IMAGE], counts[SEQUENCE], config) if config.information else None
        self.fuse = nn.Sequential(nn.LayerNorm(3 * d), nn.Linear(3 * d, d), nn.GELU(), nn.Dropout(config.dropout))
        self.head = nn.Linear(d, config.classes)
        wide = sum(n * c for name, n, c in config.image + config.sequence if name in config.wide)
        self.wide = nn.Linear(wide, config.classes, bias=False) if wide else None

    def fit_inputs(self, batch: dict[str, Tensor]) -> "SACMF":
        """Take the distribution of every input channel from training data."""
        for name, mapping in self.inputs.items():
            mapping.fit(batch[name])
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        row, have = self._present(batch)
        values = {name: mapping(batch[name])[row] for name, mapping in self.inputs.items()}
        tokens = {}
        for m, sources in ((IMAGE, self.config.image), (SEQUENCE, self.config.sequence)):
            x = torch.cat([self.embed[n](values[n]) for n, _, _ in sources], 1) + self.place[m]  # (B, Tm, d)
            x = torch.where(have[m][:, None, None], x, self.null[m])
            for layer in self.within[m]:
                x, _ = layer(x)
            tokens[m] = x
        image, sequence = tokens[IMAGE], tokens[SEQUENCE]
        shared = {m: self.shared[m](x.mean(1)) for m, x in tokens.items()}                # (B, d)
        present = torch.cat([have[m][:, None].expand(-1, tokens[m].shape[1]) for m in tokens], 1)   # (B, T)
        copula, attention = {}, None
        if self.copula is not None:
            copula = self.copula(image, sequence, present)
        if self.config.weighting != "copula":
            score = torch.zeros(present.shape, device=present.device)
            if self.config.weighting == "published":
                score = torch.cat(published_importance(image, sequence)[:2], 1)
            copula["importance"] = normalised(score, present)
        if self.config.cross:
            crossed, attention = self.across[IMAGE](image, sequence)
            sequence, _ = self.across[SEQUENCE](sequence, image)
            image = crossed
        importance = copula["importance"]                                                 # (B, T)
        weigh = lambda x, w: (w[..., None] * x).mean(1)
        a = weigh(image, importance[:, : image.shape[1]])                                 # (B, d)
        b = weigh(sequence, importance[:, image.shape[1]:])                               # (B, d)
        common = sum(shared[m] * have[m][:, None] for m in shared) / sum(have.values())[:, None]
        fused = self.fuse(torch.cat([a, b, common], -1))                                  # (B, d)
        logits = self.head(fused)                                                         # (B, K)
        if self.wide is not None:
            logits = logits + self.wide(self._wide(values, have))
        return dict(logits=logits, fused=fused, image=a, sequence=b, shared_image=shared[IMAGE],
                    shared_sequence=shared[SEQUENCE], attention=attention, row=row,
                    complete=have[IMAGE] & have[SEQUENCE], **copula)

    def _present(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Which sample each row shows (B',), and whether the row has each modality, (B',) bool."""
        some = batch[self.config.image[0][0]]
        n, device, have = len(some), some.device, {}
        for m in (IMAGE, SEQUENCE):
            given = batch.get(f"has_{m}", torch.ones(n, dtype=torch.bool, device=device))
            have[m] = given & (m in self.config.modalities)
        if not (have[IMAGE] | have[SEQUENCE]).all():
            raise ValueError("a sample has neither image nor sequence; remove it before prediction")
        row = torch.arange(n, device=device)
        if self.training and self.config.withheld:
            again = row[(torch.rand(n, device=device) < self.config.withheld) & have[IMAGE] & have[SEQUENCE]]
            kept = torch.rand(len(again), device=device) < 0.5
            row = torch.cat([row, again])
            have = {IMAGE: torch.cat([have[IMAGE], kept]), SEQUENCE: torch.cat([have[SEQUENCE], ~kept])}
        return row, have

    def _wide(self, values: dict[str, Tensor], have: dict[str, Tensor]) -> Tensor:
        sources = [(n, m) for m in (IMAGE, SEQUENCE) for n, _, _ in getattr(self.config, m) if n in self.config.wide]
        return torch.cat([values[n].flatten(1) * have[m][:, None] for n, m in sources], -1)


class TokenInformation(nn.Module):
    """One scalar a token, its empirical distribution, the copulas of all pairs, and the tokens' importance.

    A token's scalar is the direction from which a small probe best tells the class. Relevance of token i is
    the probe's gain over the class prior, H(y) - CE_i, a lower bound on I(s_i; y); its redundancy is
    the mean of max_j I(s_i; s_j) over the tokens of the other modality and of the pointwise information of this
    sample with that j. Importance is T softmax((relevance - redundancy) / temperature). All are in nats.

    In training the empirical distributions come from the batch and a memory of recent samples; leaving
    training mode writes them into quantile tables, so that a prediction never depends on its batch.
    """

    BASIS = 4     # cosines of the rank behind the probe
    SMOOTH = 0.02  # step of the running means

    def __init__(self, image: int, sequence: int, config: Config):
        super().__init__()
        self.config, self.counts, n = config, (image, sequence), image + sequence
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.direction = nn.Parameter(torch.randn(n, config.width) / config.width ** 0.5)
        self.probe = nn.Parameter(torch.zeros(n, self.BASIS, config.classes))
        self.prior = nn.Parameter(torch.zeros(config.classes))
        self.table = QuantileTable(n)
        self.register_buffer("memory", torch.zeros(max(config.memory, 0), n))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("theta", torch.ones(image, sequence))
        self.register_buffer("rotated", torch.zeros(image, sequence, dtype=torch.long))
        self.register_buffer("relevance", torch.zeros(n))

    def forward(self, image: Tensor, sequence: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Tokens (B, Ti, d) and (B, To, d), presence (B, T) -> importance, information, pointwise, probe.

        pointwise and probe are zero for samples that lack a modality.
        """
        rows = present.all(1).nonzero()[:, 0]                                   # (B',) complete samples
        whole = lambda x: x.new_zeros(len(present), *x.shape[1:]).index_copy(0, rows, x)
        tokens = self.norm(torch.cat([image, sequence], 1)[rows])               # (B', T, d)
        scalars = (tokens * self.direction.detach()).sum(-1)                    # (B', T): the encoder's gradient
        probed = (tokens.detach() * self.direction).sum(-1)                     # (B', T): the probe's gradient
        ranks, probe_ranks = self._ranks(scalars, probed)                       # (B', T) in (0, 1)
        u, v = ranks.split(self.counts, 1)
        if self.training:
            self._observe(scalars.detach())
        pointwise = pairwise_logpdf(u, v, self.theta, self.rotated)             # (B', Ti, To)
        information = gumbel_mi(self.theta)                                     # (Ti, To)
        k = torch.arange(1, self.BASIS + 1, device=tokens.device)
        basis = torch.cos(torch.pi * k * probe_ranks[..., None])                # (B', T, BASIS)
        probe = torch.einsum("btf,tfk->btk", basis, self.probe) + self.prior    # (B', T, K)
        redundancy = whole(self._redundancy(information, pointwise))            # (B, T)
        importance = normalised((self.relevance - redundancy) / self.config.temperature, present)
        return dict(importance=importance, information=information, pointwise=whole(pointwise), probe=whole(probe))

    def judge(self, probe: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the probes (B, T, K), nats; in passing, the running relevance of each token."""
        each = F.cross_entropy(probe.flatten(0, 1), labels.repeat_interleave(probe.shape[1]), reduction="none")
        losses = each.view(probe.shape[:2]).mean(0)                             # (T,)
        share = torch.bincount(labels, minlength=probe.shape[-1]) / len(labels)
        gain = (torch.special.entr(share).sum() - losses.detach()).clamp_min(0)
        self.relevance.lerp_(gain, max(self.SMOOTH, 1 / float(self.steps.clamp_min(1))))
        return losses.mean()

    def train(self, mode: bool = True) -> "TokenInformation":
        """Leaving training mode stores the empirical distributions as quantile tables."""
        if self.training and not mode and self.filled > 1:
            self.table.fit(self.memory[: self.filled])
        return super().train(mode)

    def _ranks(self, scalars: Tensor, probed: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            ranks = self.table(scalars) if len(scalars) else scalars
            return ranks, ranks
        reference = torch.cat([scalars.detach(), self.memory[: self.filled]])
        return soft_ecdf(scalars, reference), soft_ecdf(probed, reference)

    @torch.no_grad()
    def _observe(self, scalars: Tensor) -> None:
        """Remember the complete samples of this batch (B', T); every few steps fit the copulas anew."""
        recent = torch.cat([scalars, self.memory[: self.filled]])
        if self.config.memory:
            kept = recent[: self.config.memory]
            self.memory[: len(kept)] = kept
            self.filled.fill_(len(kept))
        elif len(recent) > 1:
            self.table.fit(recent)
        if self.steps % self.config.refit == 0 and len(recent) >= 16:
            ranks = recent.argsort(0).argsort(0).add(1.0) / (len(recent) + 1)
            u, v = ranks.to(scalars.dtype).split(self.counts, 1)
            theta, rotated = pairwise_theta(u, v, rotations=self.config.rotation)
            self.theta.copy_(theta)
            self.rotated.copy_(rotated)
        self.steps += 1

    def _redundancy(self, information: Tensor, pointwise: Tensor) -> Tensor:
        """(B, T) nats: how much each token repeats its nearest counterpart, in general and in this sample."""
        local = pointwise.clamp(-2, 2)
        parts = []
        for axis in (1, 0):
            general, nearest = information.max(axis)                           # (Tm,)
            at = nearest.unsqueeze(axis).expand(len(local), *nearest.unsqueeze(axis).shape)
            own = local.gather(axis + 1, at).squeeze(axis + 1)                 # (B, Tm)
            parts.append(0.5 * (general + own))
        return torch.cat(parts, 1)


def normalised(score: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores (B, T) over the tokens that are present, times T: weights of mean 1, without gradient."""
    return score.masked_fill(~present, -torch.inf).softmax(1).detach() * score.shape[1]


def criterion(model: SACMF, similarity: float = 0.1, information: float = 0.1, consistency: float = 0.1,
              margin: float = 0.3):
    """The loss Cls + similarity * Sim + information * MI + consistency * Con, and the probes' own loss.

    Sim is the hard-negative hinge on the shared parts. MI is the mean over token pairs of the positive part of
    the batch mean of log c(u, v) at the fitted copulas, which is a lower bound on mutual information; since the
    likelihood is stationary in theta, its gradient through u and v is that of the fitted bound. Con is the mean
    of 1 - cos(f', f): f' the fused vector without one modality, f that of the same sample as given, held fixed.
    """

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        row, n = outputs["row"], len(batch["labels"])
        labels = batch["labels"][row]
        terms = dict(classification=F.cross_entropy(outputs["logits"], labels))
        both = outputs["complete"]
        if similarity and both.any():
            terms["similarity"] = hard_negative_hinge(
                outputs["shared_image"][both], outputs["shared_sequence"][both], labels[both], margin)
        if information and "pointwise" in outputs and both.any():
            terms["information"] = outputs["pointwise"][both].mean(0).clamp_min(0).mean()
        if consistency and len(row) > n:
            fused = outputs["fused"]
            terms["consistency"] = 1 - F.cosine_similarity(fused[n:], fused.detach()[row[n:]]).mean()
        if "probe" in outputs:
            terms["probe"] = model.copula.judge(outputs["probe"][:n], labels[:n])
        weights = dict(similarity=similarity, information=information, consistency=consistency)
        terms["loss"] = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        return terms

    return loss


def published_importance(image: Tensor, sequence: Tensor, theta: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """The published importances: shares of the sum of C log C over all token pairs of one sample.

    The token scalars are channel means, their ranks are taken over the tokens of one sample, C is the Gumbel
    distribution function at a fixed theta. Image tokens (B, Ti, d), sequence tokens (B, To, d) ->
    importances (B, Ti) and (B, To), each of mean 1/Ti and 1/To, and the map C log C (B, Ti, To).
    The released code multiplies the sequence importance along the wrong axis; it is transposed here.
    """
    rank = lambda x: x.mean(-1).argsort(-1).argsort(-1).to(x.dtype).add(1.0) / (x.shape[1] + 1)
    u, v = rank(image)[:, :, None], rank(sequence)[:, None, :]
    c = torch.exp(-((-u.log()) ** theta + (-v.log()) ** theta) ** (1 / theta))
    information = c * c.log()                                                           # (B, Ti, To), below zero
    total = information.sum((1, 2))[:, None] + 1e-6
    return information.sum(2) / total, information.sum(1) / total, information


class PublishedSACMF(nn.Module):
    """The published network with its arithmetic, repaired only where it cannot run.

    The batch holds "pooled" (B, 2, 2048), backbone vectors of frames A and B; "grey" (B, 3), mean, standard
    deviation and maximum of frame A; "difference" (B, 1), mean absolute difference to the previous file of the
    list; "flat" (B, L), temperatures then radiation values. Repairs: the sequence importance is transposed;
    the joined image vector is cut into halves whatever its width. Missing values of "flat" must be filled before.
    """

    def __init__(self, classes: int, length: int = 32, pooled: int = 2048):
        super().__init__()
        self.lift = nn.Linear(length, 2048)
        self.image = nn.Linear((2 * pooled + 4) // 2, 256)
        self.sequence = nn.Linear(1024, 256)
        layer = nn.TransformerEncoderLayer(256, 8, 512, activation="relu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False)
        self.cross = nn.MultiheadAttention(256, 1, batch_first=True)
        self.head = nn.Linear(256, classes)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        a = torch.cat([batch["pooled"][:, 0], batch["grey"]], -1)
        b = torch.cat([batch["pooled"][:, 1], batch["difference"]], -1)
        image = self.image(torch.cat([a, b], -1).unflatten(-1, (2, -1)))                # (B, 2, 256)
        halves = F.relu(self.lift(batch["flat"])).unflatten(-1, (2, -1))                # (B, 2, 1024)
        sequence = self.encoder(self.sequence(halves))                                  # (B, 2, 256)
        cross, attention = self.cross(image, sequence, sequence)
        share_image, share_sequence, information = published_importance(image, sequence)
        weigh = lambda share, x: share.softmax(1)[..., None] * x
        final = 0.3 * cross + 0.7 * (weigh(share_image, image) + weigh(share_sequence, sequence))
        fused = final.mean(1)                                                           # (B, 256)
        return dict(logits=self.head(fused), fused=fused, image=image.mean(1), sequence=sequence.mean(1),
                    share_image=share_image, share_sequence=share_sequence, information=information,
                    attention=attention[:, None])


def published_criterion(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy + 0.01 Sim + 0.01 MI, MI the mean of both importances: a constant without gradient."""
    classification = F.cross_entropy(outputs["logits"], batch["labels"])
    similarity = hard_negative_hinge(outputs["image"], outputs["sequence"])
    information = outputs["share_image"].mean() + outputs["share_sequence"].mean()
    return dict(classification=classification, similarity=similarity, information=information,
                loss=classification + 0.01 * similarity + 0.01 * information)

