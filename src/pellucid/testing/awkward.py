"""The awkward models that every method is tried on: each with inputs, what to expect and why it is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.contract.errors import ModelModeError, NumericalError, WrapperError
from pellucid.engine import Subject
from pellucid.engine.guard import generators
from pellucid.testing import networks as n

Inputs = Callable[[int, torch.dtype], Any]
MOST_ROWS = 64  # more rows begin with the same ones


def _normal(seed: int, *shape: int) -> Inputs:
    def rows(count: int, dtype: torch.dtype) -> Tensor:
        private = torch.Generator().manual_seed(seed)
        return torch.randn(MOST_ROWS, *shape, generator=private)[:count].to(dtype)

    return rows


TABLE = _normal(11, n.FEATURES)
IMAGE = _normal(13, n.CHANNELS, n.HEIGHT, n.WIDTH)
SEQUENCE = _normal(17, n.STEPS, 4)


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """One awkward model.

    Args:
        name: a short name.
        build: makes the model, or a Subject, with fixed weights; the global random generators stay as they are.
        inputs: rows for it, as many as asked for, at most 64, in a floating type.
        kind: what the inputs are: "table", "image", "sequence", "tokens" or "mixed".
        layer: the place to explain, where the input itself can't be.
        hidden: a place inside, for methods that explain or read one.
        spatial: a place laid out as rows, channels, height, width.
        classes: how many scores a row has; methods that compare classes may refuse one alone.
        only: a need; the fixture is for the methods whose card has it alone.
        expect: "works", or the error that every method must raise.
        note: the mistake it catches.
    """

    name: str
    build: Callable[[], Any]
    inputs: Inputs = TABLE
    kind: str = "table"
    layer: str | None = None
    hidden: str | None = None
    spatial: str | None = None
    classes: int = n.CLASSES
    only: str = ""
    expect: str | type[Exception] = "works"
    note: str = ""

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        """A fresh model in this floating type."""
        with generators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.build()
            module = model.model if isinstance(model, Subject) else model
            if dtype != torch.float32 and not isinstance(module, torch.jit.ScriptModule):
                module.to(dtype)
        return model

    def data(self, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Tensor]:
        """Rows to learn from, other than the first ones, with labels that hold every class."""
        return _after(self.inputs(rows + 16, dtype), 16), torch.arange(rows) % n.CLASSES


def _after(value: Any, start: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:]
    if isinstance(value, dict):
        return {k: v[start:] for k, v in value.items()}
    return tuple(v[start:] for v in value)


def padding(count: int, steps: int) -> Tensor:
    """True where a step is padding: rows have no, one or two padded steps at their end."""
    pads = torch.arange(count) % 3
    return torch.arange(steps) >= steps - pads[:, None]


def _padded(count: int, dtype: torch.dtype) -> Any:
    return _normal(23, n.STEPS, 8)(count, dtype), padding(count, n.STEPS)


def _token_rows(count: int, dtype: torch.dtype) -> Any:
    private = torch.Generator().manual_seed(29)
    ids = torch.randint(1, n.WORDS, (MOST_ROWS, n.STEPS), generator=private)[:count]
    return {"input_ids": ids, "attention_mask": (~padding(count, n.STEPS)).long()}


def _two(count: int, dtype: torch.dtype) -> Any:
    return IMAGE(count, dtype), TABLE(count, dtype)


def _eval(model: nn.Module, seed: int = 1) -> nn.Module:
    return n.fill(model, seed).eval()


def _reused() -> nn.Module:
    relu = nn.ReLU()
    first, second, last = nn.Linear(n.FEATURES, 16), nn.Linear(16, 16), nn.Linear(16, n.CLASSES)
    return nn.Sequential(first, relu, second, relu, last)


def _averaged() -> nn.Module:
    layers = [nn.Conv2d(n.CHANNELS, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, n.CLASSES)]
    return nn.Sequential(*layers)


def _pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n.CHANNELS, 5, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(5, 6, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 2 * 1, n.CLASSES),
    )


def _frozen() -> nn.Module:
    model = _eval(n.mlp())
    for x in model.parameters():
        x.requires_grad_(False)
    return model


def _dropout() -> nn.Module:
    body = nn.Sequential(nn.Linear(n.FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, n.CLASSES))
    return n.fill(body, 1).train()


def _compiled() -> Any:
    return torch.compile(_eval(n.mlp()), backend="eager")


def _traced() -> Any:
    return torch.jit.trace(_eval(n.mlp()), torch.zeros(2, n.FEATURES))


def _gradients() -> nn.Module:
    """A model that is being trained: its parameters carry gradients, which must survive."""
    model = _eval(n.mlp())
    for i, x in enumerate(model.parameters()):
        x.grad = torch.full_like(x, float(i + 1))
    return model


def _normalised() -> Any:
    return Subject(_eval(n.mlp()), preprocess=lambda x: (x - 0.5) * 2.0)


class _FloatRows:
    """Inputs that stay in double precision whatever is asked for."""

    def __call__(self, count: int, dtype: torch.dtype) -> Any:
        return TABLE(count, torch.float64)


def _make() -> tuple[Fixture, ...]:
    return (
        Fixture(name="mlp", build=lambda: _eval(n.mlp()), hidden="2", note="the plain case"),
        Fixture(
            name="functional-mlp",
            build=lambda: _eval(n.Spelled(functional.relu)),
            hidden="second",
            note="rectifiers are functions, so module hooks see none",
        ),
        Fixture(
            name="reused-relu",
            build=lambda: _eval(_reused()),
            hidden="2",
            note="one rectifier module is called twice",
        ),
        Fixture(
            name="in-place-first",
            build=lambda: _eval(nn.Sequential(nn.LeakyReLU(0.5, inplace=True), *n.mlp())),
            hidden="3",
            note="the first layer writes to its input, which may be the caller's tensor",
        ),
        Fixture(
            name="overlapping-pool",
            build=lambda: _eval(_pooled()),
            spatial="3",
            hidden="3",
            note="windows of max-pooling overlap; batches of them are easily mixed up",
            inputs=IMAGE,
            kind="image",
        ),
        Fixture(
            name="pooled-head",
            build=lambda: _eval(_averaged()),
            spatial="1",
            hidden="1",
            note="the mean over places is read by one linear layer, so maps of classes are exact",
            inputs=IMAGE,
            kind="image",
        ),
        Fixture(
            name="batch-norm-resnet",
            build=lambda: _eval(n.Residual()),
            spatial="conv2",
            hidden="conv2",
            note="batch norm, a residual sum and a rectifier used twice",
            inputs=IMAGE,
            kind="image",
        ),
        Fixture(
            name="in-place-resnet",
            build=lambda: _eval(n.Residual(in_place=True)),
            spatial="conv2",
            hidden="conv2",
            note="the same with += and in-place rectifiers",
            inputs=IMAGE,
            kind="image",
        ),
        Fixture(
            name="functional-residual",
            build=lambda: _eval(n.FunctionalResidual()),
            note="no submodules at all; one weight is used twice",
        ),
        Fixture(
            name="lstm",
            build=lambda: _eval(n.Recurrent()),
            inputs=SEQUENCE,
            kind="sequence",
            hidden="head",
            note="gates, tuples between modules, no gradient on some kernels in evaluation mode",
        ),
        Fixture(
            name="padded-transformer",
            build=lambda: _eval(n.PaddedTransformer()),
            inputs=_padded,
            kind="sequence",
            hidden="encoder",
            note="a mask goes along; attention has a fused path that calls no hooks",
        ),
        Fixture(
            name="two-inputs",
            build=lambda: _eval(n.TwoInputs()),
            inputs=_two,
            kind="mixed",
            spatial="conv",
            hidden="conv",
            note="two tensors of different shapes",
        ),
        Fixture(
            name="tokens",
            build=lambda: _eval(n.Tokens()),
            inputs=_token_rows,
            kind="tokens",
            layer="embedding",
            hidden="mix",
            note="whole numbers have no gradient and take no noise; given as a dict with a mask",
        ),
        Fixture(
            name="dict-output",
            build=lambda: Subject(_eval(n.Returns(lambda y, h: {"hidden": h, "logits": y})), output="logits"),
            hidden="body.0",
            note="the output is a dict",
        ),
        Fixture(
            name="object-output",
            build=lambda: Subject(_eval(n.Returns(lambda y, h: n.ModelOutput(y, h))), output="logits"),
            hidden="body.0",
            note="the output is an object with named parts",
        ),
        Fixture(
            name="tuple-with-none",
            build=lambda: Subject(_eval(n.Returns(lambda y, h: (None, y, h))), output=1),
            hidden="body.0",
            note="the output is a tuple with a hole",
        ),
        Fixture(name="frozen", build=_frozen, hidden="2", note="no parameter asks for a gradient"),
        Fixture(name="with-gradients", build=_gradients, hidden="2", note="gradients of a training run lie there"),
        Fixture(
            name="dropout-in-training",
            build=_dropout,
            hidden="0",
            expect=ModelModeError,
            note="its answers are random",
        ),
        Fixture(
            name="data-parallel",
            build=lambda: nn.DataParallel(_eval(n.mlp())),
            hidden="2",
            note="names of modules get a prefix, and hooks run in copies",
        ),
        Fixture(name="compiled", build=_compiled, expect=WrapperError, note="hooks added later may never be called"),
        Fixture(name="traced", build=_traced, expect=WrapperError, note="operations can't be seen from Python"),
        Fixture(
            name="channels-last",
            build=lambda: _eval(n.Views()),
            spatial="conv",
            hidden="conv",
            note="strides are not those of a new tensor, and view() insists on them",
            inputs=IMAGE,
            kind="image",
        ),
        Fixture(
            name="preprocessed",
            build=_normalised,
            hidden="2",
            note="the caller's rows are scaled before the model sees them",
        ),
        Fixture(
            name="nan-output",
            build=lambda: _eval(n.Changed(lambda y: y * float("nan"))),
            hidden="body.2",
            expect=NumericalError,
            note="a score that is not a number has no explanation",
        ),
        Fixture(
            name="raising",
            build=lambda: _eval(n.Raises(1)),
            hidden="body.2",
            expect=n.Planted,
            note="the model's own error must come through, and leave nothing behind",
        ),
        Fixture(
            name="hoarder",
            build=lambda: _eval(n.Hoarder()),
            hidden="body.2",
            note="keeps activations and counts on itself, changes a buffer in every pass",
        ),
        Fixture(
            name="strided-output",
            build=lambda: _eval(n.Changed(lambda y: y.t().contiguous().t())),
            hidden="body.2",
            note="the output is not contiguous",
        ),
        Fixture(
            name="expanded-output",
            build=lambda: _eval(n.Changed(lambda y: y[:, :1].expand(-1, n.CLASSES))),
            hidden="body.2",
            note="the output's columns share memory",
        ),
        Fixture(
            name="one-score",
            classes=1,
            build=lambda: _eval(n.Changed(lambda y: y.tanh().sum(1))),
            hidden="body.2",
            note="one number per row, and no class axis",
        ),
        Fixture(
            name="graph",
            build=lambda: _eval(n.Messages()),
            inputs=n.graphs,
            kind="graph",
            only="graph",
            hidden="enter",
            note="node features and an adjacency go in together, and edges that are not there must stay so",
        ),
        Fixture(
            name="fisher-vectors",
            build=lambda: _eval(n.fisher_vectors()),
            inputs=IMAGE,
            kind="image",
            only="Fisher vectors",
            note="no network: statistics of patches, and a linear layer",
        ),
        Fixture(
            name="double",
            build=lambda: _eval(n.mlp()).double(),
            inputs=_FloatRows(),
            hidden="2",
            note="double precision in must be double precision out",
        ),
    )


_MADE: list[Fixture] = []


def fixtures() -> tuple[Fixture, ...]:
    """All fixtures, the plain ones first."""
    if not _MADE:
        _MADE.extend(_make())
    return tuple(_MADE)


def fixture(name: str) -> Fixture:
    """The fixture of this name."""
    return next(f for f in fixtures() if f.name == name)
