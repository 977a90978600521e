"""The gain of a text classifier: it says what the model says, whatever is remembered and however it is asked."""

import pytest
import torch
from texts import SENTENCES, TOKENIZER, model_of

from sparring.core.discrete import SlopedGain, standing
from sparring.core.payoff import cross_entropy, margin
from sparring.domains.text.gain import TextGain
from sparring.domains.text.models import SPECS, Transformer
from sparring.domains.text.tokens import ByteTokenizer
from sparring.domains.text.words import Text

TEXTS = [Text.of(sentence) for sentence in SENTENCES]
BYTE = ByteTokenizer.fit(SENTENCES, most=280)


def gain_of(spec="transformer", y=None, loss=margin, **settings):
    model = model_of(spec)
    labels = model(TOKENIZER.encode(SENTENCES, 16)).argmax(1) if y is None else torch.as_tensor(y)
    return TextGain(model, TOKENIZER, labels, loss, 16, **settings)


def candidates():
    """Every text with every word replaced by every word of the vocabulary, and whose it is."""
    found = [(text.put(i, w), r) for r, text in enumerate(TEXTS) for i in range(len(text)) for w in TOKENIZER.words]
    return [text for text, _ in found], [row for _, row in found]


@pytest.mark.parametrize("spec", SPECS)
def test_values_and_decisions_are_the_model_s(spec):
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    gain = gain_of(spec, y, cross_entropy)
    logits = gain.model(TOKENIZER.encode(SENTENCES, 16))
    value, lost = gain.judge(TEXTS, range(6))
    torch.testing.assert_close(value, cross_entropy(logits, y), rtol=1e-5, atol=1e-5)
    assert torch.equal(lost, logits.argmax(1) != y)
    assert torch.equal(gain(TEXTS, range(6)), value)
    some = gain.judge([TEXTS[4], TEXTS[1]], [5, 1])[0]  # text 4 as a move against example 5
    torch.testing.assert_close(some, cross_entropy(logits[[4, 1]], y[[5, 1]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_remembered_changes_no_value_and_no_decision(spec):
    with_cache, without, small = gain_of(spec), gain_of(spec, cache=0), gain_of(spec, cache=7)
    texts, rows = candidates()
    for start in range(0, len(texts), 37):  # overlapping questions, in odd portions
        part, whose = texts[max(0, start - 20) : start + 37], rows[max(0, start - 20) : start + 37]
        answers = [gain.judge(part, whose) for gain in (with_cache, without, small)]
        for value, lost in answers[1:]:
            assert torch.equal(value, answers[0][0])
            assert torch.equal(lost, answers[0][1])
    assert with_cache.queries.sum() < small.queries.sum() < without.queries.sum()
    assert len(small._known) == 7


@pytest.mark.parametrize("chunk", [1, 3, 16, 50])
def test_the_size_of_the_portions_changes_no_answer(chunk):
    texts, rows = candidates()
    texts, rows = texts[:150], rows[:150]
    one, other = gain_of(), gain_of(chunk=chunk)
    torch.testing.assert_close(one(texts, rows), other(texts, rows), rtol=0, atol=1e-6)
    for first, second in zip(one.slopes(TEXTS, range(6)), other.slopes(TEXTS, range(6)), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    listed = [texts[k : k + 5] for k in range(0, 30, 5)]
    for first, second in zip(
        one.estimates(TEXTS, range(6), listed), other.estimates(TEXTS, range(6), listed), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_queries_are_counted_for_whom_they_are_asked():
    gain = gain_of()
    gain([TEXTS[0], TEXTS[0], TEXTS[1]], [0, 3, 1])
    assert gain.queries.tolist() == [1, 1, 0, 0, 0, 0]
    gain([TEXTS[0], TEXTS[2]], [3, 3])
    assert gain.queries.tolist() == [1, 1, 0, 1, 0, 0]
    gain.slopes([TEXTS[0]], [5])
    assert gain.queries.tolist() == [1, 1, 0, 1, 0, 1]
    gain.estimates([TEXTS[0]], [5], [[TEXTS[1], TEXTS[2]]])
    assert gain.queries.tolist() == [1, 1, 0, 1, 0, 2]
    off = gain_of(cache=0)
    off(TEXTS * 2, [*range(6), *range(6)])
    off(TEXTS, range(6))
    assert off.queries.tolist() == [2] * 6


def test_the_texts_used_last_are_remembered():
    gain = gain_of(cache=2)
    for text in (TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0]):
        gain([text], [0])
    assert gain.queries[0] == 3
    gain([TEXTS[1]], [0])
    assert gain.queries[0] == 4


def test_nothing_asked_is_nothing_answered():
    gain = gain_of()
    value, lost = gain.judge([], [])
    assert value.shape == lost.shape == (0,)
    assert lost.dtype == torch.bool
    assert gain.slopes([], []) == gain.estimates([], [], []) == []
    assert [len(each) for each in gain.estimates(TEXTS[:2], [0, 1], [[], [TEXTS[0]]])] == [0, 1]
    assert gain.slopes([TEXTS[5]], [5])[0].shape == (0,)


def linear(seed=0):
    """A bag of words whose logits are linear in the mean embedding."""
    model = model_of("bow", seed, 2)
    model.layers = torch.nn.Linear(96, 2)
    return model


def test_estimates_are_exact_on_a_linear_bag_of_words():
    gain = TextGain(linear(), TOKENIZER, torch.tensor([0, 1, 0, 1, 0, 1]), margin, 16)
    texts, rows = candidates()
    listed = [[text for text, row in zip(texts, rows, strict=True) if row == r] for r in range(6)]
    listed[5] = [TEXTS[4]]  # the empty text, one token of the unknown word, and a text of one word
    value = gain(TEXTS, range(6))
    for r, estimate in enumerate(gain.estimates(TEXTS, range(6), listed)):
        rise = gain(listed[r], [r] * len(listed[r])) - value[r]
        torch.testing.assert_close(estimate, rise, rtol=1e-4, atol=1e-5)


def test_slopes_are_the_gradient_s_norms_by_hand():
    model, y = linear(), torch.tensor([0, 1, 0, 1, 0, 1])
    gain = TextGain(model, TOKENIZER, y, margin, 16)
    for r, slopes in enumerate(gain.slopes(TEXTS, range(6))):
        w = model.layers.weight
        wanted = (w[1 - y[r]] - w[y[r]]).norm() / max(1, len(TEXTS[r]))
        torch.testing.assert_close(slopes, wanted.expand(len(TEXTS[r])).detach())


def test_the_slope_of_a_word_is_that_of_all_its_tokens():
    torch.manual_seed(0)
    model = Transformer(BYTE.vocab_size, 2, 64).eval()
    gain = TextGain(model, BYTE, torch.tensor([0]), margin, 64)
    text = Text.of("unheard - of  film 👩‍🚀")
    ids = BYTE.encode([str(text)], 64)
    x = model.embed(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(model(x), torch.tensor([0])).sum(), x)
    wanted = [0.0] * len(text)
    for (start, end), slope in zip(BYTE.spans(str(text)), gradient[0, :, :-1], strict=True):
        for k, (first, last) in enumerate(text.spans()):
            if start < last and first < end:
                wanted[k] += float(slope.square().sum())
    torch.testing.assert_close(gain.slopes([text], [0])[0], torch.tensor(wanted).sqrt(), rtol=1e-4, atol=1e-6)
    assert min(wanted) > 0


def test_what_is_cut_off_matters_nothing():
    gain = TextGain(linear(), TOKENIZER, torch.tensor([0]), margin, 3)
    long, cut = Text.of("a fine plot is bad"), Text.of("a fine plot")
    assert torch.equal(gain([long], [0]), gain([cut], [0]))
    slopes = gain.slopes([long], [0])[0]
    assert (slopes[:3] > 0).all()
    assert not slopes[3:].any()
    assert gain.estimates([long], [0], [[long.put(4, "fine"), long.put(0, "bad")]])[0].ne(0).tolist() == [False, True]


def test_an_edit_is_read_as_the_model_reads_it():
    gain = gain_of()
    apart = TEXTS[0].put(1, "f ine")  # one word of Text, two for the tokenizer
    assert torch.equal(gain([apart], [0]), gain([Text.of(str(apart))], [0]))
    assert gain.slopes([apart], [0])[0].shape == (len(apart),)


def test_the_model_is_left_as_it_was():
    gain = gain_of()
    gain.model.train()
    gain.model.head.weight.requires_grad_(False)
    first = gain(TEXTS, range(6))
    gain.slopes(TEXTS, range(6))
    assert gain.model.training
    assert all(module.training for module in gain.model.modules())
    assert [n for n, p in gain.model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert all(p.grad is None for p in gain.model.parameters())
    assert torch.equal(first, gain_of()(TEXTS, range(6)))  # dropout had no part in it


def test_it_is_what_an_attack_of_the_core_asks_for():
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    gain = gain_of(y=y)
    assert isinstance(gain, SlopedGain)
    value, stands = standing(gain, TEXTS)
    assert stands == [r for r in range(6) if value[r] <= 0]


def test_parameters_that_are_none_are_named():
    for name, value in (("length", 0), ("chunk", 0), ("cache", -1), ("chunk", True)):
        with pytest.raises(ValueError, match=f"'{name}'"):
            TextGain(model_of("bow"), TOKENIZER, torch.tensor([0]), **{name: value})
