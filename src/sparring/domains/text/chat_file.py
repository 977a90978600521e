"""A chat model as one file: weights and tokenizer. Nothing is pickled.

The file is safetensors. Its metadata has one entry, `sparring.chat`, which is JSON: `format` 1, `spec` (the decoder, as
`build` takes it), `tokenizer` (what its `to_bytes` gave, as a string).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sparring.domains.text import tokens
from sparring.domains.text.decoder import Decoder, DecoderError, generate, left_padded
from sparring.domains.text.prompt import Chat, Query

FILE = "chat.safetensors"
"""Its name in a run folder."""
KEY = "sparring.chat"
SPEC = "decoder-128x2"
MOST = 16
"""Tokens of an answer at most."""


class ChatFileError(ValueError):
    """A file that is no chat model, or whose parts do not fit together."""


@dataclass(frozen=True, eq=False)
class ChatModel:
    """A decoder with what it needs to answer a question.

    Args:
        spec: as `build` takes it.
        model: in eval mode.
        chat: its prompts.
    """

    spec: str
    model: Decoder
    chat: Chat

    def answers(self, queries: list[Query], *, most: int = MOST) -> list[str]:
        """What it says, greedily. Prompts that are too long raise DecoderError."""
        found: list[str] = []
        for i in range(0, len(queries), 256):
            prompts = left_padded([self.chat.prompt(each) for each in queries[i : i + 256]])
            found += [self.chat.text(ids).strip() for ids in generate(self.model, prompts, self.chat.end, most)]
        return found


def build(spec: str, chat: Chat, length: int = 256) -> Decoder:
    """A decoder `decoder-WIDTHxLAYERS` for these prompts. Raises DecoderError for another name."""
    found = re.fullmatch(r"decoder-(\d+)x(\d+)", spec)
    if found is None:
        raise DecoderError(f"The model must be decoder-WIDTHxLAYERS, as in {SPEC}. Got {spec!r} instead.")
    return Decoder(chat.vocab_size, int(found[1]), int(found[2]), length=length)


def to_bytes(made: ChatModel) -> bytes:
    """The file's content."""
    facts = {"format": 1, "spec": made.spec, "tokenizer": made.chat.tokenizer.to_bytes().decode()}
    state = {name: each.detach().cpu().contiguous().clone() for name, each in made.model.state_dict().items()}
    return save(state, {KEY: json.dumps(facts)})


def load(path: Path) -> ChatModel:
    """The chat model in a file. Raises ChatFileError where there is none."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
        tokenizer = tokens.from_bytes(facts["tokenizer"].encode())
        if facts["format"] != 1 or not isinstance(tokenizer, tokens.ByteTokenizer):
            raise KeyError("format")
        chat = Chat(tokenizer)
        with torch.random.fork_rng(devices=[]):
            model = build(facts["spec"], chat)
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ChatFileError(f"{path} must be a chat model, as `sparring train` writes it ({error}).") from error
    return ChatModel(facts["spec"], model.eval().requires_grad_(False), chat)
