"""Does each code stand for one factor? Five measures of disentanglement, from codes and the factors they should hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine import seed as seeds
from pellucid.engine.ask import predict
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole

__all__ = ["DisentanglementMetrics"]

SCORES = ("mig", "sap", "dci", "beta-vae", "factor-vae")
FACTORS = ("ordered", "named")
TREES = 20
Matrix = np.ndarray


@dataclass(frozen=True, kw_only=True)
class DisentanglementMetrics(Method):
    """Does each output of this encoder stand for one factor of the data, and each factor for one output?

    Codes are the model's output, or its values at ``layer``, flattened, for the rows X of ``data=(X, factors)``; factors
    are whole numbers (rows, factors). ``values``, of shape (1,), is the measure named by ``score``, better the higher;
    facts hold all:

    - ``mig``: for each factor the gap between the two largest informations that single codes have about it, each divided by
      the factor's entropy; the mean, from 0 to 1. Exact for codes of at most ``bins`` different values; others are cut
      into as many equal intervals.
    - ``sap``: the gap between the two best predictions of a factor from a single code. "ordered" factors: squared linear
      correlation; "named" ones: balanced accuracy of a threshold tree with one leaf per value, chance set to 0.
    - ``dci``: disentanglement, 1 minus the entropy of each code's importance over factors, codes weighted by importance;
      ``dci_completeness``, the same of each factor over codes; ``dci_informativeness``, the share of held-out rows whose
      factor random forests tell from all codes. Importances are the forests' own.
    - ``beta-vae``: a linear classifier tells, from mean absolute differences of codes between rows that agree in one
      factor, which factor that is; its accuracy on fresh draws, chance 1 / factors.
    - ``factor-vae``: the same by the code of least variance among such rows, by majority vote.

    `parts`: ``information``, ``prediction`` and ``importance`` (codes, factors); ``mig_by_factor``, ``sap_by_factor``,
    ``disentanglement_by_code``, ``completeness_by_factor``.

    Args:
        score: which measure ``values`` is: "mig", "sap", "dci", "beta-vae" or "factor-vae".
        factors: "ordered", whose numbers are on a scale, or "named", whose numbers are names.
        bins: intervals of a code that has more different values.
        votes: draws to train, and as many to test, the two classifiers.
        batch: pairs, or rows, per draw.

    Cost: one forward per row of ``data``; ``inputs`` are only a sample of their shape.
    Known failures: codes may be rotated against the factors and yet have beta-vae and factor-vae scores of 1, as long as
    the patterns of the factors differ: read them beside ``mig`` or ``dci``. Factors that depend on each other in the data
    lower every score. Few rows raise informations, so that codes that know nothing have a ``mig`` a little above 0.
    Source: Chen et al. 2018, eq. 6 (MIG); Kumar et al. 2018, §3 (SAP); Eastwood & Williams 2018, §2 (DCI); Higgins et al.
    2017, §3 (beta-VAE); Kim & Mnih 2018, §4 (FactorVAE). Codes are scaled to unit variance for the last two, and
    rows that share a factor are drawn from the data, as there is no generator.

    Example:
        >>> import torch, pellucid as px
        >>> factors = torch.cartesian_prod(*[torch.arange(4)] * 2)
        >>> X = factors.float().repeat(8, 1)
        >>> net = torch.nn.Identity().eval()
        >>> px.explain(net, X[:1], "disentanglement-metrics", data=(X, factors.repeat(8, 1))).values.item()
        1.0
    """

    score: str = "mig"
    factors: str = "ordered"
    bins: int = 20
    votes: int = 400
    batch: int = 32

    card: ClassVar[Card] = Card(
        name="disentanglement-metrics",
        title="Disentanglement",
        question="Does each code stand for one factor of the data?",
        form="measure",
        scope="global",
        citation="chen2018isolating",
        needs=("predictions", "labels"),
        taxonomy={"000": "outlook/disentangled-representations", "002": "intrinsic/decomposability"},
        claims=("seeded",),
        trial={"votes": 20, "batch": 4},
        cost="1 forward per row of the data, and fits on its codes",
        supports=("whether single codes stand for single known factors",),
        limits=("what codes hold beside the factors that are given", "whether people would name the codes so"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        self._check()
        rows, factors = given(ask)
        ask.target  # noqa: B018 (the inputs' own answers are checked as ever)
        found = predict(subject, rows, ask.memory, ask.layer)
        codes = found.detach().reshape(len(found), -1).cpu().double().numpy()

        def generator(draw: int) -> np.random.Generator:
            return seeds.generator(ask.seed, b"disentanglement", draw)

        information = mutual_information(codes, factors, self.bins)
        prediction = predictions(codes, factors, self.factors)
        importance, informativeness = importances(codes, factors, generator)
        by_code, weight = concentration(importance)
        by_factor, _ = concentration(importance.T)
        scores = {
            "mig": gaps(information).mean(),
            "sap": gaps(prediction).mean(),
            "dci": (by_code * weight).sum(),
            "beta-vae": beta_vae(codes, factors, self.votes, self.batch, generator),
            "factor-vae": factor_vae(codes, factors, self.votes, self.batch, generator),
            "dci_completeness": by_factor.mean(),
            "dci_informativeness": informativeness.mean(),
        }
        parts = {
            "information": information,
            "prediction": prediction,
            "importance": importance,
            "mig_by_factor": gaps(information),
            "sap_by_factor": gaps(prediction),
            "disentanglement_by_code": by_code,
            "completeness_by_factor": by_factor,
        }
        facts = {name: torch.tensor([float(value)], dtype=torch.float64) for name, value in scores.items()}
        return Measure(
            values=facts[self.score].clone(),
            better="higher",
            unit=self.score,
            facts=facts,
            parts={name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in parts.items()},
        )

    def _check(self) -> None:
        for name, known in (("score", SCORES), ("factors", FACTORS)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        whole(bins=(self.bins, 2), votes=(self.votes, 1), batch=(self.batch, 2))


Draw = Callable[[int], np.random.Generator]


def given(ask: Ask) -> tuple[Inputs, Matrix]:
    """The rows of ``data`` and their factors."""
    data = ask.data
    if isinstance(data, tuple | list) and len(data) == 2:
        rows, labels = rows_like(data[0], ask.inputs).inputs, torch.as_tensor(data[1])
    else:
        held = rows_like(data, ask.inputs, labels=True)
        assert held.labels is not None
        rows, labels = held.inputs, held.labels
    if labels.shape[:1] != (rows.rows,):
        raise InputError(f"The factors in 'data' must be {rows.rows}, one per row", got=f"shape {tuple(labels.shape)}")
    return rows, checked(labels)


def checked(labels: Tensor) -> Matrix:
    """Factors (rows, factors) as numbers from 0; each with several values, and each value with several rows."""
    given = labels[:, None] if labels.dim() == 1 else labels
    if given.dim() != 2 or given.is_floating_point():
        raise InputError(
            "The factors in 'data' must be whole numbers (rows, factors)",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            hint="continuous factors cut into intervals",
        )
    found = []
    for number, column in enumerate(given.cpu().numpy().T):
        _, own, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(counts) < 2 or counts.min() < 2:
            got = f"factor {number} with {len(counts)} values, the rarest in {counts.min()} rows"
            raise InputError("Each factor in 'data' must have two values or more, each in two rows or more", got=got)
        found.append(own.reshape(-1))
    return np.stack(found, 1)


def gaps(scores: Matrix) -> Matrix:
    """For each column (codes, factors) the largest entry less the second; less 0 where there is one code alone."""
    ordered = np.sort(scores, 0)[::-1]
    return ordered[0] - (ordered[1] if len(ordered) > 1 else 0.0)


def mutual_information(codes: Matrix, factors: Matrix, bins: int) -> Matrix:
    """Each code's information about each factor, as a share of the factor's entropy, from counts: (codes, factors)."""
    found = np.zeros((codes.shape[1], factors.shape[1]))
    for j, code in enumerate(codes.T):
        cells = _cells(code, bins)
        for k, factor in enumerate(factors.T):
            joint = np.zeros((cells.max() + 1, factor.max() + 1))
            np.add.at(joint, (cells, factor), 1 / len(code))
            own, whole_ = _entropy(joint.sum(0)), _entropy(joint.ravel())
            found[j, k] = (_entropy(joint.sum(1)) + own - whole_) / own
    return found.clip(0, 1)


def _cells(code: Matrix, bins: int) -> Matrix:
    """Numbers of a code's values, or of the equal intervals that they fall into where there are too many."""
    values, own = np.unique(code, return_inverse=True)
    if len(values) <= bins:
        return own.reshape(-1)
    return np.minimum(((code - code.min()) / np.ptp(code) * bins).astype(int), bins - 1)


def _entropy(shares: Matrix) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log(kept)).sum())


def predictions(codes: Matrix, factors: Matrix, kind: str) -> Matrix:
    """How well each code alone tells each factor, 0 by chance and 1 in full: (codes, factors)."""
    if kind == "ordered":
        away = [x - x.mean(0) for x in (codes, factors.astype(float))]
        size = np.outer((away[0] ** 2).sum(0), (away[1] ** 2).sum(0))
        return np.divide((away[0].T @ away[1]) ** 2, size, out=np.zeros_like(size), where=size > 0)
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    found = np.zeros((codes.shape[1], factors.shape[1]))
    for j, code in enumerate(codes.T):
        for k, factor in enumerate(factors.T):
            tree = DecisionTreeClassifier(max_leaf_nodes=factor.max() + 1, class_weight="balanced", random_state=0)
            answers = tree.fit(code[:, None], factor).predict(code[:, None])
            chance = 1 / (factor.max() + 1)
            found[j, k] = (balanced_accuracy_score(factor, answers) - chance) / (1 - chance)
    return found.clip(0, 1)


def importances(codes: Matrix, factors: Matrix, draw: Draw) -> tuple[Matrix, Matrix]:
    """How much random forests use each code for each factor (codes, factors), and how often they are right elsewhere."""
    from sklearn.ensemble import RandomForestClassifier

    generator = draw(0)
    order = generator.permutation(len(codes))
    cut = max(1, len(codes) * 3 // 4)
    train, test = order[:cut], order[cut:]
    found, right = [], []
    for factor in factors.T:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=int(generator.integers(2**31)))
        forest.fit(codes[train], factor[train])
        found.append(forest.feature_importances_)
        right.append((forest.predict(codes[test]) == factor[test]).mean() if len(test) else np.nan)
    return np.stack(found, 1), np.array(right)


def concentration(importance: Matrix) -> tuple[Matrix, Matrix]:
    """1 minus the entropy, base its number of columns, of each row's shares; and each row's share of the whole."""
    total = importance.sum(1, keepdims=True)
    shares = np.divide(importance, total, out=np.zeros_like(importance), where=total > 0)
    columns = max(importance.shape[1], 2)  # one factor alone has nothing to be told apart from
    spread = np.array([_entropy(row) for row in shares]) / np.log(columns)
    weight = total[:, 0] / total.sum() if total.sum() > 0 else total[:, 0]
    return np.where(total[:, 0] > 0, 1 - spread, 0.0), weight


def beta_vae(codes: Matrix, factors: Matrix, votes: int, batch: int, draw: Draw) -> float:
    """The accuracy of a linear classifier on mean absolute differences of codes, which tells the factor that is shared."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaled = _scaled(codes)
    drawn = []
    for half in (1, 2):
        generator, rows, named = draw(half), [], []
        for _ in range(votes):
            factor = int(generator.integers(factors.shape[1]))
            first = generator.integers(len(codes), size=batch)
            second = [generator.choice(np.flatnonzero(factors[:, factor] == factors[i, factor])) for i in first]
            rows.append(np.abs(scaled[first] - scaled[second]).mean(0))
            named.append(factor)
        drawn.append((np.stack(rows), np.array(named)))
    (x, y), (fresh, truth) = drawn
    if len(np.unique(y)) < 2:
        return float((truth == y[0]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that part exactly keep the solver from settling
        line = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=2000)).fit(x, y)
    return float((line.predict(fresh) == truth).mean())


def factor_vae(codes: Matrix, factors: Matrix, votes: int, batch: int, draw: Draw) -> float:
    """The accuracy of a majority vote that takes the code of least variance for the factor that is shared."""
    scaled = _scaled(codes)
    counts = np.zeros((2, scaled.shape[1], factors.shape[1]))
    for half in (0, 1):
        generator = draw(3 + half)
        for _ in range(votes):
            factor = int(generator.integers(factors.shape[1]))
            value = factors[generator.integers(len(codes)), factor]
            alike = generator.choice(np.flatnonzero(factors[:, factor] == value), size=batch)
            counts[half, scaled[alike].var(0).argmin(), factor] += 1
    says = counts[0].argmax(1)
    return float(counts[1][np.arange(len(says)), says].sum() / votes)


def _scaled(codes: Matrix) -> Matrix:
    """Codes of unit variance; those that never vary are left out, unless none does."""
    spread = codes.std(0)
    kept = spread > 1e-12 * max(1e-300, np.abs(codes).max())
    return codes[:, kept] / spread[kept] if kept.any() else np.zeros_like(codes)
