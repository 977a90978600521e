"""Pretrained causal language models as our decoder (the extra `hf`): what `sparring.domains.text.decoder` offers."""

import copy
import inspect
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparring.domains.text.adapter import SHIFT, AdapterError, PretrainedTokenizer, Table, check_sizes
from sparring.domains.text.embedded import embed, parts


@dataclass(frozen=True)
class PretrainedCache:
    """What a pretrained decoder keeps of S tokens it has read.

    Args:
        past: the library's own cache, which grows in place: it is forked before anything is asked of it.
        real: bool `[B, S]`, where they are no padding.
    """

    past: Any
    real: Tensor

    def rows(self, rows: Tensor) -> "PretrainedCache":
        """That of these rows, which may repeat."""
        past = _forked(self.past)
        past.batch_select_indices(rows.to(self.real.device))
        return replace(self, past=past, real=self.real[rows])


class PretrainedDecoder(nn.Module):
    """Next-token logits of a causal model of `transformers`, float32, over ids that are its own plus one.

    It goes where a `sparring.domains.text.decoder.Decoder` goes: `generate`, `SuffixGain`, `log_likelihood`. Padding
    may stand on either side; positions are counted over real tokens, so it changes nothing.

    Args:
        model: as `AutoModelForCausalLM.from_pretrained` gives it.
        tokenizer: the model's.
        extra: ids beyond the tokenizer's that the model has rows for, such as the delimiters of
            `sparring.domains.text.prompt.Chat`: after `model.resize_token_embeddings(len(tokenizer) + extra)`.
        length: tokens of a text at most; by default what the model's configuration says.

    Raises:
        AdapterError: where the vocabularies do not fit together, or no length is known.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PretrainedTokenizer, *, extra: int = 0, length: int | None = None
    ) -> None:
        super().__init__()
        self.vocabulary = tokenizer.vocab_size + extra
        check_sizes(model, self.vocabulary - SHIFT)
        self.model = model
        known = length or getattr(model.config, "max_position_embeddings", None)
        if not isinstance(known, int):
            raise AdapterError("The 'length' parameter must be given for a model whose configuration has none.")
        self.length = known
        takes = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"  # the new name, and the old
        self._takes_positions = "position_ids" in takes

    @property
    def tokens(self) -> Table:
        """The embeddings, those that no id stands for included."""
        return Table(self.model.get_input_embeddings())  # type: ignore[operator]

    def embed(self, ids: Tensor) -> Tensor:
        """Ids int64 `[B, L]` as an embedded text `[B, L, D + 1]`."""
        return embed(self.tokens, ids)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits `[B, L, V]` of the token after each position.

        Args:
            x: ids int64 `[B, L]`, or an embedded text `[B, L, D + 1]`.
            at: bool `[B, L]`; only the logits of these positions, `[M, V]` in their order.
        """
        logits = self._read(x, None, keep=False)[0]
        return logits if at is None else logits[at]

    def continued(self, x: Tensor, cache: PretrainedCache | None = None) -> tuple[Tensor, PretrainedCache]:
        """The same of a text that goes on where `cache` ends, and the cache of both."""
        logits, grown = self._read(x, cache, keep=True)
        assert grown is not None
        return logits, grown

    def _read(self, x: Tensor, cache: PretrainedCache | None, *, keep: bool) -> tuple[Tensor, PretrainedCache | None]:
        values, real = parts(self.tokens, x)
        seen = real > 0 if cache is None else torch.cat([cache.real, real > 0], 1)
        if seen.shape[1] > self.length:
            raise AdapterError(f"A text must be of at most {self.length} tokens. Got {seen.shape[1]}.")
        weight = cast(Tensor, self.model.get_input_embeddings().weight)  # type: ignore[operator]
        given: dict[str, Any] = {
            "inputs_embeds": values.to(weight.dtype),
            "attention_mask": seen.long(),
            "use_cache": keep,
        }
        if self._takes_positions:
            places = (seen.cumsum(1) - 1).clamp(min=0)
            given["position_ids"] = places[:, seen.shape[1] - real.shape[1] :]
        if cache is not None:
            given[self._cache_name] = _forked(cache.past)
        answer = self.model(**given)
        grown = PretrainedCache(getattr(answer, self._cache_name), seen) if keep else None
        logits = answer.logits[..., : self.vocabulary - SHIFT].float()
        return nn.functional.pad(logits, (SHIFT, 0), value=torch.finfo(logits.dtype).min), grown


def _forked(past: Any) -> Any:
    """A cache that grows on its own from here. Its layers are copied, their tensors shared: a layer that grows puts a
    longer tensor in the place of its own. (A deep copy would refuse tensors that a gradient flows through.)"""
    forked = copy.copy(past)
    for name, value in vars(past).items():
        if isinstance(value, list):
            setattr(forked, name, [each if isinstance(each, Tensor) else copy.copy(each) for each in value])
    return forked
