"""One method in one world: what it says against what is true, next to chance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import pellucid as px
from benchmarks.planted import circuit, settings, tasks
from benchmarks.planted.tasks import Task
from pellucid import zoo
from pellucid.contract import Method, registered
from pellucid.contract.errors import MethodError, PellucidError
from pellucid.engine.evaluation import overall
from pellucid.evaluation import ModelRandomisationTest, PointingGame, SamplingInstability
from pellucid.evaluation.localisation import expected
from pellucid.evaluation.similarity import rank_correlation

Cell = dict[str, Any]

ROWS = {
    "objects": 12,
    "cues": 12,
    "words": 24,
    "attention": 24,
    "loans": 40,
    "columns": 40,
    "games": 8,
    "seeds": 6,
    "weights": 4,
}
FIGURES = {
    "objects": ("pointing", "rank", "mass"),
    "cues": ("pointing", "rank", "mass"),
    "words": ("roc", "precision", "pointing"),
    "attention": ("roc", "precision", "mass"),
    "loans": ("roc", "rank"),
    "columns": ("order", "top", "unread", "saturated", "error"),
    "games": ("exact", "error"),
    "seeds": ("spread", "agreement"),
    "weights": ("similarity", "size", "structure"),
}
# Methods for a kind of network that is not the world's own are asked about another reader of the same sentences.
NETWORKS = {
    "lrp-text-cnn": "sentences-cnn",
    "deep-taylor-decomposition": "sentences-cnn",
    "openbox-plnn": "sentences-cnn",
}
LEARNS = {"data", "labels"}
TOP = 3
REPEATS, DRAWS = 3, 2
STEADY = "draws nothing, by its card"
EXACT = 0.01
TINY = 1e-9  # rounding is no evidence


def methods() -> list[str]:
    """Every method of the catalogue that gives an attribution."""
    return sorted(
        name
        for name, cls in registered().items()
        if cls.card.form == "attribution" and cls.__module__.startswith("pellucid.")
    )


def cell(task: str, name: str, rows: int | None = None) -> Cell:
    """The figures of a method in a world, with intervals over rows, or why there are none; and the seconds it took."""
    if why := settings.LEFT_OUT.get((name, task)):
        return {"refused": why}
    method, told = settings.chosen(name, task)
    started, busy = time.perf_counter(), time.process_time()
    found: Cell = {"settings": told}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figures = WORK[task](method, ROWS[task] if rows is None else rows)
    except Exception as error:
        spent = round(time.process_time() - busy, 3)
        return {"refused": _short(error), "settings": told, "busy": spent}
    found["figures"] = {label: _summed(*pair) for label, pair in figures.items()}
    found["seconds"] = round(time.perf_counter() - started, 3)
    found["busy"] = round(time.process_time() - busy, 3)
    return found


def _summed(values: Tensor, chance: Tensor | float | None) -> Cell:
    """The mean over rows with its 95 % interval; beside chance, where there is one, row by row."""
    flat = values.double().cpu()
    found = overall(flat)
    if chance is None:
        return found
    level = torch.as_tensor(chance, dtype=torch.float64).expand_as(flat)
    found["chance"] = float(level[flat.isfinite()].mean()) if bool(flat.isfinite().any()) else None
    against = overall(flat - level)
    if against.get("low") is not None:
        low, high = against["low"], against["high"]
        found["against chance"] = "above" if low > TINY else "below" if high < -TINY else "chance"
    return found


def _short(error: Exception) -> str:
    """The first sentence of a refusal, and what it got, without places in the source; a fault with its name."""
    text = str(error).split("\n", 1)[0]
    text = text if isinstance(error, PellucidError) else f"{type(error).__name__}: {text}"
    return text.split(" Try ")[0].split(" at /")[0].strip()


def _given(method: Method, task: Task) -> Any:
    """What a method learns from, where it learns."""
    needs = set(method.card.needs)
    if "labels" in needs or (method.card.scope == "global" and "data" in needs and task.kind == "places"):
        return task.background if "labels" in needs else task.background[0]
    return task.background[0] if "data" in needs else None


def _places(method: Method, task: Task) -> dict[str, tuple[Tensor, Tensor | float]]:
    """Localisation, from the one explanation that the pointing game asks for."""
    model = task.others.get(NETWORKS.get(method.card.name, ""), task.model)
    data = {"masks": task.truth, "explanation": _given(method, task)}
    game = PointingGame(of=method, pooling="norm" if method.card.name in settings.SLOPES else "absolute")
    facts = px.explain(model, task.rows, game, target=task.target, layer=task.layer, data=data).facts
    chances = {"pointing": facts["chance"], "rank": facts["area"], "mass": facts["area"], "roc": 0.5}
    chances["precision"] = facts["precision_chance"]
    return {name: (facts[name], chances[name]) for name in chances}


def _pictures(make: Callable[[int], Task]) -> Callable[[Method, int], Any]:
    def work(method: Method, rows: int) -> Any:
        found = _places(method, make(rows))
        return {name: found[name] for name in FIGURES["objects"]}

    return work


def _words(task: str) -> Callable[[Method, int], Any]:
    def work(method: Method, rows: int) -> Any:
        found = _places(method, tasks.TASKS[task](rows))
        return {name: found[name] for name in FIGURES[task]}

    return work


def _loans(method: Method, rows: int) -> Any:
    task = tasks.loans(rows)
    found = _places(method, task)
    return {name: found[name] for name in ("roc", "rank")}


def _columns(method: Method, rows: int) -> Any:
    task = tasks.columns(rows)
    given = _given(method, task)
    result = px.explain(task.model, task.rows, method, target=task.target, data=given)
    values = result.values.double().reshape(len(task.rows), -1)
    truth = task.truth
    if given is not None:
        same = method.card.scope == "global" and bool((values == values[:1]).all())
        assert task.learnt is not None
        assert task.population is not None
        truth = task.population if same else task.learnt
    size, true = values.abs(), truth.abs()
    most = torch.zeros_like(true, dtype=torch.bool).scatter_(1, true.argsort(1, descending=True)[:, :TOP], True)
    parts, due = size / size.sum(1, keepdim=True), true / true.sum(1, keepdim=True)
    return {
        "order": (rank_correlation(size, true), 0.0),
        "top": (expected(size, most, torch.full((len(size),), TOP)) / TOP, TOP / size.shape[1]),
        "unread": (parts[:, [circuit.COPY, circuit.NOISE]].sum(1), 2 / size.shape[1]),
        "saturated": (parts[:, circuit.SATURATES] / due[:, circuit.SATURATES], None),
        "error": ((values - truth).abs().sum(1) / true.sum(1), None),
    }


def _games(method: Method, rows: int) -> Any:
    errors = []
    for task in tasks.games()[:rows]:
        values = px.explain(task.model, task.rows, method, target=task.target, data=_given(method, task)).values
        errors.append(float((values.double() - task.truth).abs().sum() / task.truth.abs().sum()))
    found = torch.tensor(errors, dtype=torch.float64)
    return {"exact": ((found <= EXACT).double(), None), "error": (found, None)}


def _seeds(method: Method, rows: int) -> Any:
    """How far other draws give other values, on the loans, or for methods of pictures on the pictures."""
    if "deterministic" in method.claims:
        raise MethodError(STEADY)
    task = tasks.objects(4) if "image" in method.card.needs else tasks.loans(rows)
    asked = SamplingInstability(of=method, repeats=REPEATS, top=TOP)
    found = px.explain(task.model, task.rows, asked, target=task.target, data=_given(method, task))
    return {"spread": (found.facts["spread"], None), "agreement": (found.values, None)}


def _weights(method: Method, rows: int) -> Any:
    """How like the maps are those of the same network with its weights drawn anew."""
    (x, labels), (learn, known) = zoo.data("digits-cnn").test, zoo.data("digits-cnn").train
    asked = ModelRandomisationTest(of=method, draws=DRAWS)
    needs = set(method.card.needs)
    data = (learn[:64], known[:64]) if "labels" in needs else learn[:64] if "data" in needs else None
    found = px.explain(zoo.load("digits-cnn"), x[:rows], asked, target=labels[:rows], data=data).facts
    named = {"similarity": "rank_signed", "size": "rank_absolute", "structure": "ssim"}
    return {label: (found[fact], None) for label, fact in named.items()}


WORK: dict[str, Callable[[Method, int], dict[str, tuple[Tensor, Any]]]] = {
    "objects": _pictures(tasks.objects),
    "cues": _pictures(tasks.cues),
    "words": _words("words"),
    "attention": _words("attention"),
    "loans": _loans,
    "columns": _columns,
    "games": _games,
    "seeds": _seeds,
    "weights": _weights,
}
assert set(WORK) == set(ROWS) == set(FIGURES)


def checks(task: str) -> Mapping[str, float]:
    """What interventions found, in the worlds where the network was learnt or set to go by the truth."""
    if task == "games":
        gaps = [value for game in tasks.games() for value in game.checks.values()]
        return {"largest gap between the values' sum and the worth of all": max(gaps)}
    return tasks.TASKS[task](ROWS[task]).checks if task in tasks.TASKS else {}
