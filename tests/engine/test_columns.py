"""Columns that people know against what a network sees: groups, inverse, missing values, and what can't be told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

import pellucid as px
from pellucid.contract.errors import InputError

DOUBLE = torch.float64
TABLE = np.array(
    [["red", 3.0, "x", 1.0], ["blue", 5.0, None, 2.0], ["green", np.nan, "y", 4.0], ["red", 8.0, "x", 8.0]],
    dtype=object,
)


def fitted() -> ColumnTransformer:
    """Two categories, one of them with missing values, and two numbers, one of them with missing values."""
    return ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(add_indicator=True), MinMaxScaler()), [1]),
            ("category", OneHotEncoder(sparse_output=False), [0, 2]),
            ("rest", StandardScaler(), [3]),
        ]
    ).fit(TABLE)


def test_every_column_has_its_group_in_the_table_s_order() -> None:
    columns = px.Columns(fitted())
    # outputs: number and its indicator, three colours, three letters (one of them: missing), the last number
    assert columns.groups == ((2, 3, 4), (0, 1), (5, 6, 7), (8,))
    assert columns.names == ("column 0", "column 1", "column 2", "column 3")
    assert columns.encode(TABLE).shape == (4, columns.width)


def test_encoding_and_back_is_exact() -> None:
    columns = px.Columns(ColumnTransformer([("c", OneHotEncoder(), [0, 2]), ("n", StandardScaler(), [3])]).fit(TABLE))
    back = columns.decode(columns.encode(TABLE, DOUBLE))
    assert back[:, :2].tolist() == TABLE[:, [0, 2]].tolist()
    np.testing.assert_allclose(back[:, 2].astype(float), TABLE[:, 3].astype(float), rtol=0, atol=1e-12)


class Additive(torch.nn.Module):
    """A score that adds a figure per category and a slope per number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(1.0, width + 1, dtype=DOUBLE) ** 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight)[:, None]


@pytest.mark.parametrize("method", ["feature-ablation", "shapley-value", "kernel-shap"])
def test_sums_over_a_group_are_what_removing_the_group_does(method: str) -> None:
    """For a score that adds up: gradient × input summed by column equals the column removed whole, and by hand."""
    columns = px.Columns(fitted())
    x = columns.encode(TABLE, DOUBLE)
    net = Additive(columns.width).eval()
    single = columns.gather(px.explain(net, x, "gradient-x-input"), TABLE)
    grouped = columns.gather(px.explain(net, x, {"method": method, "features": columns.groups}), TABLE)
    torch.testing.assert_close(grouped.values, single.values)
    for place, group in enumerate(columns.groups):
        without = x.clone()
        without[:, list(group)] = 0
        torch.testing.assert_close(grouped.values[:, place], (net(x) - net(without))[:, 0].detach())
    assert grouped.context.features == columns.names


def test_missing_values_get_their_part_and_are_marked() -> None:
    """A network that reads nothing but the indicator: the column's figure is that of being missing, in that row alone."""
    columns = px.Columns(fitted())
    x = columns.encode(TABLE, DOUBLE)
    indicator = columns.groups[1][1]
    result = px.explain(
        lambda rows: 7 * rows[:, indicator : indicator + 1],
        x,
        {"method": "feature-ablation", "features": columns.groups},
    )
    gathered = columns.gather(result, TABLE)
    assert gathered.values[:, 1].tolist() == [0.0, 0.0, 7.0, 0.0]
    assert gathered.parts["missing"].tolist() == [
        [False] * 4,
        [False, False, True, False],
        [False, True, False, False],
        [False] * 4,
    ]


def test_replaced_values_are_rows_that_could_be() -> None:
    """With a background of real rows, a category is never half there: its columns always sum to one."""
    columns = px.Columns(fitted())
    x = columns.encode(TABLE, DOUBLE)
    seen = []

    def watch(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows[:, list(columns.groups[0])].sum(1))
        return rows[:, :1]

    px.explain(watch, x, {"method": "kernel-shap", "features": columns.groups}, data=x)
    assert torch.cat(seen).unique().tolist() == [1.0]


def test_names_are_those_of_the_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"colour": ["red", "blue"], "size": [1.0, 2.0], "other": [3.0, 4.0]})
    made = ColumnTransformer([("c", OneHotEncoder(), ["colour"]), ("s", "drop", ["other"])], remainder="passthrough")
    columns = px.Columns(made.fit(frame))
    assert columns.names == ("colour", "size")
    assert columns.groups == ((0, 1), (2,))
    assert columns.decode(columns.encode(frame)).tolist() == [["red", 1.0], ["blue", 2.0]]


def test_what_mixes_columns_or_is_not_fitted_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'both' must make each of its outputs from one column"):
        px.Columns(ColumnTransformer([("both", PCA(1), [1, 3])]).fit(np.random.default_rng(0).normal(size=(9, 4))))
    with pytest.raises(InputError, match="fitted ColumnTransformer"):
        px.Columns(OneHotEncoder())
    columns = px.Columns(fitted())
    with pytest.raises(InputError, match=r"\(rows, 9\)"):
        columns.decode(torch.zeros(2, 3))
    result = px.explain(lambda rows: rows[:, :1], columns.encode(TABLE), "feature-ablation")
    with pytest.raises(InputError, match="4 rows"):
        columns.gather(result, TABLE[:2])
