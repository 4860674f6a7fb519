"""The rows that lime's own submodular pick chooses from the same explanations."""

import warnings

import pytest
import torch

import pellucid as px
from pellucid.attribution import SubmodularPick

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lime_pick = pytest.importorskip("lime.submodular_pick", exc_type=ImportError)


class Explainer:
    """Gives a row of the matrix as its explanation, in lime's form."""

    def explain_instance(self, row, predict, **settings):
        class Explanation:
            mode = "regression"

            def as_list(self, label=1):
                return [(str(j), v) for j, v in enumerate(row) if v != 0]

        return Explanation()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_rows_are_chosen(seed):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(30, 25, generator=draw).double() * (torch.rand(30, 25, generator=draw) < 0.15)
    # of equal rows lime takes the last, so it gets them in reverse
    theirs = lime_pick.SubmodularPick(Explainer(), matrix.flip(0).tolist(), None, method="full", num_exps_desired=4).V
    ours = px.explain(lambda x: x.sum(1, keepdim=True), matrix, SubmodularPick(of="feature-ablation", budget=4))
    assert ours.items[0].tolist() == [29 - i for i in theirs]
