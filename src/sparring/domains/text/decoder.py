"""A small causal transformer, trained from scratch: pre-norm, rotary positions, tied embeddings, a cache of its past.

It takes ids or embedded texts. One tensor carries an embedded text, `[B, L, D + 1]`: the last channel is 1 at real
tokens and 0 at padding, as in the classifiers of this domain, so continuous attacks run on it unchanged. Positions are
relative and padding is seen by nobody, so a prompt means the same wherever its padding stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = 0
"""The id of padding."""


class DecoderError(ValueError):
    """A decoder that cannot be built, or a text that it cannot take."""


@dataclass(frozen=True)
class Cache:
    """What a decoder keeps of S tokens it has read.

    Args:
        keys, values: of each layer, `[B, H, S, D / H]`, keys turned to their positions.
        real: bool `[B, S]`, where they are no padding.
        last: `[B, D]`, the embedding of the last one.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    real: Tensor
    last: Tensor

    def rows(self, rows: Tensor) -> "Cache":
        """That of these rows, which may repeat: one prefix for many continuations."""
        return replace(
            self,
            keys=tuple(each[rows] for each in self.keys),
            values=tuple(each[rows] for each in self.values),
            real=self.real[rows],
            last=self.last[rows],
        )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_parts, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = x.shape
        parts = self.to_parts(self.before_attention(x)).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
        q, k = _turned(q, *turn), _turned(k, *turn)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(read.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.before_mlp(x)), k, v


class Decoder(nn.Module):
    """Next-token logits.

    Each position starts from its token's embedding and, through a linear map, its predecessor's: finding what followed
    a token is then one layer's work, and copying is learned within minutes on one core.

    Args:
        vocabulary: number of token ids V; id 0 is padding.
        width: of embeddings D.
        layers: of attention.
        heads: of each layer; D / heads must be even.
        length: tokens in a text at most.
    """

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 3, heads: int = 4, length: int = 256) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise DecoderError(f"The 'heads' parameter must divide the width into even parts. Got {width} by {heads}.")
        self.vocabulary, self.length = vocabulary, length
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.predecessor = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        angles = torch.outer(torch.arange(length).float(), 10000 ** -torch.arange(0, 1, 2 * heads / width))
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self.cosine: Tensor
        self.sine: Tensor
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Weights that copy from the beginning, after the mimetic initialisation of Trockman & Kolter, "Mimetic
        initialization of self-attention layers", 2023: what a layer reads it passes on as it is, half of its heads look
        for what followed the same token before, half for the same token. Training takes half as long from there."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                closing = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * len(self.blocks)) if closing else 0.02)
        width = self.predecessor.weight.shape[0]
        nn.init.normal_(self.tokens.weight, std=1 / math.sqrt(width))
        self.tokens.weight[PAD] = 0
        turn = nn.init.orthogonal_(self.predecessor.weight)
        for block in self.blocks:
            assert isinstance(block, Block)
            passing, matching = (nn.init.orthogonal_(torch.empty(width, width)) for _ in range(2))
            q, k, v = block.to_parts.weight.chunk(3)
            v += 0.7 * passing
            block.out.weight += 0.7 * passing.T
            k += 0.5 * matching
            half = block.heads // 2 * (width // block.heads)
            q[:half] += 0.5 * (matching @ turn)[:half]
            q[half:] += 0.5 * matching[half:]

    def embed(self, ids: Tensor) -> Tensor:
        """Ids int64 `[B, L]` as an embedded text `[B, L, D + 1]`."""
        return torch.cat([self.tokens(ids), (ids != PAD)[..., None].to(self.tokens.weight.dtype)], -1)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits `[B, L, V]` of the token after each position.

        Args:
            x: ids int64 `[B, L]`, or an embedded text `[B, L, D + 1]`.
            at: bool `[B, L]`; only the logits of these positions, `[M, V]` in their order.
        """
        hidden, _ = self._read(x, None)
        return self._logits(hidden if at is None else hidden[at])

    def continued(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """The same of a text that goes on where `cache` ends, and the cache of both."""
        hidden, grown = self._read(x, cache)
        return self._logits(hidden), grown

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.tokens.weight)

    def _read(self, x: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        x = x if x.is_floating_point() else self.embed(x)
        own, real = x[..., :-1], x[..., -1] > 0.5
        past = 0 if cache is None else cache.real.shape[1]
        total = past + x.shape[1]
        if total > self.length:
            raise DecoderError(f"A text must be of at most {self.length} tokens. Got {total}.")
        first = torch.zeros_like(own[:, 0]) if cache is None else cache.last
        h = own + self.predecessor(torch.cat([first[:, None], own[:, :-1]], 1))
        everything = real if cache is None else torch.cat([cache.real, real], 1)
        at, keys = torch.arange(past, total, device=x.device), torch.arange(total, device=x.device)
        # padding is seen by itself alone, so that no position looks at nothing
        seen = ((keys <= at[:, None]) & everything[:, None]) | (keys == at[:, None])
        turn = self.cosine[past:total], self.sine[past:total]
        grown: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            before = None if cache is None else (cache.keys[i], cache.values[i])
            h, k, v = block(h, turn, seen[:, None], before)
            grown.append((k, v))
        kept = Cache(tuple(k for k, _ in grown), tuple(v for _, v in grown), everything, own[:, -1])
        return self.norm(h), kept


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: pairs of channels turned by their position (Su et al., "RoFormer", 2021)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def left_padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Ids of several texts as one tensor, padding in front, so that all of them end at the same place."""
    most = max(map(len, texts))
    return torch.tensor([[PAD] * (most - len(text)) + list(text) for text in texts])


@torch.no_grad()
def generate(
    model: Decoder,
    x: Tensor,
    end: int,
    most: int,
    *,
    temperature: float = 0.0,
    rng: torch.Generator | None = None,
    cached: bool = True,
) -> list[list[int]]:
    """What the model says after each prompt, without the token that ends it.

    Args:
        model: in eval mode.
        x: prompts, ids `[B, L]` or embedded `[B, L, D + 1]`, padded on the left.
        end: id of the token that ends an answer.
        most: tokens of an answer at most.
        temperature: of sampling; 0 takes the most probable token.
        rng: of the sampling.
        cached: keep what was read; without, all of it is read again for every token, with the same result.
    """
    if most < 1:
        raise DecoderError(f"The 'most' parameter must be an int >= 1. Got {most!r} instead.")
    said = torch.full((len(x), 0), PAD, dtype=torch.long, device=x.device)
    open_ = torch.ones(len(x), dtype=torch.bool, device=x.device)
    cache: Cache | None = None
    part = x
    for _ in range(most):
        logits, grown = model.continued(part, cache)
        last = logits[:, -1]
        if temperature > 0:
            token = torch.multinomial((last / temperature).softmax(-1), 1, generator=rng).squeeze(1)
        else:
            token = last.argmax(-1)
        said = torch.cat([said, token[:, None]], 1)
        open_ &= token != end
        if not open_.any():
            break
        if cached:
            part, cache = token[:, None], grown
        else:
            whole = x if x.is_floating_point() else model.embed(x)
            part = torch.cat([whole, model.embed(said)], 1)
    return [row[: row.index(end)] if end in row else row for row in said.tolist()]
