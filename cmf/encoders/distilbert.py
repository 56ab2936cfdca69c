"""DistilBERT as a frozen encoder of texts (Sanh et al. 2019, arXiv:1910.01108; transformers' DistilBertModel).

Axes: n texts, L tokens, D channels.
"""

import torch

from cmf.encoders.frozen import Encoded, Frozen


class DistilBERT(Frozen):
    """Token states of texts. Arguments: see `Frozen`.

    The weights carry the head of the masked language model, so that texts can be scored with it.
    """

    MODEL, CONFIG, ACTIVATION = "DistilBertForMaskedLM", "DistilBertConfig", "gelu"
    HUB, SMALL = "distilbert-base-uncased", "distilbert_small.safetensors"
    OPTIONAL = ("vocab_",)  # the head
    LONGEST = 128  # tokens of a text

    @torch.no_grad()
    def texts(self, texts, progress=None) -> Encoded:
        """Token states of texts and their mean.

        Args:
            texts: list of strings; beyond 128 tokens (or the model's longest text) they are cut, with a warning.
            progress: function(iterable, label) that shows progress; default a bar after 3 seconds.

        Returns:
            tokens (n, L, D), zero where there is padding; pooled (n, D): mean over the ordinary tokens, of the
            special ones for an empty text.

        Raises:
            ValueError: no texts, or something else than strings.
        """
        ids, mask, special = self._tokenize(texts, min(self.LONGEST, self.model.config.max_position_embeddings))
        tokens = []
        for rows in self._batches(torch.arange(len(ids)), "DistilBERT", progress):
            with self._cast():
                out = self.model.distilbert(input_ids=ids[rows].to(self.device),
                                            attention_mask=mask[rows].long().to(self.device))
            tokens.append(out.last_hidden_state.float().cpu())
        tokens = torch.cat(tokens) * mask[:, :, None]  # (n, L, D)
        share = (mask & ~special).float()
        share = torch.where(share.any(1, keepdim=True), share, mask.float())[:, :, None]  # (n, L, 1)
        pooled = (tokens * share).sum(1) / share.sum(1)  # (n, D)
        return Encoded(tokens, mask, special, pooled, ids)
