"""The stack as tensors answers as the libraries that fitted it, explains itself, and comes back from its file."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
from made_flows import rows
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from torch import Tensor

from sparring.domains.flow import models
from sparring.domains.flow.artefact import KEY, ArtefactError, Layer, from_bytes, to_bytes
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.scoring import Scorer
from sparring.domains.flow.stack import BASES, Stack, exported
from sparring.domains.flow.stacking import fit_stack, folds_of, learners
from sparring.domains.flow.trees import Trees, TreesError, of_boosting, of_forest

TABLE = rows(0, 400)
MADE = Preprocessing.fit(TABLE)
X = MADE.encode(TABLE)
Y = torch.from_numpy((TABLE.columns["err"] + TABLE.columns["rej"] > 0.5).astype(np.int64))
U = MADE.encode(rows(1, 300))


@pytest.fixture(scope="module")
def fitted() -> StackingClassifier:
    fold = folds_of(Y, torch.arange(len(Y)), 3, torch.Generator().manual_seed(0))
    return fit_stack(X, Y, fold, learners(0, trees=12, epochs=4))


@pytest.fixture(scope="module")
def stack(fitted: StackingClassifier) -> Stack:
    return exported(fitted)


def theirs(model: Any, u: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LightGBM: names of features that nobody gave
        return torch.from_numpy(model.predict_proba(u.numpy())[:, 1]).double()


def at_thresholds(trees: Trees) -> Tensor:
    """Vectors that stand exactly on thresholds, and as near above and below them as float32 can tell."""
    inner = (trees.child[:, 0] != torch.arange(len(trees.child))).nonzero().squeeze(1)[:100]
    u = U[:1].repeat(3 * len(inner), 1)
    for k, node in enumerate(inner.tolist()):
        at = trees.threshold[node].float()
        beside = (at, torch.nextafter(at, at + 1), torch.nextafter(at, at - 1))
        u[3 * k : 3 * k + 3, trees.feature[node]] = torch.stack(beside)
    return u


def test_trees_answer_as_the_libraries_do_also_on_their_thresholds() -> None:
    forest = RandomForestClassifier(7, random_state=0).fit(X.numpy(), Y.numpy())
    trees = of_forest(forest)
    for u in (U, X, at_thresholds(trees)):
        torch.testing.assert_close(trees(u), theirs(forest, u), atol=1e-12, rtol=0)
    boosted = lightgbm.LGBMClassifier(n_estimators=9, verbose=-1, n_jobs=1).fit(X.numpy(), Y.numpy())
    trees = of_boosting(boosted.booster_)
    for u in (U, X, at_thresholds(trees)):
        torch.testing.assert_close(trees(u).sigmoid(), theirs(boosted, u), atol=1e-12, rtol=0)


def test_contributions_of_trees_add_up_and_name_the_columns_that_were_asked(stack: Stack) -> None:
    for trees in (stack.boosting, stack.forest):
        parts = trees.explained(U)
        torch.testing.assert_close(parts.sum(1) + trees.base, trees(U), atol=1e-10, rtol=0)
        never = torch.ones(MADE.width, dtype=torch.bool)
        never[trees.feature.unique()] = False
        assert never.any()
        assert not parts[:, never].any()
    stump = Trees(3, 1)  # column 2 <= 0.5 ? -1 : 4, of which the mean is 1
    stump.feature[0], stump.threshold[0], stump.value[:] = 2, 0.5, torch.tensor([1.0, -1.0, 4.0])
    stump.child[:] = torch.tensor([[1, 2], [1, 1], [2, 2]])
    u = torch.tensor([[0.0, 0.0, 0.5], [9.0, 9.0, 0.6]])
    assert stump(u).tolist() == [-1.0, 4.0]
    assert stump.explained(u).tolist() == [[0.0, 0.0, -2.0], [0.0, 0.0, 3.0]]


def test_the_stack_answers_as_scikit_learn_does(fitted: StackingClassifier, stack: Stack) -> None:
    torch.testing.assert_close(stack(U).softmax(1)[:, 1], theirs(fitted, U), atol=1e-6, rtol=0)
    votes = stack.votes(U)
    for k, base in enumerate(fitted.estimators_):
        torch.testing.assert_close(votes[:, k], theirs(base, U), atol=1e-6, rtol=0)
    assert tuple(name for name, _ in fitted.estimators) == BASES


def test_contributions_to_the_stack_are_the_change_of_its_odds_where_they_can_be(stack: Stack) -> None:
    """Of trees and the linear model they add up exactly; a perceptron at the reference contributes nothing."""
    reference = X[Y == 0].mean(0)
    logits, parts = stack.explained(U, reference)
    torch.testing.assert_close(logits, stack(U))
    _, here = stack.explained(reference[None], reference)
    weight = stack.meta.weight.squeeze(0)
    boosted, base = stack.boosting(reference[None]).sigmoid(), torch.tensor(stack.boosting.base).sigmoid()
    wanted = weight[0] * (boosted - base) + weight[1] * (stack.forest(reference[None]) - stack.forest.base)
    torch.testing.assert_close(here.sum(1).double(), wanted, atol=1e-5, rtol=0)
    silent = list(stack.perceptron.parameters())
    kept = [p.clone() for p in silent]
    for p in silent:
        p.zero_()
    _, parts = stack.explained(U, reference)
    votes, origin = stack.votes(U), stack.votes(reference[None])
    wanted = weight[0] * (votes[:, 0] - base) + weight[1] * (votes[:, 1] - stack.forest.base)
    wanted = wanted + weight[3] * (votes[:, 3] - origin[:, 3])
    torch.testing.assert_close(parts.sum(1).double(), wanted, atol=1e-4, rtol=0)
    for p, value in zip(silent, kept, strict=True):
        p.copy_(value)


class Spy(ClassifierMixin, BaseEstimator):
    """A base learner that remembers the label of every row that it is fitted to, by the row's first coordinate, and
    says 0.5 of every other row."""

    def fit(self, x: Any, y: Any) -> "Spy":
        self.classes_ = np.array([0, 1])
        self.known_ = {float(row[0]): float(label) for row, label in zip(x, y, strict=True)}
        return self

    def predict_proba(self, x: Any) -> Any:
        p = np.array([self.known_.get(float(row[0]), 0.5) for row in x])
        return np.stack([1 - p, p], 1)

    def predict(self, x: Any) -> Any:
        return self.predict_proba(x).argmax(1)


def test_the_meta_learner_never_hears_a_base_learner_about_its_own_fold() -> None:
    """With a base learner that knows only what it has seen, every out-of-fold answer is 0.5: the meta-learner finds
    nothing to trust. In-fold answers would be the labels themselves."""
    rng = torch.Generator().manual_seed(0)
    x = torch.stack([torch.arange(100.0), torch.rand(100, generator=rng)], 1)
    y = torch.randint(2, (100,), generator=rng)
    origin = torch.cat([torch.arange(80), torch.arange(20)])  # the last twenty are made of the first
    x[80:, 0], y[80:] = x[:20, 0], y[:20]  # and the spy would know them by it
    fold = folds_of(y, origin, 4, rng)
    model = fit_stack(x, y, fold, [("spy", Spy())])
    assert abs(float(model.final_estimator_.coef_[0, 0])) < 0.01  # in-fold answers would give 4 or so
    assert set(model.estimators_[0].known_) == set(x[:80, 0].tolist())  # at last fitted to all rows


def test_folds_hold_a_share_of_every_class_and_keep_what_is_made_of_one_row_together() -> None:
    y = torch.tensor([0] * 50 + [1] * 30 + [1] * 60)
    origin = torch.cat([torch.arange(80), torch.arange(50, 80), torch.arange(50, 80)])
    fold = torch.from_numpy(folds_of(y, origin, 5, torch.Generator().manual_seed(1)))
    assert torch.equal(fold, fold[origin])
    for label, count in ((0, 10), (1, 6)):
        assert fold[:80][y[:80] == label].bincount().tolist() == [count] * 5
    for bad in (1, 31, True):
        with pytest.raises(ValueError, match=r"'folds' parameter must be an int in the range \[2, 30\]"):
            folds_of(y, origin, bad, torch.Generator())


def content(stack: Stack) -> bytes:
    torch.manual_seed(2)
    layer = Layer("autoencoder", models.autoencoder(MADE.width), 0.03)
    given = {"threshold": 0.4, "false_positives": 0.01, "reference": X.mean(0), "preprocessing": MADE}
    return to_bytes(stack, spec="stack", layers=(layer,), **given)  # type: ignore[arg-type]


def test_a_stack_comes_back_from_its_file_and_scores_with_the_layer_that_decided(stack: Stack) -> None:
    again = from_bytes(content(stack))
    assert torch.equal(again.model(U), stack(U))
    assert again.to_bytes() == content(stack)
    scorer = Scorer(again)
    answer = scorer(U)
    probability = stack(U).softmax(1)[:, 1]
    error = (again.layers[0].model(U) - U).square().mean(1).double()
    torch.testing.assert_close(answer.score, probability)
    assert torch.equal(answer.attack, (probability > 0.4) | (error > 0.03))
    assert torch.equal(answer.layer, ((probability <= 0.4) & (error > 0.03)).long())
    assert len(answer.layer.unique()) == 2
    parts = stack.explained(U, X.mean(0))[1]
    by_column = torch.cat([parts[:, : len(MADE.numeric)], *(parts[:, b].sum(1, True) for b in MADE.blocks.values())], 1)
    own = answer.layer == 0
    torch.testing.assert_close(answer.contributions[own], by_column.gather(1, answer.columns)[own])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["classifier.forest.child"][0].fill_(-1), "children of a node must be itself or behind it"),
        (lambda t: t["classifier.forest.child"][1].fill_(0), "children of a node must be itself or behind it"),
        (lambda t: t["classifier.boosting.child"][0].fill_(10**6), "children of a node must be itself or behind it"),
        (lambda t: t["classifier.boosting.root"].fill_(10**6), "roots nodes"),
        (lambda t: t["classifier.boosting.feature"].fill_(10**6), "features of a tree must be in the range"),
        (lambda t: t["classifier.boosting.value"].fill_(float("nan")), "finite numbers"),
        (lambda t: t.pop("classifier.forest.root"), "It lacks 'forest.root'"),
        (lambda t: t.pop("classifier.boosting.value"), "classifier.boosting.value is missing"),
        (lambda t: [t.pop(name) for name in list(t) if "perceptron" in name], "must have a perceptron"),
        (lambda t: t.update({"classifier.meta.bias": torch.zeros(1)}), "classifier.meta.bias is float32"),
    ],
)
def test_a_file_whose_trees_could_not_be_followed_is_refused(
    stack: Stack, change: Callable[[Any], Any], named: str
) -> None:
    whole = content(stack)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    held = load_tensors(whole)
    change(held)
    with pytest.raises(ArtefactError, match=named):
        from_bytes(save_tensors(held, {KEY: header["__metadata__"][KEY]}))


def test_trees_that_ask_for_a_category_are_refused() -> None:
    x = np.repeat(np.arange(4.0), 50)[:, None]
    booster = lightgbm.train(
        {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 1, "min_data_per_group": 1, "objective": "binary"},
        lightgbm.Dataset(x, label=(x[:, 0] % 2), categorical_feature=[0]),
        2,
    )
    with pytest.raises(TreesError, match=r"must ask whether a number is <= another\. Got '=='"):
        of_boosting(booster)
