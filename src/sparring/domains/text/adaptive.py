"""Attacks on a chat model by somebody who has its weights: a suffix of tokens (GCG), and the embeddings of the data."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.gcg import gcg
from sparring.core.gradient import frozen
from sparring.core.pgd import pgd
from sparring.domains.text.ball import TokenBall
from sparring.domains.text.chat import Attacked
from sparring.domains.text.chat_file import MOST, ChatModel
from sparring.domains.text.decoder import generate
from sparring.domains.text.likelihood import log_likelihood
from sparring.domains.text.lm_gain import SuffixGain, retokenised
from sparring.domains.text.prompt import Query
from sparring.domains.text.tokens import PAD


@dataclass(frozen=True)
class Suffixed:
    """What GCG found for one prompt.

    Attributes:
        data: as it is sent, the suffix in it.
        said: what the model answers to that text.
        before, after: log-probability of what is wanted with the first suffix, and with the best one as reported.
        again: the same of the text that is sent, read anew without a cache.
    """

    data: str
    said: str
    before: float
    after: float
    again: float

    def attacked(self, attack: Attacked) -> Attacked:
        """The attack that it grew from, with this data."""
        return replace(attack, data=self.data, form="gcg")


def gcg_suffix(
    subject: ChatModel,
    instruction: str,
    data: str,
    wanted: str,
    *,
    steps: int,
    candidates: int,
    length: int,
    rng: torch.Generator,
) -> Suffixed:
    """A suffix behind data that holds an injection already, so that the model answers what is wanted.

    Args:
        subject: the model.
        instruction: the user's.
        data: with the injection, as text without delimiters.
        wanted: the answer.
        steps, candidates: of GCG.
        length: tokens of the suffix.
        rng: of GCG.
    """
    chat = subject.chat
    target = [*chat.ids(wanted), chat.end]
    front = chat.prompt(Query(instruction, data))[:-1]
    gain = SuffixGain(subject.model, front, [chat.answer], target)
    start = torch.tensor((chat.ids("x " * length) * length)[:length])
    keeps = retokenised(chat, data)
    found = gcg(
        [gain], start, steps=steps, candidates=candidates, top=64, allowed=ascii_only(subject),
        keeps=keeps, done=lambda _, ids: gain.obeyed(ids), rng=rng,
    )  # fmt: skip
    text = chat.text([*chat.ids(data), *found.ids.tolist()])
    query = Query(instruction, text)
    with torch.no_grad():
        again = float(log_likelihood(subject.model, torch.tensor(chat.wholes([query], [wanted]))))
    (said,) = subject.answers([query])
    return Suffixed(text, said, float(gain(start[None])), found.gain, again)


def ascii_only(subject: ChatModel) -> Tensor:
    """Tokens that are printable ASCII, bool `[V]`: no delimiters, no pieces of characters."""
    chat, allowed = subject.chat, subject.chat.plain()
    for k in allowed.nonzero().squeeze(1).tolist():
        said = chat.tokenizer.decode([k])
        allowed[k] = said.isascii() and said.isprintable() and "<" not in said
    return allowed


def embedded(subject: ChatModel, instruction: str, attack: Attacked, *, eps: float, steps: int = 20) -> str:
    """What the model answers where the embeddings of the data, the injection in it, may move by eps mean norms a token:
    more than any text can do, so it bounds what texts of that length can.

    Raises:
        ArithmeticError: where PGD left its ball.
    """
    chat, model = subject.chat, subject.model
    prompt = torch.tensor(chat.prompt(Query(instruction, attack.data)))[None]
    target = torch.tensor([*chat.ids(attack.wanted), chat.end])
    x = model.embed(prompt)
    moves = (torch.arange(prompt.shape[1]) > int((prompt[0] == chat.data).nonzero())) & (prompt[0] != chat.answer)
    rest = model.embed(target[None, :-1])

    def placed(z: Tensor) -> Tensor:
        return torch.where(moves[None, :, None], z, x)

    def gain(z: Tensor, /) -> Tensor:
        logits = model(torch.cat([placed(z), rest.expand(len(z), -1, -1)], 1))[:, -len(target) :]
        value: Tensor = logits.log_softmax(-1).gather(-1, target.expand(len(z), -1)[..., None]).sum((1, 2))
        return value

    ball = TokenBall(eps, float(model.tokens.weight.detach()[PAD + 1 :].norm(dim=1).mean()))
    with frozen(model):
        z = pgd(gain, x, ball, steps=steps, random_start=False)
        if not ball.contains(z, x).all():
            raise ArithmeticError("PGD left its ball.")
        (ids,) = generate(model, placed(z), chat.end, MOST)
    return chat.text(ids).strip()
