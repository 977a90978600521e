"""What an adversary of a chat model climbs: the log-probability of the answer that it wants, as a function of a suffix.

The prompt up to the suffix is read once and kept (`Cache`); with `cached=False` all of it is read for every candidate,
with the same result. It satisfies `sparring.attacks.gcg.TokenGain`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.domains.text.decoder import Cache, Decoder
from sparring.domains.text.prompt import Chat, cleaned


class SuffixGain:
    """log p(target | before, suffix, after), of suffixes `[M, S]`.

    Args:
        model: in eval mode.
        before: tokens in front of the suffix, at least one.
        after: tokens between the suffix and the answer.
        target: the answer that is wanted, its end included.
        cached: read `before` once.
        chunk: suffixes in one forward pass.
    """

    def __init__(
        self,
        model: Decoder,
        before: Sequence[int],
        after: Sequence[int],
        target: Sequence[int],
        *,
        cached: bool = True,
        chunk: int = 256,
    ) -> None:
        self.model, self.cached, self.chunk = model, cached, chunk
        device = model.tokens.weight.device
        self.before, self.after, self.target = (torch.tensor(list(e), device=device) for e in (before, after, target))
        self.cache: Cache | None = None
        if cached:
            with torch.no_grad():
                self.cache = model.continued(self.before[None])[1]

    @torch.no_grad()
    def __call__(self, ids: Tensor, /) -> Tensor:
        return torch.cat([self._value(self._logits(part, None)) for part in ids.split(self.chunk)])

    def slope(self, ids: Tensor, /) -> Tensor:
        """The gradient at one suffix `[S]` with respect to its one-hot tokens, `[S, V]`."""
        weight = self.model.tokens.weight.detach()
        hot = F.one_hot(ids, len(weight)).to(weight.dtype).requires_grad_(True)
        with torch.enable_grad():
            real = torch.ones(len(ids), 1, dtype=weight.dtype, device=weight.device)
            soft = torch.cat([hot @ weight, real], 1)[None]
            (slope,) = torch.autograd.grad(self._value(self._logits(ids[None], soft)).sum(), hot)
        return slope

    @torch.no_grad()
    def obeyed(self, ids: Tensor) -> bool:
        """Whether greedy generation answers exactly the target after this suffix `[S]`."""
        return bool((self._logits(ids[None], None).argmax(-1) == self.target).all())

    def _logits(self, ids: Tensor, soft: Tensor | None) -> Tensor:
        """Before each token of the target, `[M, T, V]`; of embedded suffixes where there are some."""
        m = len(ids)
        rest = torch.cat([self.after, self.target[:-1]]).expand(m, -1)
        inner = torch.cat([ids, rest], 1) if soft is None else torch.cat([soft, self.model.embed(rest)], 1)
        if self.cache is not None:
            logits, _ = self.model.continued(inner, self.cache.rows(torch.zeros(m, dtype=torch.long)))
        else:
            front = self.before.expand(m, -1)
            whole = [front if soft is None else self.model.embed(front), inner]
            logits = self.model(torch.cat(whole, 1))
        return logits[:, -len(self.target) :]

    def _value(self, logits: Tensor) -> Tensor:
        said = logits.log_softmax(-1).gather(-1, self.target.expand(len(logits), -1)[..., None])
        return said.squeeze(-1).sum(1)


def retokenised(chat: Chat, data: str) -> Callable[[Tensor], Tensor]:
    """Which suffixes `[M, S]` of this data are still the same tokens once they are text: what could really be sent.

    Args:
        chat: the prompts.
        data: in front of the suffix, not empty.
    """
    front = chat.ids(data)

    def keeps(ids: Tensor) -> Tensor:
        rows = [front + row for row in ids.tolist()]
        texts = [chat.text(row) for row in rows]
        again = chat.many(texts)
        found = [
            a == b and text.startswith(data) and cleaned(text) == text
            for a, b, text in zip(again, rows, texts, strict=True)
        ]
        return torch.tensor(found, device=ids.device)

    return keeps
