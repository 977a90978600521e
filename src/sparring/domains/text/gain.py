"""What a discrete attack on a text classifier climbs: candidates in, one number each, in few forward passes.

Candidates are asked about as strings, tokenized again as the model would: an edit that makes two words of one, or is
cut off at the end, counts for what the model reads of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sparring.core.gradient import frozen
from sparring.core.payoff import Loss, margin
from sparring.domains.text.tokens import PAD, Tokenizer
from sparring.domains.text.words import Text

ROWS = 16
"""Texts of a batch are a multiple of it and their length one of `STEP`, filled up with padding. Kernels round sums in
an order that depends on the sizes: so a text has the same logits, on most machines to the last bit, whatever is asked
with it, and a cache changes no decision."""

STEP = 4


class TextGain:
    """The loss of a frozen classifier at texts: a `DiscreteGain` and a `SlopedGain` of `sparring.core.discrete`.

    An example is lost when its predicted class is not y. The model must not change while the gain is in use: what it
    answered is remembered.

    Args:
        model: `sparring.domains.text.embedded.TextModel`: ids or embedded texts to `[B, K]` logits. It is in eval mode
            in every pass and left as it was.
        tokenizer: what it was trained with.
        y: classes of the N examples, int64 `[N]`, on the model's device.
        loss: per example, see `sparring.core.payoff`.
        length: tokens of a text that the model reads, at most.
        chunk: texts in one forward pass, at most.
        cache: texts whose logits are remembered, the latest used ones; 0 remembers none. Values and decisions are the
            same.

    Attributes:
        queries: texts that the model was asked about for each example, int64 `[N]` on the CPU. What is remembered or
            asked twice at once is no query; a gradient is one.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        y: Tensor,
        loss: Loss = margin,
        length: int = 48,
        *,
        chunk: int = 512,
        cache: int = 65_536,
    ) -> None:
        for name, value, least in (("length", length, 1), ("chunk", chunk, 1), ("cache", cache, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"The {name!r} parameter must be an int in the range [{least}, inf). Got {value!r}.")
        self.model, self.tokenizer, self.y, self.loss, self.length = model, tokenizer, y, loss, length
        self.queries = torch.zeros(len(y), dtype=torch.long)
        self._chunk, self._limit = chunk, cache
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, z: Sequence[Text], rows: Sequence[int], /) -> Tensor:
        return self.judge(z, rows)[0]

    def judge(self, z: Sequence[Text], rows: Sequence[int], /) -> tuple[Tensor, Tensor]:
        """The value `[M]`, and whether the example is lost at it `[M]`."""
        if not len(z):
            return torch.empty(0, device=self.y.device), torch.empty(0, dtype=torch.bool, device=self.y.device)
        logits, y = self.logits(z, rows), self._labels(rows)
        return self.loss(logits, y), logits.argmax(1) != y

    def logits(self, z: Sequence[Text], rows: Sequence[int], /) -> Tensor:
        """What the model answers `[M, K]`, M at least 1."""
        strings = [str(each) for each in z]
        asked: dict[str, int] = {}
        answers: dict[str, Tensor] = {}
        for string, row in zip(strings, rows, strict=True):
            if string in self._known:
                self._known.move_to_end(string)
                answers[string] = self._known[string]
            else:
                asked.setdefault(string, row)
        self.queries += torch.bincount(torch.tensor([*asked.values()], dtype=torch.long), minlength=len(self.y))
        new = list(asked)
        with torch.no_grad(), frozen(self.model) as model:
            for chosen, ids in self._batches(new):
                for k, row in zip(chosen, model(ids)[: len(chosen)].unbind(), strict=True):
                    answers[new[k]] = row
        if self._limit:
            self._known.update((string, answers[string]) for string in new)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return torch.stack([answers[string] for string in strings])

    def slopes(self, z: Sequence[Text], rows: Sequence[int], /) -> list[Tensor]:
        """For each z the norm of the gradient at each of its words, `[words]`: over all the tokens that are, at least
        in part, of the word; 0 at words that the model does not read."""
        found = []
        for text, (_, gradient) in zip(z, self._gradients(z, rows), strict=True):
            squares = gradient.square().sum(1).tolist()
            words = [0.0] * len(text)
            spans, k = text.spans(), 0
            for (start, end), square in zip(self.tokenizer.spans(str(text)), squares, strict=False):
                while k < len(spans) and spans[k][1] <= start:
                    k += 1
                for at in range(k, len(spans)):
                    if spans[at][0] >= end:
                        break
                    words[at] += square
            found.append(torch.tensor(words).sqrt())
        return found

    def estimates(
        self, z: Sequence[Text], rows: Sequence[int], candidates: Sequence[Sequence[Text]], /
    ) -> list[Tensor]:
        """For each z the first-order estimate of how much each of its candidates would gain over it: the gradient times
        the change of the embeddings, position by position. Where a candidate has another number of tokens, what comes
        after the edit has moved, and the estimate is rough; tokens beyond those of z count nothing."""
        found = []
        for (ids, gradient), others in zip(self._gradients(z, rows), candidates, strict=True):
            if not len(others):
                found.append(torch.empty(0, device=gradient.device))
                continue
            new = self.tokenizer.encode([str(other) for other in others], self.length).to(ids.device)
            new = nn.functional.pad(new, (0, max(0, len(ids) - new.shape[1])), value=PAD)[:, : len(ids)]
            which, where = (new != ids).nonzero(as_tuple=True)
            with torch.no_grad():
                change = self._values(new[which, where]) - self._values(ids[where])
            gains = (change * gradient[where]).sum(1)
            found.append(torch.zeros(len(others), dtype=gains.dtype, device=ids.device).index_add(0, which, gains))
        return found

    def _values(self, ids: Tensor) -> Tensor:
        """The embeddings `[n, D]` of ids `[n]`."""
        embedded: Tensor = self._embed(ids[:, None])[:, 0, :-1]
        return embedded

    @property
    def _embed(self) -> Callable[[Tensor], Tensor]:
        embed: Callable[[Tensor], Tensor] = self.model.embed  # type: ignore[assignment]
        return embed

    def _gradients(self, z: Sequence[Text], rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """For each z its ids `[L]` and the gradient of the gain at their embeddings `[L, D]`, without padding."""
        strings, y = [str(each) for each in z], self._labels(rows)
        self.queries += torch.bincount(torch.tensor([*rows], dtype=torch.long), minlength=len(self.y))
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with frozen(self.model) as model:
            for chosen, ids in self._batches(strings):
                x = self._embed(ids).detach().requires_grad_()
                with torch.enable_grad():
                    value = self.loss(model(x)[: len(chosen)], y[chosen])
                    (gradient,) = torch.autograd.grad(value.sum(), x)
                for k, row, slope in zip(chosen, ids, gradient, strict=False):
                    real = row != PAD
                    found[k] = row[real], slope[real, :-1]
        return [found[k] for k in range(len(strings))]

    def _batches(self, strings: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Which strings, and their ids with rows of padding after them: texts of about one length together."""
        ids = self.tokenizer.encode(strings, self.length) if strings else torch.empty(0, 0, dtype=torch.long)
        lengths = (ids != PAD).sum(1)
        widths = (lengths + STEP - 1) // STEP * STEP
        for width in widths.unique().tolist():
            for chosen in (widths == width).nonzero().squeeze(1).split(self._chunk):
                rows = ids[chosen, : min(width, self.length)]
                rest = -len(chosen) % ROWS
                rows = nn.functional.pad(rows, (0, min(width, self.length) - rows.shape[1], 0, rest), value=PAD)
                yield chosen.tolist(), rows.to(self.y.device)

    def _labels(self, rows: Sequence[int]) -> Tensor:
        return self.y[torch.tensor([*rows], dtype=torch.long, device=self.y.device)]
