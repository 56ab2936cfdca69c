"""CLIP as a frozen encoder of pictures and texts (Radford et al. 2021, ICML; transformers' CLIPModel).

Axes: n pictures or texts, L tokens, D channels, g patches a side.
"""

import torch
from torch.nn import functional as F

from cmf.encoders.frozen import Encoded, Frozen, pixels


class CLIP(Frozen):
    """Pictures and texts in one space, in which the cosine says how well they agree. Arguments: see `Frozen`.

    >>> clip = CLIP("small")
    >>> similarity = clip.images(pictures).pooled @ clip.texts(["a person", "a car"]).pooled.T
    """

    MODEL, CONFIG, ACTIVATION = "CLIPModel", "CLIPConfig", "quick_gelu"
    HUB, SMALL = "openai/clip-vit-base-patch32", "clip_small.safetensors"

    @torch.no_grad()
    def images(self, pictures, progress=None) -> Encoded:
        """Patch tokens and embeddings of pictures.

        Args:
            pictures: uint8 (n, H, W, 3), or a list of (H, W, 3); resized as the weights expect.
            progress: function(iterable, label) that shows progress; default a bar after 3 seconds.

        Returns:
            tokens (n, 1 + g*g, D): the class token, then patches row by row, after the last layer norm;
            pooled (n, D'): L2-normalised image embedding.

        Raises:
            ValueError: pictures of another shape or type.
        """
        tokens, pooled = [], []
        for part in self._batches(pictures, "CLIP images", progress):
            x = pixels(part, **self.picture).to(self.device)
            with self._cast():
                out = self.model.vision_model(pixel_values=x)
                tokens.append(self.model.vision_model.post_layernorm(out.last_hidden_state).float().cpu())
                pooled.append(F.normalize(self.model.visual_projection(out.pooler_output).float(), dim=-1).cpu())
        if not tokens:
            pixels(pictures, **self.picture)  # says what is wrong
        tokens = torch.cat(tokens)  # (n, 1 + g*g, D)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        special = torch.zeros_like(mask)
        special[:, 0] = True
        return Encoded(tokens, mask, special, torch.cat(pooled))

    @torch.no_grad()
    def texts(self, texts, progress=None) -> Encoded:
        """Token states and embeddings of texts.

        Args:
            texts: list of strings; beyond the model's longest text (77 tokens of the published weights) they are
                cut, with a warning.

        Returns:
            tokens (n, L, D), zero where there is padding; pooled (n, D'): L2-normalised text embedding.

        Raises:
            ValueError: no texts, or something else than strings.
        """
        ids, mask, special = self._tokenize(texts, self.model.config.text_config.max_position_embeddings)
        tokens, pooled = [], []
        for rows in self._batches(torch.arange(len(ids)), "CLIP texts", progress):
            with self._cast():
                out = self.model.text_model(input_ids=ids[rows].to(self.device),
                                            attention_mask=mask[rows].long().to(self.device))
                pooled.append(F.normalize(self.model.text_projection(out.pooler_output).float(), dim=-1).cpu())
            tokens.append(out.last_hidden_state.float().cpu())
        tokens = torch.cat(tokens) * mask[:, :, None]  # (n, L, D)
        return Encoded(tokens, mask, special, torch.cat(pooled), ids)

    def probabilities(self, pictures, prompts) -> torch.Tensor:
        """Zero-shot: share (n, number of prompts) that each prompt gets, softmax of the scaled cosines."""
        cosine = self.images(pictures).pooled @ self.texts(prompts).pooled.T
        return (cosine * self.model.logit_scale.exp().cpu()).softmax(-1)

    def _agrees(self, tokenizer, text) -> bool:
        end = tokenizer.eos_token_id
        return end == text.eos_token_id or (text.eos_token_id == 2 and end == len(tokenizer) - 1)

    def _geometry(self, config) -> dict:
        return dict(side=config.vision_config.image_size, fit="crop")
