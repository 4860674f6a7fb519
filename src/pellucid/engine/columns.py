"""Mixed tables: which columns of the network's input stand for which column that people know, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.errors import InputError


@dataclass(frozen=True, eq=False, init=False)
class Columns:
    """The columns of a mixed table (numbers, categories, missing values) behind the columns that a network sees.

    A category is one column for people and several for the network. Explained column by column, half a category gets a
    figure, and methods that put other values in try rows that no case could have. With `features=columns.groups` a
    category is replaced whole, and `columns.gather(result)` gives one figure for each column people know.

    A missing value is a value like any other: where an encoder marks it (its own category, or an indicator), what a row's
    column gets is the part that its being missing played, and `parts["missing"]` says in which rows. A missing value that
    the encoder does not know is the encoder's error, never guessed here.

    Args:
        transformer: a fitted `sklearn.compose.ColumnTransformer`. Each output must come from one column: encoders,
            scalers, imputers and pipelines of them; one that mixes columns (PCA, products) is refused by name.

    Example:
        >>> from sklearn.compose import ColumnTransformer
        >>> from sklearn.preprocessing import OneHotEncoder
        >>> table = [["red", 3.0], ["blue", 5.0]]
        >>> made = ColumnTransformer([("colour", OneHotEncoder(), [0])], remainder="passthrough").fit(table)
        >>> columns = Columns(made)
        >>> columns.groups, columns.encode(table).tolist()
        (((0, 1), (2,)), [[0.0, 1.0, 3.0], [1.0, 0.0, 5.0]])
    """

    transformer: Any = field(repr=False)
    names: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    def __init__(self, transformer: Any) -> None:
        if not hasattr(transformer, "output_indices_"):
            raise InputError(
                "The 'transformer' must be a fitted ColumnTransformer of scikit-learn",
                got=type(transformer).__name__,
                hint="ColumnTransformer([...]).fit(table)",
            )
        known = getattr(transformer, "feature_names_in_", None)
        count = transformer.n_features_in_
        names = [f"column {i}" for i in range(count)] if known is None else [str(name) for name in known]
        sources = _sources(transformer)
        used = [i for i in range(count) if i in sources]
        object.__setattr__(self, "transformer", transformer)
        object.__setattr__(self, "names", tuple(names[i] for i in used))
        object.__setattr__(self, "groups", tuple(tuple(k for k, s in enumerate(sources) if s == i) for i in used))

    @property
    def width(self) -> int:
        """How many columns the network sees."""
        return sum(map(len, self.groups))

    def encode(self, table: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows as the network takes them, (rows, width)."""
        made = self.transformer.transform(table)
        made = made.toarray() if hasattr(made, "toarray") else made
        return torch.from_numpy(np.ascontiguousarray(np.asarray(made, dtype=np.float64))).to(dtype)

    def decode(self, inputs: Tensor) -> np.ndarray:
        """The rows in the table's own units and categories, (rows, columns) of objects; the inverse of `encode`."""
        inputs = self._checked(inputs)
        whole = np.empty((len(inputs), self.transformer.n_features_in_), dtype=object)
        kept = []
        for name, made, chosen in self.transformer.transformers_:
            where = self.transformer.output_indices_.get(name, slice(0, 0))
            places = _places(self.transformer, chosen)
            if (isinstance(made, str) and made == "drop") or not places:
                continue
            part = inputs[:, where].detach().cpu().double().numpy()
            if not (isinstance(made, str) and made == "passthrough"):
                if not hasattr(made, "inverse_transform"):
                    raise InputError(f"The transformer {name!r} must have an inverse", got=type(made).__name__)
                part = made.inverse_transform(part)
            whole[:, places] = part
            kept += places
        return whole[:, sorted(kept)]

    def gather(self, result: Attribution, table: Any = None) -> Attribution:
        """The same explanation with one figure per column of the table, (rows, columns), and the columns' names.

        Methods asked with `features=columns.groups` gave every column of a group the group's figure, which is taken once;
        otherwise the figures of a group are added up. A standard error can be kept in the first case alone. `table`, the
        rows as they were before encoding, says which values were missing.
        """
        values = self._checked(result.values)
        settings = result.source.get("settings", {})
        whole = _plain(settings.get("features")) == _plain(self.groups)
        gathered = [values[:, list(g)] for g in self.groups]
        figures = torch.stack([g[:, 0] if whole else g.sum(1) for g in gathered], 1)
        error = None
        if whole and isinstance(result.error, Tensor):
            error = torch.stack([result.error[:, g[0]] for g in self.groups], 1)
        parts = {} if table is None else {"missing": self._missing(table, len(values))}
        context = result.context.__class__(
            inputs=None, output=result.context.output, classes=result.context.classes, features=self.names
        )
        return result.replace(values=figures, error=error, baseline=None, parts=parts, context=context)

    def _missing(self, table: Any, rows: int) -> Tensor:
        cells = np.asarray(table, dtype=object)
        if cells.ndim != 2 or len(cells) != rows:
            raise InputError(f"The 'table' must have the {rows} rows that were explained", got=f"shape {cells.shape}")
        sources = sorted(set(_sources(self.transformer)))
        return torch.tensor([[_is_missing(row[i]) for i in sources] for row in cells], dtype=torch.bool)

    def _checked(self, values: Any) -> Tensor:
        if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != self.width:
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"The values must be one table (rows, {self.width}), as `encode` gives", got=got)
        return values


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float | np.floating) and bool(np.isnan(cell)))


def _places(transformer: Any, chosen: Any) -> list[int]:
    """The numbers of the columns that one of the transformers was given."""
    if isinstance(chosen, slice | str | int):
        names = getattr(transformer, "feature_names_in_", None)
        if isinstance(chosen, str):
            return [list(names if names is not None else ()).index(chosen)]
        return list(range(transformer.n_features_in_))[chosen] if isinstance(chosen, slice) else [chosen]
    listed: Sequence[Any] = list(chosen)
    if listed and isinstance(listed[0], bool | np.bool_):
        return [i for i, keep in enumerate(listed) if keep]
    if listed and isinstance(listed[0], str):
        known = list(transformer.feature_names_in_)
        return [known.index(name) for name in listed]
    return [int(i) for i in listed]


def _sources(transformer: Any) -> list[int]:
    """For each column of the output the one column of the table that it comes from.

    Every transformer is asked to name its outputs after inputs with names that can't occur otherwise.
    """
    found: dict[int, int] = {}
    for name, made, chosen in transformer.transformers_:
        where = transformer.output_indices_.get(name, slice(0, 0))
        size, places = where.stop - where.start, _places(transformer, chosen)
        if isinstance(made, str) or not size:
            found |= dict(zip(range(where.start, where.stop), places, strict=False))
            continue
        marks = [f"\x00{i}\x00" for i in places]
        try:
            outputs = [str(o) for o in _named(made, marks)]
        except (AttributeError, ValueError, TypeError) as error:
            raise InputError(
                f"The transformer {name!r} must be able to name its outputs", got=type(made).__name__
            ) from error
        for offset, output in enumerate(outputs):
            inside = [place for place, mark in zip(places, marks, strict=True) if mark in output]
            if len(inside) != 1:
                raise InputError(
                    f"The transformer {name!r} must make each of its outputs from one column",
                    got=f"{type(made).__name__}, which mixes columns",
                    hint="encoders, scalers and imputers",
                )
            found[where.start + offset] = inside[0]
    return [found[k] for k in range(len(found))]


def _named(made: Any, marks: list[str]) -> Any:
    """The names of a transformer's outputs after inputs of these names, through the steps of a pipeline."""
    if hasattr(made, "steps"):
        names: Any = marks
        for _, step in made.steps:
            names = names if step in (None, "passthrough") else _named(step, list(names))
        return names
    known = getattr(made, "feature_names_in_", None)
    if known is None:
        return made.get_feature_names_out(np.asarray(marks, dtype=object))
    import copy

    blank = copy.copy(made)  # fitted on named columns, a transformer takes no other names
    blank.__dict__.pop("feature_names_in_")
    return blank.get_feature_names_out(np.asarray(marks, dtype=object))
