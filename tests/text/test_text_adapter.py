"""Pretrained models as ours, on tiny ones with random weights: the library's own answers, gradients, and refusals."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402

from sparring.core.discrete import SlopedGain  # noqa: E402
from sparring.core.gain import ClassifierGain  # noqa: E402
from sparring.core.payoff import cross_entropy  # noqa: E402
from sparring.core.pgd import pgd  # noqa: E402
from sparring.domains.text.adapter import AdapterError, PretrainedClassifier, PretrainedTokenizer  # noqa: E402
from sparring.domains.text.adapter_causal import PretrainedDecoder  # noqa: E402
from sparring.domains.text.ball import TokenBall  # noqa: E402
from sparring.domains.text.decoder import generate, left_padded  # noqa: E402
from sparring.domains.text.embedded import mean_norm  # noqa: E402
from sparring.domains.text.gain import TextGain  # noqa: E402
from sparring.domains.text.lm_gain import SuffixGain  # noqa: E402
from sparring.domains.text.words import Text  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef!?", "film", "fine", "is", "very"]
SIZE = len(WORDS)
STRINGS = ["a film", "a very fine film !", "is", "d e f a b c", ""]
SMALL = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2}
SMALL |= {"eos_token_id": 3, "type_vocab_size": 1}


def tokenizer_of(around=True, words=WORDS):
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def classifier_of(kind, **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **more})
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


ENCODERS = [
    ("Bert", {}),
    ("Roberta", {"pad_token_id": 0}),
    ("DistilBert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}),
    ("GPT2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40}),
]


def test_the_tokenizer_is_ours_with_ids_one_up():
    held = tokenizer_of()
    tokenizer = PretrainedTokenizer(held)
    ids = tokenizer.encode(["a film", "", "a strange film ? !"], 4)
    wanted = [[1 + WORDS.index(word) for word in line.split()] for line in ("a film", "[UNK]", "a [UNK] film ?")]
    assert ids.tolist() == [row + [0] * (4 - len(row)) for row in wanted]
    assert tokenizer.count(["a film", "", "a strange film ? !"]).tolist() == [2, 1, 5]
    assert tokenizer.vocab_size == SIZE + 1
    assert tokenizer.around() == ([2], [3])
    assert tokenizer.spans("a  film!") == [(0, 1), (3, 7), (7, 8)]
    assert tokenizer.spans("") == [(0, 0)]
    assert tokenizer.decode(ids[0].tolist()) == "a film"
    assert tokenizer.fingerprint == PretrainedTokenizer(tokenizer_of()).fingerprint
    assert tokenizer.fingerprint != PretrainedTokenizer(tokenizer_of(words=[*WORDS[:-1], "."])).fingerprint
    assert tokenizer.encode([], 4).shape[0] == 0
    with pytest.raises(AdapterError, match=r"a fast tokenizer\. Got int"):
        PretrainedTokenizer(3)


@pytest.mark.parametrize(("kind", "more"), ENCODERS, ids=[kind for kind, _ in ENCODERS])
def test_a_classifier_says_what_the_library_says(kind, more):
    held, model = tokenizer_of(), classifier_of(kind, **more)
    tokenizer = PretrainedTokenizer(held)
    ours = PretrainedClassifier(model, tokenizer).eval()
    ids = tokenizer.encode(STRINGS[:4], 16)
    logits = ours(ids)
    assert logits.shape == (4, 3)
    assert logits.std() > 0.01
    for string, row in zip(STRINGS, logits, strict=False):
        torch.testing.assert_close(model(**held(string, return_tensors="pt")).logits[0], row, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(ours.embed(ids)), logits)
    torch.testing.assert_close(ours(torch.nn.functional.pad(ids, (0, 5))), logits, rtol=1e-4, atol=1e-4)
    assert ours(tokenizer.encode([""], 16)).isfinite().all()


@pytest.mark.parametrize(("kind", "more"), [ENCODERS[0], ENCODERS[3]], ids=["Bert", "GPT2"])
def test_attacks_run_on_a_pretrained_classifier(kind, more):
    tokenizer = PretrainedTokenizer(tokenizer_of())
    ours = PretrainedClassifier(classifier_of(kind, **more), tokenizer).eval()
    ids = tokenizer.encode(STRINGS, 16)
    x, y = ours.embed(ids).detach(), ours(ids).argmax(1)
    ball = TokenBall(0.3, mean_norm(ours))
    gain = ClassifierGain(ours, y, cross_entropy)
    z = pgd(gain, x, ball, steps=5, rng=torch.Generator().manual_seed(0))
    assert ball.contains(z, x).all()
    assert (gain(z) > gain(x)).all()
    texts = [Text.of(string) for string in STRINGS]
    words = TextGain(ours, tokenizer, y, cross_entropy, 16)
    assert isinstance(words, SlopedGain)
    torch.testing.assert_close(words(texts, range(5)), gain(x), rtol=1e-4, atol=1e-4)
    assert [len(slopes) for slopes in words.slopes(texts, range(5))] == list(map(len, texts))
    step = 1e-2  # of a text towards another, along the straight line between their embeddings
    other = ours.embed(tokenizer.encode(["b film"], 16)).detach()
    (estimate,) = words.estimates([texts[0]], [0], [[Text.of("b film")]])
    start = ours.embed(tokenizer.encode(["a film"], 16)).detach()
    one = ClassifierGain(ours, y[:1], cross_entropy)
    risen = (one(start + step * (other - start)) - one(start - step * (other - start))) / (2 * step)
    torch.testing.assert_close(estimate, risen.detach(), rtol=2e-2, atol=1e-3)


def test_a_tokenizer_of_another_model_is_refused_with_both_sizes():
    tokenizer = PretrainedTokenizer(tokenizer_of())
    with pytest.raises(AdapterError, match=rf"It has {SIZE} tokens, and BertForSequenceClassification embeds 15"):
        PretrainedClassifier(classifier_of("Bert", vocab_size=15), tokenizer)
    with pytest.raises(AdapterError, match=f"It has {SIZE} tokens, and BertForSequenceClassification embeds 20"):
        PretrainedClassifier(classifier_of("Bert", vocab_size=20), tokenizer)
    PretrainedClassifier(classifier_of("Bert", vocab_size=32), tokenizer)  # filled up
    with pytest.raises(AdapterError, match="GPT2LMHeadModel embeds 16"):
        PretrainedDecoder(decoder_of("GPT2"), tokenizer, extra=4)


def test_a_model_that_takes_no_embedded_texts_is_refused():
    class Strange(torch.nn.Module):
        def get_input_embeddings(self):
            return torch.nn.Embedding(SIZE, 8)

        def forward(self, input_ids):
            return input_ids

    with pytest.raises(AdapterError, match="Strange raised TypeError"):
        PretrainedClassifier(Strange(), PretrainedTokenizer(tokenizer_of()))


def test_a_text_that_is_too_long_is_refused():
    ours = PretrainedClassifier(classifier_of("Bert"), PretrainedTokenizer(tokenizer_of()))
    ours(torch.full((1, 38), 5))
    with pytest.raises(AdapterError, match=r"at most 38 tokens\. Got 39"):
        ours(torch.full((1, 39), 5))


def test_the_classifier_leaves_the_model_s_mode_alone_and_trains_it():
    model = classifier_of("Bert").train()
    ours = PretrainedClassifier(model, PretrainedTokenizer(tokenizer_of()))
    assert model.training
    assert {id(p) for p in ours.parameters()} == {id(p) for p in model.parameters()}
    ours(torch.tensor([[5, 6, 0]])).sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[[4, 5]].abs().sum(1).gt(0).all()


def decoder_of(kind, **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, "n_embd": 16, "n_layer": 2, "n_head": 2, **more})
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


DECODERS = pytest.mark.parametrize("kind", ["GPT2", "Llama"])


@DECODERS
def test_a_decoder_says_what_the_library_says_with_and_without_a_cache(kind):
    held, model = tokenizer_of(around=False), decoder_of(kind)
    tokenizer = PretrainedTokenizer(held)
    ours = PretrainedDecoder(model, tokenizer, length=40)
    ids = tokenizer.encode(["a very fine film ! is"], 16)
    logits = ours(ids)
    wanted = model(input_ids=ids - 1).logits
    torch.testing.assert_close(logits[..., 1:], wanted, rtol=1e-4, atol=1e-4)
    assert (logits[..., 0] < -1e30).all()
    torch.testing.assert_close(ours(ours.embed(ids)), logits)
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[0, 2] = True
    assert torch.equal(ours(ids, at), logits[:, 2])
    _, cache = ours.continued(ids[:, :3])
    for _ in range(2):  # a cache is not used up
        rest, grown = ours.continued(ids[:, 3:], cache)
        torch.testing.assert_close(rest, logits[:, 3:], rtol=1e-4, atol=1e-4)
    assert grown.real.shape == (1, 6)
    twice, _ = ours.continued(ids[:, 3:].repeat(2, 1), cache.rows(torch.tensor([0, 0])))
    torch.testing.assert_close(twice, logits[:, 3:].repeat(2, 1, 1), rtol=1e-4, atol=1e-4)
    for pads in ((3, 0), (0, 3)):
        padded = ours(torch.nn.functional.pad(ids, pads))
        torch.testing.assert_close(padded[:, pads[0] : pads[0] + 6], logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(AdapterError, match="at most 40 tokens"):
        ours(torch.ones(1, 41, dtype=torch.long))


@DECODERS
def test_generation_is_the_library_s(kind):
    tokenizer, model = PretrainedTokenizer(tokenizer_of(around=False)), decoder_of(kind)
    ours = PretrainedDecoder(model, tokenizer, length=40)
    prompts = [[5, 6, 7], [9, 8], [11]]
    said = generate(ours, left_padded(prompts), end=SIZE + 5, most=6)
    for prompt, answer in zip(prompts, said, strict=True):
        ids = torch.tensor([prompt]) - 1
        seen = torch.ones_like(ids)
        theirs = model.generate(
            ids, attention_mask=seen, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert [k - 1 for k in answer] == theirs[0, len(prompt) :].tolist()
    assert generate(ours, left_padded(prompts), end=SIZE + 5, most=6, cached=False) == said


@DECODERS
def test_the_gain_of_a_suffix_is_the_same_with_and_without_a_cache_and_has_its_slope(kind):
    ours = PretrainedDecoder(decoder_of(kind), PretrainedTokenizer(tokenizer_of(around=False)), length=40)
    parts = ([5, 6, 7], [8], [9, 10])
    cached, again = SuffixGain(ours, *parts), SuffixGain(ours, *parts, cached=False)
    suffixes = torch.tensor([[11, 12], [13, 5], [6, 6]])
    torch.testing.assert_close(cached(suffixes), again(suffixes), rtol=1e-4, atol=1e-4)
    slope = cached.slope(suffixes[0])
    assert slope.shape == (2, SIZE + 1)
    torch.testing.assert_close(slope, again.slope(suffixes[0]), rtol=1e-3, atol=1e-3)
    whole = torch.tensor([[*parts[0], 11, 12, *parts[1], *parts[2]]])
    logits = ours(whole).log_softmax(-1)[0]
    wanted = logits[5, 9] + logits[6, 10]
    torch.testing.assert_close(cached(suffixes[:1])[0], wanted.detach(), rtol=1e-4, atol=1e-4)


def test_a_length_is_needed():
    model = decoder_of("GPT2")
    model.config = object()
    with pytest.raises(AdapterError, match="'length' parameter must be given"):
        PretrainedDecoder(model, PretrainedTokenizer(tokenizer_of(around=False)))
