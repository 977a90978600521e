"""A small chat model for tests: a tokenizer of bytes with few merges, and a decoder with random weights."""

import torch

from sparring.domains.text.chat_file import ChatModel
from sparring.domains.text.decoder import Decoder
from sparring.domains.text.prompt import Chat
from sparring.domains.text.tasks import KINDS
from sparring.domains.text.tokens import ByteTokenizer

SENTENCES = (
    "the quick brown fox jumps over the lazy dog today",
    "a crow half dead with thirst came upon a pitcher",
    "never in his life had he seen a river before",
    "the fire burned brightly and the soft radiance caught us",
    "we are met on a great battle field of that war",
)


def chat() -> Chat:
    asked = [said.format("") for kind in KINDS for said in kind.phrasings(False)]
    return Chat(ByteTokenizer.fit([f" {each}" for each in (*SENTENCES, *asked)], most=520, least=1))


def model(prompts: Chat, *, width: int = 32, layers: int = 2, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(prompts.vocab_size, width, layers, length=256).eval()


def subject(seed: int = 0) -> ChatModel:
    prompts = chat()
    return ChatModel("decoder-32x2", model(prompts, seed=seed).requires_grad_(False), prompts)
