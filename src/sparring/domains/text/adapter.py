"""Pretrained models as ours: tokenizers and sequence classifiers of the `transformers` library (the extra `hf`).

Both are handed in as they were loaded; nothing is imported, downloaded or copied here. Ids are the tokenizer's plus
one, because 0 is padding here and whatever is 0 there is a word. What a model wants around a text ([CLS], [SEP]) the
classifier adds itself, so that no threat model can touch it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sparring.domains.text.embedded import Lookup, embed, parts
from sparring.domains.text.tokens import PAD, padded

SHIFT = 1
"""Added to a pretrained tokenizer's ids."""


class AdapterError(ValueError):
    """A model or tokenizer that cannot be adapted, or two that do not belong together."""


@dataclass(frozen=True, eq=False)
class PretrainedTokenizer:
    """A fast tokenizer of `transformers`, without what it puts around a text.

    Args:
        held: a `PreTrainedTokenizerFast`, as `AutoTokenizer.from_pretrained` gives it.

    Raises:
        AdapterError: for a slow one, which cannot say which characters a token is of.
    """

    held: Any
    pad: ClassVar[int] = PAD

    def __post_init__(self) -> None:
        if not getattr(self.held, "is_fast", False):
            raise AdapterError(f"The 'held' parameter must be a fast tokenizer. Got {type(self.held).__name__}.")

    @property
    def vocab_size(self) -> int:
        return len(self.held) + SHIFT

    @property
    def unk(self) -> int:
        """What stands for an empty text: the unknown token, else the end of a text, else the first token."""
        known = (self.held.unk_token_id, self.held.eos_token_id, 0)
        return next(int(k) for k in known if k is not None) + SHIFT

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def encode(self, strings: Sequence[str], length: int) -> Tensor:
        return padded([[k + SHIFT for k in ids[:length]] or [self.unk] for ids in self._ids(strings)], length)

    def count(self, strings: Sequence[str]) -> Tensor:
        return torch.tensor([max(1, len(ids)) for ids in self._ids(strings)], dtype=torch.long)

    def spans(self, string: str) -> list[tuple[int, int]]:
        found = self.held(string, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [tuple(span) for span in found] or [(0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.held.decode([k - SHIFT for k in map(int, ids) if k != PAD]))

    def to_bytes(self) -> bytes:
        """What it does, as JSON, to tell two from each other; `tokens.from_bytes` does not read it."""
        backend = json.loads(self.held.backend_tokenizer.to_str())
        return json.dumps({"format": 1, "kind": "pretrained", "backend": backend}, ensure_ascii=False).encode()

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens, ids of the model's own, that stand before and behind every text."""
        whole, word = self.held("a")["input_ids"], self.held("a", add_special_tokens=False)["input_ids"]
        at = next((i for i in range(len(whole)) if whole[i : i + len(word)] == word), None)
        if at is None:
            raise AdapterError(
                "The tokenizer must put special tokens before and behind a text, and change nothing in it."
            )
        return list(whole[:at]), list(whole[at + len(word) :])

    def _ids(self, strings: Sequence[str]) -> list[list[int]]:
        if not strings:
            return []
        found = self.held(list(strings), add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return cast("list[list[int]]", found["input_ids"])


class Table:
    """A model's embeddings `[V + 1, D]`, padding's row of zeros before them; always the model's present weights."""

    def __init__(self, embedding: nn.Module) -> None:
        self._held = embedding

    @property
    def weight(self) -> Tensor:
        return nn.functional.pad(cast(Tensor, self._held.weight), (0, 0, SHIFT, 0))

    @property
    def embedding_dim(self) -> int:
        return int(cast(Tensor, self._held.weight).shape[1])

    def __call__(self, ids: Tensor) -> Tensor:
        found: Tensor = self._held((ids - SHIFT).clamp(min=0))
        return found * (ids != PAD)[..., None]


class PretrainedClassifier(nn.Module):
    """A sequence classifier of `transformers` as a `TextModel`: ids or embedded texts to `[B, K]` float32 logits.

    On construction it is tried on three texts: where padding would change what the model says (decoders, which read
    their answer off the last position), texts of one length are run together, without padding, in every forward pass.

    Args:
        model: as `AutoModelForSequenceClassification.from_pretrained` gives it, or any module that takes
            `inputs_embeds` and `attention_mask`, has `get_input_embeddings()`, and answers with `.logits`.
        tokenizer: the model's.

    Raises:
        AdapterError: where the tokenizer's vocabulary is not the model's, or the model takes no embedded texts; later,
            for a text longer than its configuration allows.
    """

    def __init__(self, model: nn.Module, tokenizer: PretrainedTokenizer) -> None:
        super().__init__()
        check_sizes(model, tokenizer.vocab_size - SHIFT)
        self.model = model
        before, behind = tokenizer.around()
        self.register_buffer("before", torch.tensor(before, dtype=torch.long), persistent=False)
        self.register_buffer("behind", torch.tensor(behind, dtype=torch.long), persistent=False)
        self.before: Tensor
        self.behind: Tensor
        self._bucketed = False
        self._bucketed = not self._padding_is_unseen(tokenizer.vocab_size)

    @property
    def embedding(self) -> Lookup:
        return Table(self.model.get_input_embeddings())  # type: ignore[operator]

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        values, real = parts(self.embedding, x)
        counts = real.sum(1).long()
        if not self._bucketed:
            return self._run(values, counts)
        logits: Tensor | None = None
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero().squeeze(1)
            some = self._run(values[rows, :count], counts[rows])
            logits = some.new_empty(len(x), some.shape[1]) if logits is None else logits
            logits = logits.index_copy(0, rows, some)
        assert logits is not None, "a batch has at least one text"
        return logits

    def _run(self, values: Tensor, counts: Tensor) -> Tensor:
        """The logits of texts `[B, L, D]` with so many tokens each `[B]`, padding behind."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        before, behind = (embedding(ids).expand(len(values), -1, -1) for ids in (self.before, self.behind))
        room = values.new_zeros(len(values), behind.shape[1], values.shape[2])
        whole = torch.cat([before.to(values.dtype), values, room], 1)
        limit = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if isinstance(limit, int) and whole.shape[1] > limit:
            around = whole.shape[1] - values.shape[1]
            raise AdapterError(f"Texts must have at most {limit - around} tokens. Got {values.shape[1]}.")
        start = self.before.shape[0] + counts[:, None]
        place = start + torch.arange(behind.shape[1], device=values.device)
        whole = whole.scatter(1, place[..., None].expand_as(behind), behind.to(values.dtype))
        seen = torch.arange(whole.shape[1], device=values.device) < start + behind.shape[1]
        weight = cast(Tensor, embedding.weight)
        answer = self.model(inputs_embeds=whole.to(weight.dtype), attention_mask=seen.long())
        logits: Tensor = answer.logits.float()
        return logits

    @torch.no_grad()
    def _padding_is_unseen(self, vocab_size: int) -> bool:
        training = self.model.training
        device = cast(Tensor, self.model.get_input_embeddings().weight).device  # type: ignore[operator]
        ids = torch.arange(SHIFT, SHIFT + 15, device=device).remainder(vocab_size - SHIFT).reshape(3, 5) + SHIFT
        ids[1, 2:], ids[2, 4:] = PAD, PAD
        try:
            self.model.eval()
            together = self(ids)
            alone = torch.cat([self(row[row != PAD][None]) for row in ids])
        except Exception as error:  # whatever a foreign model raises
            raise AdapterError(
                "The 'model' parameter must take inputs_embeds and attention_mask and answer with logits [B, K]. "
                f"{type(self.model).__name__} raised {type(error).__name__}: {error}"
            ) from error
        finally:
            self.model.train(training)
        return bool(((together - alone).abs() <= 1e-3 * (1 + alone.abs())).all())


def check_sizes(model: nn.Module, tokens: int) -> None:
    """Raises AdapterError unless the model embeds as many ids as there are tokens; more where its table was filled up
    to a multiple of 32, as is done for speed."""
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    if rows < tokens or (rows > tokens and rows % 32):
        raise AdapterError(
            f"The tokenizer must be the model's. It has {tokens} tokens, and {type(model).__name__} embeds {rows}."
        )
