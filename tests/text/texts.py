"""Small texts, tokenizers and models for the tests, and real data where SPARRING_DATA has it."""

import os
from pathlib import Path

import pytest
import torch

from sparring.domains.text.models import build
from sparring.domains.text.tokens import WordTokenizer

DATA = os.environ.get("SPARRING_DATA", "")

needs_texts = pytest.mark.skipif(
    not (Path(DATA) / "text_sst2").is_dir(), reason="SPARRING_DATA has no folder text_sst2 with the real files"
)

SENTENCES = (
    "a fine and funny film",
    "a dull film , a bad plot",
    "the plot is fine but the film is long",
    "bad , bad , bad",
    "funny",
    "",
)
TOKENIZER = WordTokenizer.fit(SENTENCES, least=1)


def model_of(spec: str, seed: int = 0, classes: int = 3) -> torch.nn.Module:
    """A small model with logits of order one, in eval mode."""
    torch.manual_seed(seed)
    model = build(spec, TOKENIZER.vocab_size, classes, 16).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("head", "layers.3")):
                weight.mul_(30)
    return model
