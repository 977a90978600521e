"""Ensembles of decision trees as tensors: what scikit-learn and LightGBM fitted, without either, and without a pickle.

The nodes of all trees stand in one row. A node sends a vector u to `child[node, 0]` where u[feature] <= threshold and
to `child[node, 1]` else; a leaf sends it to itself. Thresholds are kept in float64, in which both libraries compare, so
every vector ends in the leaf that it ends in there.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PART = 256
"""Vectors that go down the trees at once: few enough for their nodes to stay near the processor."""


class TreesError(ValueError):
    """Tensors that are no trees."""


class Trees(nn.Module):
    """The sum of T trees: `forward` takes vectors `[B, d]` to the sum of their leaves' values, float64 `[B]`.

    Args:
        nodes: M, of all trees together.
        trees: T.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor
    root: Tensor

    def __init__(self, nodes: int, trees: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("child", torch.zeros(nodes, 2, dtype=torch.int64))
        self.register_buffer("value", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, u: Tensor) -> Tensor:
        return torch.cat([self.value[self._leaves(part)].sum(1) for part in u.split(PART)])

    @torch.no_grad()
    def explained(self, u: Tensor) -> Tensor:
        """What each coordinate contributed, float64 `[B, d]`: at every node on the way the change of the value, given
        to the coordinate that was asked about. They add up to `forward(u)` less the sum of the roots' values, exactly
        (Saabas, "Interpreting random forests", 2014)."""
        parts = torch.zeros(u.shape, dtype=torch.float64)
        at = self.root.repeat(len(u), 1)
        while True:
            below = self._below(u, at)
            if torch.equal(below, at):
                return parts
            parts.scatter_add_(1, self.feature[at], self.value[below] - self.value[at])
            at = below

    @property
    def base(self) -> float:
        """The sum of the roots' values."""
        return float(self.value[self.root].sum())

    def check(self, width: int) -> None:
        """Raises TreesError where following the nodes of a vector `[width]` could leave them or never end."""
        nodes = torch.arange(len(self.feature))[:, None]
        sound = bool(((self.child >= nodes) & (self.child < len(nodes))).all())
        rooted = bool(((self.root >= 0) & (self.root < len(nodes))).all())
        if not sound or not rooted:
            raise TreesError("The children of a node must be itself or behind it, and the roots nodes. Some are not.")
        if not bool(((self.feature >= 0) & (self.feature < width)).all()):
            raise TreesError(f"The features of a tree must be in the range [0, {width}). Some are not.")

    def _leaves(self, u: Tensor) -> Tensor:
        """The leaf of every vector in every tree, `[B, T]`."""
        b, trees = len(u), len(self.root)
        u, child = u.contiguous().view(-1), self.child.view(-1)
        at = self.root.repeat(b)
        first = (torch.arange(b) * (u.numel() // max(b, 1))).repeat_interleave(trees)
        going = torch.arange(len(at))  # those that have not arrived
        here = at
        while len(going):
            right = u[first + self.feature[here]] > self.threshold[here]
            below = child[2 * here + right]
            on = below != here
            at[going] = below
            going, here, first = going[on], below[on], first[on]
        return at.view(b, trees)

    def _below(self, u: Tensor, at: Tensor) -> Tensor:
        right = (u.gather(1, self.feature[at]) > self.threshold[at]).long()
        return self.child[at, right]


def of_forest(forest: Any) -> Trees:
    """The trees of a fitted `sklearn.ensemble.RandomForestClassifier` of two classes: their sum is its probability of
    class 1."""
    made = []
    for each in forest.estimators_:
        tree = each.tree_
        count = tree.value[:, 0, :]
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count)
        made.append((
            np.where(leaf, 0, tree.feature),
            np.where(leaf, 0.0, tree.threshold),
            np.stack([np.where(leaf, own, side) for side in (tree.children_left, tree.children_right)], 1),
            count[:, 1] / count.sum(1) / len(forest.estimators_),
        ))  # fmt: skip
    return _joined(made)


def of_boosting(booster: Any) -> Trees:
    """The trees of a fitted `lightgbm.Booster` of two classes: their sum is the logarithm of its odds of class 1."""
    return _joined([_flat(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]])


def _flat(structure: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Feature, threshold, children and value of the nodes of one tree, parents before their children."""
    nodes: list[tuple[int, float, list[int], float]] = []

    def add(node: dict[str, Any]) -> int:
        own = len(nodes)
        if "split_feature" not in node:
            nodes.append((0, 0.0, [own, own], float(node["leaf_value"])))
            return own
        if node["decision_type"] != "<=":
            raise TreesError(f"A tree must ask whether a number is <= another. Got {node['decision_type']!r} instead.")
        sides = [0, 0]
        nodes.append((node["split_feature"], float(node["threshold"]), sides, float(node["internal_value"])))
        sides[0] = add(node["left_child"])
        sides[1] = add(node["right_child"])
        return own

    add(structure)
    feature, threshold, child, value = zip(*nodes, strict=True)
    return np.array(feature), np.array(threshold), np.array(child), np.array(value)


def _joined(made: Iterable[tuple[Any, Any, Any, Any]]) -> Trees:
    parts = list(made)
    sizes = [len(feature) for feature, _, _, _ in parts]
    starts = np.cumsum([0, *sizes])[:-1]
    trees = Trees(sum(sizes), len(parts))
    trees.feature.copy_(torch.from_numpy(np.concatenate([part[0] for part in parts])))
    trees.threshold.copy_(torch.from_numpy(np.concatenate([part[1] for part in parts])))
    child = [part[2] + start for part, start in zip(parts, starts, strict=True)]
    trees.child.copy_(torch.from_numpy(np.concatenate(child)))
    trees.value.copy_(torch.from_numpy(np.concatenate([part[3] for part in parts])))
    trees.root.copy_(torch.from_numpy(starts))
    return trees
