"""Small networks for tables: one or two hidden layers of rectified units."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from pellucid.zoo.recipe import recipe


class TableNetwork(nn.Module):
    """A multilayer perceptron made of modules; ``(N, features)`` to ``(N, outputs)``."""

    def __init__(self, features: int, outputs: int, hidden: tuple[int, ...] = (32, 32)) -> None:
        super().__init__()
        widths = (features, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.output(self.body(rows))


@recipe("iris-mlp", data="iris", epochs=60, batch_size=16, target=0.92)
def iris_network() -> TableNetwork:
    """Four lengths of a flower to three species."""
    return TableNetwork(features=4, outputs=3, hidden=(16, 16))


@recipe("wine-mlp", data="wine", epochs=40, batch_size=16, target=0.95)
def wine_network() -> TableNetwork:
    """Thirteen measurements of a wine to three growers."""
    return TableNetwork(features=13, outputs=3, hidden=(32,))


@recipe("breast-cancer-mlp", data="breast_cancer", epochs=20, batch_size=32, target=0.95)
def breast_cancer_network() -> TableNetwork:
    """Thirty measurements of a tumour to malignant or benign."""
    return TableNetwork(features=30, outputs=2)


@recipe("diabetes-mlp", data="diabetes", epochs=30, batch_size=32, weight_decay=0.1, target=0.3)
def diabetes_network() -> TableNetwork:
    """Ten measurements of a patient to the standardised progression of the disease (one output)."""
    return TableNetwork(features=10, outputs=1, hidden=(16,))


@recipe(
    "tabular-mlp",
    data="tabular",
    data_settings={"n": 4000, "seed": 0},
    epochs=30,
    batch_size=128,
    learning_rate=1e-2,
    target=0.95,
)
def loan_network() -> TableNetwork:
    """Eleven columns of a loan application to refused or granted."""
    return TableNetwork(features=11, outputs=2)
