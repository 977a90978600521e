"""Texts as one tensor of embeddings: what a continuous attack moves and a text model reads instead of ids.

An embedded text is `[B, L, D + 1]`, floating: D channels of token embeddings, and a last one that is 1 at real tokens
and 0 at padding, where the others are 0 too. A model tells it from ids by the dtype.
"""

from typing import Protocol

import torch
from torch import Tensor

from sparring.domains.text.tokens import PAD


class Lookup(Protocol):
    """A table of embeddings: `nn.Embedding`, or what stands for one."""

    @property
    def weight(self) -> Tensor:
        """`[V, D]`, the row of id 0, padding, first."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    def __call__(self, ids: Tensor, /) -> Tensor: ...


class TextModel(Protocol):
    """A classifier of texts `[B, L] int64 ids -> [B, K] logits`, which also takes what its `embed` gives."""

    @property
    def embedding(self) -> Lookup:
        """What ids are looked up in."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """The embedded texts `[B, L, D + 1]` of ids `[B, L]`."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


def embed(embedding: Lookup, ids: Tensor) -> Tensor:
    """The embedded texts `[B, L, D + 1]` of ids `[B, L]`; id 0 is padding, whatever the table holds for it."""
    real = (ids != PAD)[..., None].to(embedding.weight.dtype)
    return torch.cat([embedding(ids) * real, real], -1)


def parts(embedding: Lookup, x: Tensor) -> tuple[Tensor, Tensor]:
    """The values `[B, L, D]`, zero at padding, and which tokens are real, `[B, L]` in the same dtype, of ids or of an
    embedded text.

    Raises:
        ValueError: where x has the shape of neither.
    """
    if not x.is_floating_point():
        if x.dim() != 2:
            raise ValueError(f"Ids must be [B, L]. Got {list(x.shape)}.")
        x = embed(embedding, x)
    if x.dim() != 3 or x.shape[-1] != embedding.embedding_dim + 1:
        raise ValueError(f"An embedded text must be [B, L, {embedding.embedding_dim + 1}]. Got {list(x.shape)}.")
    real = x[..., -1].detach()
    return x[..., :-1] * real[..., None], real


def mean_norm(model: TextModel) -> float:
    """The mean L2 norm of the model's token embeddings, padding's left out: the unit that radii are given in."""
    return float(model.embedding.weight.detach()[PAD + 1 :].double().norm(dim=1).mean())
