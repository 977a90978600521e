"""Models of texts: ids and embedded texts give the same logits, padding gives none, and no row is NaN."""

import pytest
import torch
from texts import SENTENCES, TOKENIZER, model_of

from sparring.domains.text.embedded import embed, mean_norm
from sparring.domains.text.models import SPECS, BagOfWords, Convolution, ModelError, Transformer, build

IDS = TOKENIZER.encode(SENTENCES, 16)

each = pytest.mark.parametrize("spec", SPECS)


@each
def test_ids_and_their_embedded_text_give_the_same_logits(spec):
    model = model_of(spec)
    embedded = model.embed(IDS)
    assert embedded.shape == (*IDS.shape, 97)
    assert torch.equal(model(IDS), model(embedded))
    assert torch.equal(embedded[..., -1] == 1, IDS != 0)
    assert not embedded[IDS == 0].any()


@each
def test_padding_changes_no_logit(spec):
    model = model_of(spec)
    longer = torch.nn.functional.pad(IDS, (0, 16 - IDS.shape[1]))
    together = model(IDS)
    assert together.isfinite().all()
    assert together.std() > 0.1
    torch.testing.assert_close(model(longer), together, rtol=1e-5, atol=1e-5)
    for row, logits in zip(IDS, together, strict=True):
        alone = row[: int((row != 0).sum())]
        torch.testing.assert_close(model(alone[None])[0], logits, rtol=1e-5, atol=1e-5)


@each
def test_what_stands_at_padding_is_not_read(spec):
    model = model_of(spec)
    embedded = model.embed(IDS)
    noisy = embedded.clone()
    noisy[..., :-1] += 5 * torch.randn(embedded[..., :-1].shape) * (1 - embedded[..., -1:])
    assert torch.equal(model(noisy), model(embedded))
    embedded.requires_grad_()
    (gradient,) = torch.autograd.grad(model(embedded).square().sum(), embedded)
    assert not gradient[IDS == 0].any()
    assert not gradient[..., -1].any()
    assert gradient[..., :-1][IDS != 0].abs().sum() > 0


@each
def test_a_row_of_padding_and_an_empty_text_get_logits(spec):
    model = model_of(spec)
    assert model(torch.zeros(2, 5, dtype=torch.long)).isfinite().all()
    ids = TOKENIZER.encode([""], 16)
    assert model(ids).isfinite().all()
    model.train()
    model(torch.zeros(1, 5, dtype=torch.long)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@each
def test_a_model_is_a_function_of_the_seed_and_is_small(spec):
    first, second, other = model_of(spec), model_of(spec), model_of(spec, 1)
    assert torch.equal(first(IDS), second(IDS))
    assert not torch.equal(first(IDS), other(IDS))
    big = build(spec, 7000)
    assert sum(p.numel() for p in big.parameters()) < 1_000_000


def test_the_bag_of_words_is_the_mean_by_hand_and_knows_no_order():
    model = model_of("bow")
    weight = model.embedding.weight
    for row, logits in zip(IDS, model(IDS), strict=True):
        real = row[row != 0]
        torch.testing.assert_close(model.layers(weight[real].mean(0)), logits)
        torch.testing.assert_close(model(real.flip(0)[None])[0], logits)
    order = model_of("transformer")
    assert (order(IDS[:1]) - order(IDS[:1].flip(1))).abs().max() > 1e-3


def test_attention_is_the_textbook_s():
    """One block against softmax(q k^T / sqrt d) v written out, over real tokens only."""
    model = model_of("transformer")
    block = model.blocks[0]
    h, row = torch.randn(1, 5, 96), torch.tensor([True, True, True, False, False])
    n = block.norm_attention(h[0])
    q, k, v = block.queries_keys_values(n).split(96, dim=-1)
    heads = []
    for s in range(0, 96, 24):
        scores = q[:, s : s + 24] @ k[:3, s : s + 24].T / 24**0.5
        heads.append(scores.softmax(-1) @ v[:3, s : s + 24])
    wanted = h[0] + block.mixed(torch.cat(heads, -1))
    wanted = wanted + block.perceptron(block.norm_perceptron(wanted))
    torch.testing.assert_close(block(h, row[None, None, None])[0], wanted, rtol=1e-5, atol=1e-5)


def test_mean_norm_leaves_padding_out():
    embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[9.0, 9.0], [3.0, 4.0], [0.0, 1.0]]))
    model = BagOfWords(3, width=2)
    model.embedding = embedding
    assert mean_norm(model) == 3.0
    assert not embed(embedding, torch.tensor([[0]])).any()
    assert 0.8 < mean_norm(build("bow", 1000)) < 1.2


def test_bad_sizes_and_shapes_are_named():
    with pytest.raises(ModelError, match="Did you mean 'transformer'"):
        build("transfromer", 10)
    with pytest.raises(ModelError, match="multiple of 'heads'"):
        Transformer(10, width=10, heads=4)
    with pytest.raises(ModelError, match="'kernel' parameter must be odd"):
        Convolution(10, kernel=4)
    with pytest.raises(ModelError, match="'vocab_size'"):
        BagOfWords(0)
    with pytest.raises(ValueError, match=r"at most 16 tokens\. Got 17"):
        model_of("transformer")(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[B, L, 97\]"):
        model_of("bow")(torch.zeros(1, 4, 96))
    with pytest.raises(ValueError, match=r"\[B, L\]"):
        model_of("bow")(torch.ones(3, dtype=torch.long))
