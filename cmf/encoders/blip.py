"""BLIP as a frozen captioner (Li et al. 2022, ICML; transformers' BlipForConditionalGeneration).

Axes: n pictures, L tokens, D channels, g patches a side.
"""

import torch

from cmf.encoders.frozen import Encoded, Frozen, pixels


class BLIP(Frozen):
    """Captions and patch tokens of pictures. Arguments: see `Frozen`.

    >>> BLIP("small").captions(pictures)[0]
    'a person walks on the pavement at night.'
    """

    MODEL, CONFIG, ACTIVATION = "BlipForConditionalGeneration", "BlipConfig", "gelu"
    HUB, SMALL = "Salesforce/blip-image-captioning-base", "blip_small.safetensors"

    @torch.no_grad()
    def images(self, pictures, progress=None) -> Encoded:
        """Patch tokens of pictures.

        Args:
            pictures: uint8 (n, H, W, 3), or a list of (H, W, 3); resized as the weights expect.
            progress: function(iterable, label) that shows progress; default a bar after 3 seconds.

        Returns:
            tokens (n, 1 + g*g, D): the class token, then patches row by row; pooled (n, D): the class token.

        Raises:
            ValueError: pictures of another shape or type.
        """
        tokens = []
        for part in self._batches(pictures, "BLIP images", progress):
            with self._cast():
                out = self.model.vision_model(pixel_values=pixels(part, **self.picture).to(self.device))
            tokens.append(out.last_hidden_state.float().cpu())
        if not tokens:
            pixels(pictures, **self.picture)  # says what is wrong
        tokens = torch.cat(tokens)  # (n, 1 + g*g, D)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        special = torch.zeros_like(mask)
        special[:, 0] = True
        return Encoded(tokens, mask, special, tokens[:, 0])

    @torch.no_grad()
    def captions(self, pictures, *, beams: int = 1, longest: int = 40, progress=None) -> list[str]:
        """One caption a picture, the same alone and in a batch up to the rounding of the arithmetic.

        Args:
            pictures: as `images`.
            beams: 1 takes the likeliest next token (greedy), more search with so many beams.
            longest: new tokens at most.

        Raises:
            ValueError: pictures of another shape or type, beams or longest below 1.
        """
        if beams < 1 or longest < 1:
            raise ValueError(f"beams and longest must be at least 1, got {beams} and {longest}")
        texts = []
        for part in self._batches(pictures, "BLIP captions", progress):
            with self._cast():
                ids = self.model.generate(pixels(part, **self.picture).to(self.device), num_beams=beams,
                                          do_sample=False, max_new_tokens=longest)
            texts += self.tokenizer.batch_decode(ids.cpu(), skip_special_tokens=True)
        if not texts:
            pixels(pictures, **self.picture)  # says what is wrong
        return [" ".join(text.split()) for text in texts]

    def _agrees(self, tokenizer, text) -> bool:
        return tokenizer.sep_token_id == text.sep_token_id and tokenizer.pad_token_id == text.pad_token_id

    def _geometry(self, config) -> dict:
        return dict(side=config.vision_config.image_size, fit="squeeze")
