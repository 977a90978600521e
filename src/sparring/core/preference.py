"""Losses of preferences: a pair of answers to one prompt, of which the first is the better. Each is per example `[B]`.

They take the log-probabilities of whole answers, under the model and under the reference that it started from, and know
neither tokens nor prompts.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """-log sigmoid(beta ((log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l)))), in [0, inf).

    Rafailov et al., "Direct preference optimization", 2023, eq. 7. log 2 where the model is the reference; its gradient
    with respect to the margin between the answers is then -beta / 2.

    Args:
        chosen, rejected: log-probabilities `[B]` of the better and of the worse answer, summed over their tokens.
        reference: the same two under the reference.
        beta: how dear it is to leave the reference, in (0, inf).
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"The 'beta' parameter must be a number in the range (0, inf). Got {beta!r} instead.")
    return F.softplus(-beta * ((chosen - reference[0]) - (rejected - reference[1])))


def answer_log_probability(logits: Tensor, tokens: Tensor, answers: Tensor, count: int) -> Tensor:
    """The log-probability of each answer, the sum over its tokens, `[count]`.

    Args:
        logits: `[M, V]`, what the model says before each token of all answers.
        tokens: the tokens, int64 `[M]`.
        answers: which answer each is of, int64 `[M]`.
        count: of answers.
    """
    each = -F.cross_entropy(logits, tokens, reduction="none")
    return torch.zeros(count, dtype=each.dtype, device=each.device).index_add(0, answers, each)
