"""The decoder: no position sees what comes after it, the cache and the padding change nothing, embeddings are ids."""

import pytest
import torch
from tests.text.chatting import chat, model

from sparring.core.gradient import frozen
from sparring.domains.text.decoder import Decoder, DecoderError, generate, left_padded

V = 50


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(V, 32, 2, length=40).eval()


def ids(b: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, V, (b, n), generator=torch.Generator().manual_seed(seed))


def test_no_position_depends_on_what_comes_after_it(decoder: Decoder) -> None:
    x = ids(3, 12)
    for at in (1, 5, 11):
        other = x.clone()
        other[:, at:] = ids(3, 12 - at, seed=1)
        with torch.no_grad():
            assert torch.equal(decoder(x)[:, :at], decoder(other)[:, :at])
            assert not torch.allclose(decoder(x)[:, at:], decoder(other)[:, at:])


def test_the_gradient_with_respect_to_later_embeddings_is_zero(decoder: Decoder) -> None:
    z = decoder.embed(ids(1, 8)).detach().requires_grad_(True)
    decoder(z)[0, 3].sum().backward()
    assert (z.grad[0, 4:] == 0).all()
    assert (z.grad[0, :4, :-1].norm(dim=-1) > 0).all()


def test_embeddings_give_the_logits_of_their_ids(decoder: Decoder) -> None:
    x = ids(4, 9)
    x[1, :3] = 0
    with torch.no_grad():
        assert torch.equal(decoder(x), decoder(decoder.embed(x)))
    assert decoder.embed(x)[1, :3].abs().sum() == 0


def test_the_cache_changes_nothing_however_a_text_is_cut(decoder: Decoder) -> None:
    x = ids(3, 12)
    x[2, :4] = 0
    with torch.no_grad():
        whole = decoder(x)
        for cuts in ((5, 7), (1, 1, 10), (11, 1)):
            cache, parts = None, []
            for part in x.split(cuts, 1):
                logits, cache = decoder.continued(part, cache)
                parts.append(logits)
            assert torch.allclose(torch.cat(parts, 1)[:2], whole[:2], atol=1e-5)
            assert torch.allclose(torch.cat(parts, 1)[2, 4:], whole[2, 4:], atol=1e-5)


def test_one_prefix_serves_many_continuations(decoder: Decoder) -> None:
    prefix, rest = ids(1, 6), ids(5, 4, seed=2)
    with torch.no_grad():
        _, cache = decoder.continued(prefix)
        some, _ = decoder.continued(rest, cache.rows(torch.zeros(5, dtype=torch.long)))
        assert torch.allclose(some, decoder(torch.cat([prefix.expand(5, -1), rest], 1))[:, 6:], atol=1e-5)


def test_padding_in_front_changes_nothing(decoder: Decoder) -> None:
    x = ids(1, 7)
    with torch.no_grad():
        padded = decoder(torch.cat([torch.zeros(1, 9, dtype=torch.long), x], 1))
        assert padded.isfinite().all()
        assert torch.allclose(padded[:, 9:], decoder(x), atol=1e-5)


def test_only_asked_positions_are_the_same_logits(decoder: Decoder) -> None:
    x, at = ids(3, 8), torch.zeros(3, 8, dtype=torch.bool)
    at[0, 2] = at[2, 5] = True
    with torch.no_grad():
        assert torch.equal(decoder(x, at), decoder(x)[at])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_is_the_same_with_and_without_a_cache_and_in_a_batch(temperature: float) -> None:
    prompts = chat()
    lm = model(prompts)
    texts = [prompts.ids(each) for each in ("the quick", "a crow half dead with thirst", "we are met on")]
    x = left_padded(texts)
    rngs = [torch.Generator().manual_seed(3) for _ in range(2)]
    with frozen(lm):
        kept = generate(lm, x, prompts.end, 8, temperature=temperature, rng=rngs[0])
        anew = generate(lm, x, prompts.end, 8, temperature=temperature, rng=rngs[1], cached=False)
        embedded = generate(lm, lm.embed(x), prompts.end, 8)
        alone = [generate(lm, left_padded([each]), prompts.end, 8)[0] for each in texts]
    assert kept == anew
    if temperature == 0:
        assert kept == embedded == alone
    assert all(len(each) <= 8 and prompts.end not in each for each in kept)


def test_sampling_follows_the_temperature(decoder: Decoder) -> None:
    x = ids(1, 5).expand(4000, -1)
    with torch.no_grad():
        p = (decoder(x[:1])[0, -1] / 2).softmax(-1)
    said = generate(decoder, x, V + 1, 1, temperature=2.0, rng=torch.Generator().manual_seed(0))
    seen = torch.bincount(torch.tensor(said).flatten(), minlength=V) / 4000
    assert (seen - p).abs().max() < 5 * (p * (1 - p) / 4000).sqrt().max()


def test_too_long_a_text_and_odd_heads_are_refused(decoder: Decoder) -> None:
    with pytest.raises(DecoderError, match=r"at most 40 tokens\. Got 41"):
        decoder(ids(1, 41))
    with pytest.raises(DecoderError, match="'heads' parameter"):
        Decoder(V, 30, 1, heads=4)
    with pytest.raises(DecoderError, match="'most' parameter"):
        generate(decoder, ids(1, 3), 2, 0)
