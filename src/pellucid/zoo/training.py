"""Train a recipe: plain minibatch descent, seeded, that leaves no trace on the caller's process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.contract.errors import NumericalError
from pellucid.worlds import World
from pellucid.zoo.recipe import Recipe


@contextmanager
def own_surroundings(seed: int) -> Iterator[None]:
    """Seeded, on one core, with gradients on, whatever the caller has set; all is put back afterwards."""
    with ExitStack() as stack:
        stack.enter_context(_one_thread_and_float32())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.device("cpu"))
        # Not torch.manual_seed: that would also reseed the accelerators, which are not forked above.
        torch.random.default_generator.manual_seed(seed)
        yield


@contextmanager
def _one_thread_and_float32() -> Iterator[None]:
    """One thread, so the order of summation, and with it the weights, does not depend on the number of cores.

    It is also faster for networks this small wherever other processes want the cores too. The default type
    matters because initial weights drawn in another one are other weights.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        if threads != 1:
            torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        yield
    finally:
        torch.set_default_dtype(dtype)
        if threads != 1:
            torch.set_num_threads(threads)


def train(recipe: Recipe, world: World, *, progress: bool = False) -> tuple[nn.Module, float]:
    """The trained model in eval mode and its held-out score; a score below the recipe's target is an error."""
    with own_surroundings(recipe.seed):
        model = recipe.architecture()
        _descend(model, recipe, world, progress)
        model.eval()
        model.zero_grad(set_to_none=True)
        score = held_out(model, world)
    if not score >= recipe.target:
        raise NumericalError(
            f"The zoo model {recipe.name!r} has to reach a held-out score of {recipe.target:.3f}",
            got=f"{score:.3f}",
            hint="another version of torch, or report this with the versions you use",
        )
    return model, score


def held_out(model: nn.Module, world: World, rows: tuple[Tensor, Tensor] | None = None) -> float:
    """Accuracy, or R² for regression, on the world's test rows or on the given pair ``(X, y)``."""
    inputs, labels = world.test if rows is None else rows
    with torch.no_grad():
        output = torch.cat([model(batch) for batch in inputs.split(512)])
    if world.task == "classification":
        return float((output.argmax(dim=1) == labels).double().mean())
    error = (output[:, 0] - labels).double().square().mean()
    return float(1.0 - error / labels.double().var(correction=0))


def _descend(model: nn.Module, recipe: Recipe, world: World, progress: bool) -> None:
    """AdamW with a one-cycle learning rate; mean cross-entropy, or squared error for regression."""
    inputs, labels = world.train
    steps = -(-len(inputs) // recipe.batch_size) * recipe.epochs
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    model.train()
    for _ in _epochs(recipe, progress):
        for rows in torch.randperm(len(inputs)).split(recipe.batch_size):
            output = model(inputs[rows])
            if world.task == "classification":
                loss = F.cross_entropy(output, labels[rows])
            else:
                loss = F.mse_loss(output[:, 0], labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()


def _epochs(recipe: Recipe, progress: bool) -> Iterator[int]:
    if not (progress and sys.stderr.isatty()):
        return iter(range(recipe.epochs))
    from tqdm import tqdm

    return iter(tqdm(range(recipe.epochs), desc=f"training {recipe.name}", unit="epoch", file=sys.stderr, leave=False))
