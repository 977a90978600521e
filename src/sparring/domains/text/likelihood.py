"""How likely a chat model finds an answer, and whether it would give it: one forward pass, no generation."""

import torch
from torch import Tensor, nn

from sparring.core.preference import answer_log_probability
from sparring.domains.text.prompt import answers
from sparring.domains.text.tokens import PAD


def log_likelihood(model: nn.Module, ids: Tensor) -> Tensor:
    """log p(answer and its end | prompt), summed over tokens, `[B]`; 0 where there is no answer.

    Args:
        model: `sparring.domains.text.decoder.Decoder`.
        ids: prompts with their answers, int64 `[B, L]`, padded on the right.
    """
    logits, tokens, rows = _said(model, ids)
    return answer_log_probability(logits, tokens, rows, len(ids))


def says(model: nn.Module, ids: Tensor) -> Tensor:
    """Whether greedy generation gives exactly this answer, bool `[B]`: each of its tokens, and its end, is the most
    probable one after those before it."""
    logits, tokens, rows = _said(model, ids)
    wrong = torch.zeros(len(ids), device=ids.device).index_add(0, rows, (logits.argmax(-1) != tokens).float())
    return wrong == 0


def _said(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logits before each token of an answer, the tokens, and the rows that they are of."""
    ids = ids[:, : int((ids != PAD).sum(1).max())]  # a batch is as wide as its longest attack
    vocabulary: int = model.vocabulary  # type: ignore[assignment]
    at = answers(ids, vocabulary)[:, 1:]
    return model(ids[:, :-1], at), ids[:, 1:][at], at.nonzero()[:, 0]
