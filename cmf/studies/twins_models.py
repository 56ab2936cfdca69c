"""CLIP, BLIP and DistilBERT small enough to be trained from scratch, and what each needs in training.

Axes: B batch, K captions a picture, L tokens, H = W picture side, g patches a side, C kinds of objects, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.encoders import vocabulary
from cmf.encoders.frozen import MEAN, STD
from cmf.studies.twins_data import SIDE

PATCH, WIDTH, DEPTH = 16, 128, 5  # of the vision towers
LONGEST = 80                      # tokens of a caption
PICTURE = dict(side=SIDE, fit="squeeze")


def tokens(tokenizer, captions: list[list[str]], longest: int = LONGEST) -> Tensor:
    """Numbers (n, K, L) int16 of the captions, padded with 0; a picture with fewer than K repeats its own."""
    most = max(map(len, captions))
    rows = [c[k % len(c)] for c in captions for k in range(most)]
    ids = tokenizer(rows, add_special_tokens=True, padding=True, truncation=True, max_length=longest,
                    return_tensors="pt")["input_ids"]
    return ids.to(torch.int16).reshape(len(captions), most, -1)  # (n, K, L)


def vary(pictures: Tensor, cover: Tensor | None, smallest: float = 0.8):
    """Random crops and brightness of uint8 pictures (B, H, W, 3), as normalised floats (B, 3, H, W).

    The crop keeps at least `smallest` of each side and is stretched back; `cover` (B, C, h, w) follows it. Draws
    from torch's global generator, which the training loop seeds and restores.
    """
    b = len(pictures)
    x = pictures.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    scale = torch.empty(b, 1, 1).uniform_(smallest, 1)
    shift = (torch.rand(b, 2, 1) * 2 - 1) * (1 - scale)  # stays inside
    affine = torch.cat([torch.eye(2).expand(b, 2, 2) * scale, shift], 2).to(x.device)
    x = F.grid_sample(x, F.affine_grid(affine, x.shape, align_corners=False), align_corners=False,
                      padding_mode="border")
    if cover is not None:
        cover = cover.float() / 255
        cover = F.grid_sample(cover, F.affine_grid(affine, cover.shape, align_corners=False), align_corners=False)
    gain = torch.empty(b, 1, 1, 1).uniform_(0.8, 1.2).to(x.device)
    tint = torch.empty(b, 3, 1, 1).uniform_(0.95, 1.05).to(x.device)
    return normalised((x * gain * tint).clamp(0, 1)), cover


def normalised(x: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as the vision towers take them."""
    return (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]


def shared_targets(ids: Tensor) -> Tensor:
    """Targets (B, B) of the contrastive loss: rows sum to 1, spread over all captions of the same words.

    With in-batch negatives a caption that another picture bears word for word is no negative.
    """
    same = (ids[:, None] == ids[None]).all(-1).float()  # (B, B)
    return same / same.sum(1, keepdim=True)


def contrastive(out: dict, batch: dict) -> dict:
    """InfoNCE both ways with shared targets where there are texts, and the loss of the patch head where there is one.

    One patch in a hundred holds a thing of a kind: its loss is weighted up by 8, and those patches by 8 again.

    L = (CE(s z_v z_t', P) + CE(s z_t z_v', P)) / 2 (Radford et al. 2021, Fig. 3), P from `shared_targets`.
    """
    terms = {}
    if "text" in out:
        logits = out["scale"] * out["image"] @ out["text"].T  # (B, B)
        target = shared_targets(out["ids"])
        terms["nce"] = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    if "patches" in out:
        rare = out["patches"].new_tensor(8.0)
        patches = F.binary_cross_entropy_with_logits(out["patches"], out["inside"], pos_weight=rare)
        terms["patches"] = 8 * patches
    return dict(loss=sum(terms.values())) | terms


class Contrast(nn.Module):
    """CLIP in training: a batch of pictures, tokens (and cover) to what `contrastive` needs.

    Where the cover is known, a linear head that is thrown away afterwards tells which kinds of objects lie in each
    patch: with a few thousand pictures the vision tower learns small objects from that, not from the captions alone.
    Batches without tokens train that head and the vision tower only, with crops down to half a side.
    """

    def __init__(self, clip: nn.Module, kinds: int = 0):
        super().__init__()
        self.clip = clip
        self.head = nn.Linear(clip.config.vision_config.hidden_size, kinds) if kinds else None

    def forward(self, batch: dict) -> dict:
        x, cover = vary(batch["pictures"], batch.get("cover"), 0.8 if "tokens" in batch else 0.5)
        seen = self.clip.vision_model(pixel_values=x)
        out = {}
        if "tokens" in batch:
            ids = pick(batch["tokens"])
            read = self.clip.text_model(input_ids=ids, attention_mask=(ids != vocabulary.PAD).long())
            out = dict(image=F.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1),
                       text=F.normalize(self.clip.text_projection(read.pooler_output), dim=-1),
                       scale=self.clip.logit_scale.exp().clamp(max=100), ids=ids)
        if self.head is not None:
            states = self.clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
            g = int(states.shape[1] ** 0.5)
            inside = F.adaptive_max_pool2d(cover, g).flatten(2).mT  # (B, g*g, C)
            out |= dict(patches=self.head(states), inside=(inside > 0.3).float())
        return out


class Captioner(nn.Module):
    """BLIP in training: pictures, or what its vision tower saw in them, and tokens to the loss of the next token.

    With the column `seen` (B, 1 + g*g, D) only the decoder runs and is trained.
    """

    def __init__(self, blip: nn.Module):
        super().__init__()
        self.blip = blip

    def forward(self, batch: dict) -> dict:
        if "seen" in batch:
            seen = batch["seen"].float()
        else:
            seen = self.blip.vision_model(pixel_values=vary(batch["pictures"], None)[0]).last_hidden_state
        ids = pick(batch["tokens"])
        mask = ids != vocabulary.PAD
        out = self.blip.text_decoder(input_ids=ids, attention_mask=mask.long(), encoder_hidden_states=seen,
                                     labels=ids.masked_fill(~mask, -100))
        return dict(loss=out.loss)

    @torch.no_grad()
    def look(self, pictures: Tensor, batch: int = 128) -> Tensor:
        """What the vision tower sees in uint8 pictures (n, H, W, 3): float16 (n, 1 + g*g, D)."""
        self.eval()
        parts = [pictures[s:s + batch].permute(0, 3, 1, 2).float() / 255 for s in range(0, len(pictures), batch)]
        return torch.cat([self.blip.vision_model(pixel_values=normalised(x)).last_hidden_state.half() for x in parts])


class Masked(nn.Module):
    """DistilBERT in training: tokens to the loss of the masked ones (15 %: 80 masked, 10 random, 10 kept)."""

    def __init__(self, bert: nn.Module, share: float = 0.15):
        super().__init__()
        self.bert, self.share = bert, share

    def forward(self, batch: dict) -> dict:
        ids = batch["tokens"].long()
        ids = ids[:, :int((ids != vocabulary.PAD).sum(1).max())]
        hidden, labels = hide(ids, self.bert.config.vocab_size, self.share)
        out = self.bert(input_ids=hidden, attention_mask=(ids != vocabulary.PAD).long(), labels=labels)
        return dict(loss=out.loss)


def hide(ids: Tensor, size: int, share: float, generator=None) -> tuple[Tensor, Tensor]:
    """Tokens with a share hidden, and labels that are -100 where nothing is asked (Devlin et al. 2019, section 3.1)."""
    draw = torch.rand(ids.shape, generator=generator).to(ids.device)
    asked = (draw < share) & (ids > vocabulary.SEP)
    asked[:, 1] |= ~asked.any(1)  # at least one a text
    within = draw / share  # uniform where asked
    other = torch.randint(len(vocabulary.SPECIAL), size, ids.shape, generator=generator).to(ids.device)
    hidden = torch.where(asked & (within < 0.8), vocabulary.MASK, ids)
    hidden = torch.where(asked & (within >= 0.8) & (within < 0.9), other, hidden)
    return hidden, ids.masked_fill(~asked, -100)


def pick(ids: Tensor) -> Tensor:
    """One caption of each picture by chance: (B, K, L) to long (B, L) without columns of padding only."""
    k = torch.randint(ids.shape[1], (len(ids),))
    ids = ids[torch.arange(len(ids)), k.to(ids.device)].long()
    return ids[:, :int((ids != vocabulary.PAD).sum(1).max())]


def configurations(size: int) -> dict:
    """Configurations of the three for a vocabulary of `size` pieces."""
    import transformers as tf

    vision = dict(image_size=SIDE, patch_size=PATCH, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
                  num_hidden_layers=DEPTH, num_attention_heads=WIDTH // 32)
    text = dict(vocab_size=size, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=LONGEST, pad_token_id=vocabulary.PAD, bos_token_id=vocabulary.CLS,
                eos_token_id=vocabulary.SEP)
    return dict(
        clip=tf.CLIPConfig(vision_config=vision, text_config=text, projection_dim=128),
        blip=tf.BlipConfig(vision_config=dict(initializer_range=0.02, **vision),
                           text_config=dict(sep_token_id=vocabulary.SEP, attention_probs_dropout_prob=0.1,
                                            hidden_dropout_prob=0.1, **text)),
        distilbert=tf.DistilBertConfig(vocab_size=size, max_position_embeddings=2 * LONGEST, n_layers=4, n_heads=4,
                                       dim=128, hidden_dim=384, pad_token_id=vocabulary.PAD))


def build(name: str, size: int, seed: int = 0) -> nn.Module:
    """An untrained small encoder: "clip", "blip" or "distilbert".

    CLIP's vision tower starts with orthogonal patch filters and with sines and cosines of row and column as position
    embeddings (Vaswani et al. 2017, section 3.5, in two dimensions): a few thousand pictures are few to learn them.
    """
    import transformers as tf

    torch.manual_seed(seed)
    kinds = dict(clip=tf.CLIPModel, blip=tf.BlipForConditionalGeneration, distilbert=tf.DistilBertForMaskedLM)
    model = kinds[name](configurations(size)[name])
    if name == "clip":
        embeddings = model.vision_model.embeddings
        nn.init.orthogonal_(embeddings.patch_embedding.weight.detach().view(WIDTH, -1))
        with torch.no_grad():
            embeddings.position_embedding.weight[1:] = 0.3 * waves(SIDE // PATCH, WIDTH)
    return model


def waves(g: int, width: int) -> Tensor:
    """Sines and cosines of row and column: (g*g, width), wavelengths from 2 pi to 200 pi patches."""
    row, column = torch.meshgrid(torch.arange(g), torch.arange(g), indexing="ij")
    speed = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    parts = [f(x.flatten()[:, None] * speed) for x in (row, column) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1)


@torch.no_grad()
def inherit(blip: nn.Module, clip: nn.Module, pictures: Tensor) -> None:
    """Start BLIP's vision tower from CLIP's.

    The two differ in a layer norm after the embeddings, which CLIP has. Its shift and scale of channels are folded
    into the embeddings; its division by the spread of a token is replaced by the mean over `pictures` (n, H, W, 3).
    """
    ours, theirs = blip.vision_model, clip.vision_model
    norm, old, new = theirs.pre_layrnorm, theirs.embeddings, ours.embeddings
    x = old(normalised(pictures.permute(0, 3, 1, 2).float() / 255))  # (n, 1 + g*g, D)
    spread = (x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True).sqrt().mean((0, 2))  # (1 + g*g,)
    gain = norm.weight / spread[1:].mean()  # (D,)
    centre = lambda w: w - w.mean(0)  # over channels, which come first
    new.patch_embedding.weight.copy_(centre(old.patch_embedding.weight) * gain[:, None, None, None])
    new.patch_embedding.bias.zero_()
    position = (old.position_embedding.weight - old.position_embedding.weight.mean(-1, keepdim=True)) * gain
    position[0] = (norm(old.class_embedding + old.position_embedding.weight[0]))
    position[1:] += norm.bias
    new.class_embedding.zero_()
    new.position_embedding.copy_(position[None])
    for mine, his in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        parts = [his.self_attn.q_proj, his.self_attn.k_proj, his.self_attn.v_proj]
        mine.self_attn.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
        mine.self_attn.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
        mine.self_attn.projection.load_state_dict(his.self_attn.out_proj.state_dict())
        for part in ("mlp", "layer_norm1", "layer_norm2"):
            getattr(mine, part).load_state_dict(getattr(his, part).state_dict())
    ours.post_layernorm.load_state_dict(theirs.post_layernorm.state_dict())
