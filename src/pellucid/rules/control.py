"""Rules no larger than a reader can take in: hard caps, what they cost in fidelity, and summaries that lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Rules
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.inputs import as_inputs
from pellucid.engine.settings import whole_or_none
from pellucid.engine.subject import as_subject
from pellucid.rules.tree import agreement, held_out_rows
from pellucid.rules.tree_structure import Tree

__all__ = ["BUDGETS", "Budget", "Summary", "control"]

WAYS = ("prune", "refuse", "summarise")
FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a reader can take in: tests in a row, rules, and literals (bounds of columns) in all rules together.

    None is no cap. `BUDGETS` has one for each audience of `describe`, ours: six rules of three tests fit on a card.
    """

    depth: int | None = None
    rules: int | None = None
    literals: int | None = None

    def over(self, size: dict[str, int]) -> dict[str, tuple[int, int]]:
        """What of a size is over its cap: name -> (size, cap)."""
        named = {"depth": size.get("depth"), "rules": size.get("rules"), "literals": size.get("conditions")}
        caps = {name: getattr(self, name) for name in named}
        return {n: (v, caps[n]) for n, v in named.items() if v is not None and caps[n] is not None and v > caps[n]}


BUDGETS = {
    "layperson": Budget(depth=3, rules=6, literals=18),
    "engineer": Budget(depth=6, rules=32, literals=160),
}


def control(
    rules: Rules,
    model: Any,
    inputs: Any,
    budget: Budget | str = "layperson",
    *,
    excess: str = "prune",
    least: float | None = None,
    seed: int = 0,
) -> Rules:
    """The same rules within a budget, with what that costs in agreement with the network.

    ``excess`` says what becomes of a tree that is over its budget:

    - "prune": tests at the cap of ``depth`` become leaves; then, while there are too many rules or literals, the test
      whose removal loses the least fidelity per literal that goes with it. Half of ``inputs``, drawn by content, is
      pruned on, and the other half tells the fidelity, so that it is not flattered.
    - "refuse": an error that says what is over.
    - "summarise": the same tree, whose sentences are those of its upper part, each with the number of rules
      behind it; ``result.structure.behind(number)`` gives these. It predicts as before.

    What is within the budget is left as it is, with its fidelity measured anew. Facts, each (1,): ``fidelity_before`` and
    ``fidelity_lost``, on the same rows; ``literals_before``. ``source["control"]``: budget, what was done, sizes before
    and after, and for each step of pruning the literals left and the fidelity on the rows pruned on.

    Args:
        rules: a result of the form rules; pruning and summaries need a tree.
        model: the network that the rules imitate.
        inputs: rows like those the rules were fitted to, but not the same.
        budget: a `Budget`, or the audience whose budget it is: "layperson" or "engineer".
        excess: "prune", "refuse" or "summarise".
        least: the fidelity below which the result is refused.
        seed: which half is pruned on.

    Cost: one forward per row; pruning: rows × tests for each test that goes.
    Known failure: greedy: another tree of this size may agree better; fit one with ``max_leaves`` and compare.
    Source: Zhang, Tiňo, Leonardis & Tang 2021, §VI, the size of rules as a dimension of their quality; pruning by loss
    after Breiman, Friedman, Olshen & Stone 1984, §3, per literal in place of per leaf.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
        >>> model = lambda v: torch.stack([1 - v.sum(1), v.sum(1) - 1], dim=1)
        >>> rules = px.explain(model, x[:1], "cart-c45-surrogate", data=x[:200])
        >>> px.rules.control(rules, model, x[200:], px.rules.Budget(rules=3)).size["rules"] <= 3
        True
    """
    caps = _check(rules, budget, excess, least)
    held = as_inputs(inputs, "inputs")
    subject = as_subject(model)
    columns = torch.cat([x.detach().flatten(1).cpu() for x in held.floats], 1) if held.explained else torch.zeros(0, 0)
    if held.rows < FEWEST or not held.explained:
        raise InputError(f"The 'inputs' must be at least {FEWEST} rows of numbers", got=f"{held.rows} rows")
    answers, classes = _answers(subject, predict(subject, held, DEFAULT_CPU), rules.structure.predict(columns))
    over, structure, steps = caps.over(rules.size), rules.structure, []
    test = torch.ones(held.rows, dtype=torch.bool)
    if over and excess == "refuse":
        told = ", ".join(f"{value} {name} where {cap} are allowed" for name, (value, cap) in over.items())
        raise MethodError("The rules must be within the budget", got=told, hint="excess='prune' or 'summarise'")
    if over:
        tree = _tree(structure, over)
        if excess == "prune":
            test = held_out_rows(held, 0.5, seed)
            shrunk = _Shrunk(tree, columns[~test], answers[~test], classes)
            structure, steps = shrunk.within(caps), shrunk.steps
        else:
            structure = _summary(tree, caps, columns)
    before = agreement(rules.structure.predict(columns[test]), answers[test], classes)
    fidelity = agreement(structure.predict(columns[test]), answers[test], classes)
    if least is not None and fidelity < least:
        raise MethodError(f"The fidelity within the budget must be at least {least:g}", got=f"{fidelity:.3f}")
    facts = {"fidelity_before": before, "fidelity_lost": before - fidelity}
    facts["literals_before"] = float(rules.size.get("conditions", 0))
    note = {
        "budget": {f.name: getattr(caps, f.name) for f in fields(caps)},
        "excess": excess if over else "within",
        "before": {k: int(v) for k, v in rules.size.items()},
        "after": {k: int(v) for k, v in structure.size().items()},
        "steps": steps,
    }
    kept = {k: v for k, v in rules.source.items() if not k.startswith("fidelity")}
    each = {name: torch.tensor([value], dtype=torch.float64) for name, value in facts.items()}
    return rules.replace(structure=structure, fidelity=fidelity, facts=each, source={**kept, "control": note})


def _check(rules: Any, budget: Any, excess: str, least: float | None) -> Budget:
    if not isinstance(rules, Rules):
        raise InputError("The 'rules' must be a result of the form rules", got=type(rules).__name__)
    if (isinstance(budget, str) and budget not in BUDGETS) or not isinstance(budget, str | Budget):
        raise MethodError(f"The 'budget' must be a Budget, or one of {tuple(BUDGETS)}", got=repr(budget))
    if excess not in WAYS:
        raise MethodError(f"The 'excess' must be one of {WAYS}", got=repr(excess))
    if least is not None and (isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1):
        raise MethodError("The 'least' must be a number from 0 to 1", got=repr(least))
    caps = BUDGETS[budget] if isinstance(budget, str) else budget
    whole_or_none(depth=(caps.depth, 0), rules=(caps.rules, 1), literals=(caps.literals, 0))
    return caps


def _tree(structure: Any, over: dict[str, tuple[int, int]]) -> Tree:
    if not isinstance(structure, Tree):
        told = ", ".join(f"{value} {name}" for name, (value, _) in over.items())
        raise MethodError(
            "The rules must be a tree to be made smaller",
            got=f"{type(structure).__name__} of {told}",
            hint="excess='refuse'",
        )
    return structure


def _answers(subject: Any, output: Tensor, said: Tensor) -> tuple[Tensor, int]:
    """What the network says to the rows, as classes or as numbers, whichever the rules speak of."""
    flat = output.reshape(len(output), -1).cpu()
    if not said.is_floating_point():
        return flat.argmax(1), flat.shape[1]
    if flat.shape[1] != 1:
        raise InputError("The rules tell a number, so the 'model' must give one score", got=f"{flat.shape[1]} scores")
    return flat[:, 0].double(), 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary(Tree):
    """A tree that is read from above: sentences end at the nodes in `cut`, and predictions at its leaves."""

    kind: ClassVar[str] = "summarised-tree"
    cut: Tensor

    def size(self) -> dict[str, int]:
        """The size of what is read, and `rules_behind`, how many rules predict."""
        return {**self._short().size(), "rules_behind": len(self.rules())}

    def text(self, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        """One sentence per end, with the number of rules behind it where these are several."""
        found = []
        for number, sentence in enumerate(self._short().text(features, classes)):
            many = len(self._behind(number))
            found.append(sentence if many == 1 else f"{sentence.removesuffix('.')}; {many} rules say more.")
        return found

    def behind(self, number: int, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        """The sentences of all rules that sentence `number` sums up."""
        sentences = Tree.text(self, features, classes)
        return [sentences[i] for i in self._behind(number)]

    def _short(self) -> Tree:
        plain = Tree(**{f.name: getattr(self, f.name) for f in fields(Tree)})
        return _cut(plain, {*self.cut.tolist()})

    def _behind(self, number: int) -> list[int]:
        """Which of all rules end under the end with this number, counted from the left."""
        below, cut = _below(self), {*self.cut.tolist()}
        order = [rule.leaf for rule in self.rules()]
        end_of = {leaf: next((c for c in sorted(cut) if leaf in below[c] or leaf == c), leaf) for leaf in order}
        ends = list(dict.fromkeys(end_of[leaf] for leaf in order))
        return [i for i, leaf in enumerate(order) if end_of[leaf] == ends[number]]


class _Shrunk:
    """A tree that loses tests one after the other; `steps` is what is left after each, `cut` the tests that went."""

    def __init__(self, tree: Tree, columns: Tensor, answers: Tensor, classes: int) -> None:
        self.tree, self.answers, self.classes = tree, answers, classes
        self.below, self.ends, self.own = _below(tree), tree.leaf(columns), tree._answers()
        self.steps: list[dict[str, float]] = []
        self.cut: set[int] = set()

    def within(self, caps: Budget) -> Tree:
        """The tree within the caps."""
        if caps.depth is not None:
            deep = (self.tree.feature >= 0) & (self.tree.depth >= caps.depth)
            self.cut = {*deep.nonzero()[:, 0].tolist()}
        now = self._noted()
        while caps.over(now.size()):
            self.cut.add(self._cheapest(now))
            now = self._noted()
        return now

    def _noted(self) -> Tree:
        now = _cut(self.tree, self.cut)
        self.steps.append({"literals": now.size()["conditions"], "fidelity": self._fidelity(self.cut)})
        return now

    def _cheapest(self, now: Tree) -> int:
        """The test whose removal loses the least fidelity per literal; of equals the one with most literals below."""
        literals, here, found = now.size()["conditions"], self._fidelity(self.cut), []
        for node in self._open():
            without = self.cut | {node}
            gone = literals - _cut(self.tree, without).size()["conditions"]
            found.append(((here - self._fidelity(without)) / max(gone, 1), -gone, node))
        return min(found)[2]

    def _open(self) -> list[int]:
        """The tests that are left: neither cut nor below one that is."""
        closed = self.cut.union(*(self.below[c] for c in self.cut))
        return [n for n in (self.tree.feature >= 0).nonzero()[:, 0].tolist() if n not in closed]

    def _fidelity(self, cut: set[int]) -> float:
        ends = self.ends.clone()
        for node in sorted(cut, reverse=True):  # parents come before their children, so that the highest cut stands
            ends[torch.isin(self.ends, torch.tensor([*self.below[node]]))] = node
        return agreement(self.own[ends], self.answers, self.classes)


def _summary(tree: Tree, caps: Budget, columns: Tensor) -> Summary:
    """The tree read from above: the ends whose answers the tree itself gives most often, within the caps."""
    said = tree._answers()[tree.leaf(columns)]
    shrunk = _Shrunk(tree, columns, said, 0 if tree.regression else 1)
    shrunk.within(caps)
    top = shrunk.cut.difference(*(shrunk.below[c] for c in shrunk.cut))
    own = {f.name: getattr(tree, f.name) for f in fields(Tree)}
    return Summary(**own, cut=torch.tensor(sorted(top), dtype=torch.long))


def _below(tree: Tree) -> list[set[int]]:
    """All nodes under each node."""
    found: list[set[int]] = [set() for _ in tree.feature]
    for node in range(len(tree.feature) - 1, -1, -1):
        for child in (int(tree.left[node]), int(tree.right[node])):
            if child >= 0:
                found[node] |= {child} | found[child]
    return found


def _cut(tree: Tree, cut: set[int]) -> Tree:
    """The tree with these nodes as leaves, numbered anew in the same order."""
    below = _below(tree)
    gone = {n for c in cut for n in below[c]}
    kept = [n for n in range(len(tree.feature)) if n not in gone]
    number = {old: new for new, old in enumerate(kept)}
    which = torch.tensor(kept)
    ends = torch.tensor([n in cut or int(tree.feature[n]) < 0 for n in kept])
    to = {side: [number.get(int(getattr(tree, side)[n]), -1) for n in kept] for side in ("left", "right")}
    return replace(
        tree,
        feature=tree.feature[which].where(~ends, -1),
        threshold=tree.threshold[which].where(~ends, 0.0),
        left=torch.tensor(to["left"]).where(~ends, -1),
        right=torch.tensor(to["right"]).where(~ends, -1),
        value=tree.value[which],
        rows=tree.rows[which],
        impurity=tree.impurity[which],
        slack=tree.slack[which].where(~ends, 0.0),
        depth=tree.depth[which],
    )
