"""The same forest read by the MAPLE that shap carries, which is its authors' program."""

import warnings

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import Maple

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = pytest.importorskip("shap.explainers.other._maple", exc_type=ImportError)


def bent(x):
    return (torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2])[:, None]


def test_weights_slopes_and_answers_equal_those_of_the_authors_program():
    data = torch.rand(150, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).double()
    method = Maple(trees=30, columns=3, influential=1)
    ask = px.engine.answer.question(px.Subject(bent), x, method.card, None, None, data, 0, None, False)
    forest = method.prepare(ask.subject, ask)[0]
    table, answers = forest.table.numpy(), forest.answers.numpy()
    theirs = peer.MAPLE(table, answers, table[:20], answers[:20], fe=forest.model, fe_type="rf")
    theirs.retain, theirs.X = 3, table  # every column, as the two choose by other scores
    result = px.explain(bent, x, method, data=data)
    for row in range(4):
        told = theirs.explain(x[row].numpy())
        assert np.allclose(told["weights"] / 30, forest.weights(x[row : row + 1])[0].numpy())
        assert np.allclose(told["coefs"][1:], result.values[row].numpy(), atol=1e-8)
        assert told["pred"][0] == pytest.approx(result.facts["surrogate_score"][row].item())
