"""Classifiers of texts, trained from scratch: `[B, L]` int64 ids, or the embedded text of them, to `[B, K]` logits.

Ids and their embedded text give the same logits, and padding changes none. A row of nothing but padding gets logits
like any other.
"""

import difflib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.domains.text.embedded import embed, parts
from sparring.domains.text.tokens import PAD

SPECS = ("transformer", "bow", "cnn")
"""The classifiers that `build` knows."""


class ModelError(ValueError):
    """A classifier that does not exist or cannot be built."""


class Transformer(nn.Module):
    """An encoder with learnt positions, pre-norm blocks and the mean over real tokens. 0.91 M parameters by default on
    7,000 words.

    Args:
        vocab_size: V.
        classes: K.
        length: tokens of a text, at most.
        width: D of embeddings and blocks, a multiple of `heads`.
        layers: blocks.
        heads: of attention.
        dropout: share of what each half of a block adds, and of the embedding, that is dropped in training.
    """

    def __init__(
        self,
        vocab_size: int,
        classes: int = 2,
        length: int = 48,
        *,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check(vocab_size=vocab_size, classes=classes, length=length, width=width, layers=layers, heads=heads)
        if width % heads:
            raise ModelError(f"The 'width' parameter must be a multiple of 'heads', {heads}. Got {width!r} instead.")
        self.embedding = table(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = head(width, classes)

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        values, real = parts(self.embedding, x)
        if values.shape[1] > len(self.positions):
            raise ValueError(f"Texts must have at most {len(self.positions)} tokens. Got {values.shape[1]}.")
        h = self.dropout(values + self.positions[: values.shape[1]])
        seen = (real > 0)[:, None, None, :]
        for block in self.blocks:
            h = block(h, seen)
        logits: Tensor = self.head(mean(self.norm(h), real))
        return logits


class Block(nn.Module):
    """Attention, then a perceptron of four times the width, each on normalised inputs and added to them."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """h `[B, L, D]`; seen, which tokens are attended to, bool `[B, 1, 1, L]`."""
        batch, length, width = h.shape
        each = self.queries_keys_values(self.norm_attention(h)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = each.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        h = h + self.dropout(self.mixed(mixed.transpose(1, 2).reshape(batch, length, width)))
        out: Tensor = h + self.dropout(self.perceptron(self.norm_perceptron(h)))
        return out


class BagOfWords(nn.Module):
    """The mean of the embeddings, then a perceptron: word order says nothing.

    Args:
        vocab_size: V.
        classes: K.
        width: D of embeddings.
        hidden: units of the hidden layer.
        dropout: share of the mean's channels that is dropped in training.
    """

    def __init__(
        self, vocab_size: int, classes: int = 2, *, width: int = 96, hidden: int = 96, dropout: float = 0.3
    ) -> None:
        super().__init__()
        _check(vocab_size=vocab_size, classes=classes, width=width, hidden=hidden)
        self.embedding = table(vocab_size, width)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), head(hidden, classes))

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(mean(*parts(self.embedding, x)))
        return logits


class Convolution(nn.Module):
    """One convolution over the embeddings, ReLU, the maximum over real tokens, and a linear layer: Kim, "Convolutional
    neural networks for sentence classification", 2014, with kernels of one size.

    Args:
        vocab_size: V.
        classes: K.
        width: D of embeddings.
        channels: of the convolution.
        kernel: tokens that it reads at once, odd.
        dropout: share of the maxima that is dropped in training.
    """

    def __init__(
        self,
        vocab_size: int,
        classes: int = 2,
        *,
        width: int = 96,
        channels: int = 96,
        kernel: int = 3,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        _check(vocab_size=vocab_size, classes=classes, width=width, channels=channels, kernel=kernel)
        if kernel % 2 == 0:
            raise ModelError(f"The 'kernel' parameter must be odd. Got {kernel!r} instead.")
        self.embedding = table(vocab_size, width)
        self.convolution = nn.Conv1d(width, channels, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)
        self.head = head(channels, classes)

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        values, real = parts(self.embedding, x)
        h = F.relu(self.convolution(values.transpose(1, 2))) * real[:, None]  # no channel of a real token is below 0
        logits: Tensor = self.head(self.dropout(h.amax(2)))
        return logits


def build(spec: str, vocab_size: int, classes: int = 2, length: int = 48) -> nn.Module:
    """The classifier of this name (`SPECS`), initialised from torch's global generator.

    Args:
        spec: transformer, bow or cnn.
        vocab_size: of the tokenizer.
        classes: K.
        length: tokens of a text, at most; only the transformer is bound to it.

    Raises:
        ModelError: for another name, or a size that is none.
    """
    if spec == "transformer":
        return Transformer(vocab_size, classes, length)
    if spec == "bow":
        return BagOfWords(vocab_size, classes)
    if spec == "cnn":
        return Convolution(vocab_size, classes)
    near = difflib.get_close_matches(str(spec), SPECS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ModelError(f"The 'model' parameter must be one of {', '.join(SPECS)}. Got {spec!r} instead.{hint}")


def mean(values: Tensor, real: Tensor) -> Tensor:
    """The mean of `[B, L, D]` over real tokens `[B, L]`; zero where there is none."""
    return (values * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def table(vocab_size: int, width: int) -> nn.Embedding:
    """Embeddings of norm about one, padding's zero and left so by training."""
    embedding = nn.Embedding(vocab_size, width, padding_idx=PAD)
    with torch.no_grad():
        embedding.weight.mul_(width**-0.5)
    return embedding


def head(width: int, classes: int) -> nn.Linear:
    """Kaiming's initialisation at a tenth, for the reason that the image models give: logits that start large are
    confidently wrong under attack, and no gradient leads back."""
    linear = nn.Linear(width, classes)
    with torch.no_grad():
        nn.init.kaiming_normal_(linear.weight).mul_(0.1)
    nn.init.zeros_(linear.bias)
    return linear


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"The {name!r} parameter must be an int in the range [1, inf). Got {value!r} instead.")
