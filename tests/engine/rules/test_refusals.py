"""What cannot be explained is refused by name and place, all of it at once, before anything is sent back."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nets import stock
from nets.spellings import image
from pellucid.contract.errors import (
    ModelModeError,
    NeedError,
    TargetError,
    UnsupportedOperation,
    WrapperError,
)
from pellucid.engine import rules


def score(output):
    return output.flatten(1)[:, 0]


def run(model, x, table, **options):
    return rules.backward(model, x, score, table, model=model, **options)


TABLES = [rules.guided(), rules.deconvnet(), rules.epsilon_lrp()]


def test_all_missing_operations_are_listed_with_module_and_line():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.Softshrink(), nn.Linear(4, 4))

        def forward(self, x):
            x = self.body(x)
            x = torch.atan(x)
            return torch.special.bessel_j0(torch.zeros(1)) * x.erfinv()

    model = stock.settle(Strange())
    for table in TABLES:
        with pytest.raises(UnsupportedOperation) as caught:
            run(model, image(2, 1, 2).flatten(1) / 9, table)
        text = str(caught.value)
        assert text.startswith("3 operations have no rule")
        assert re.search(r"aten\.softshrink in module 'body\.1' at \S+test_refusals\.py:\d+", text)
        assert re.search(r"aten\.atan in module '' at \S+test_refusals\.py:\d+", text)
        assert "aten.erfinv" in text
    run(model, image(2, 1, 2).flatten(1) / 9, rules.gradient())


class Double(torch.autograd.Function):
    """A user's own backward: not the derivative of its forward."""

    @staticmethod
    def forward(ctx, factor, x, unused=None):
        ctx.factor = factor
        ctx.save_for_backward(x)
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return None, 100 * grad * x, None


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(Double.apply(2.0, self.first(x)).relu())


def test_a_users_function_keeps_its_backward_for_the_gradient_and_is_refused_elsewhere():
    model, x = stock.settle(Custom()), image(2, 1, 2).flatten(1)
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(score(model(leaf)).sum(), leaf)[0]
    assert torch.equal(run(model, x, rules.gradient()).values[0], want)
    for table in TABLES:
        with pytest.raises(
            UnsupportedOperation,
            match=r"Double \(custom or unlabelled\) in module '' at \S+test_refusals\.py:\d+",
        ):
            run(model, x, table)


def test_functions_with_several_outputs_and_a_missing_gradient():
    class Split(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            return 2 * a + 3 * b

    class Model(nn.Module):
        def forward(self, x):
            a, _ = Split.apply(x)
            return a * a

    x = image(2, 1, 2).flatten(1)
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(score(Model()(leaf)).sum(), leaf)[0]
    assert torch.allclose(run(Model(), x, rules.gradient()).values[0], want, rtol=1e-14, atol=0)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU())
        self.attention = stock.Attention(4, 2, "sdpa")
        self.head, self.reentrant = nn.Linear(4, 2), reentrant

    def forward(self, x):
        x = checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(checkpoint(self.attention, x[:, None], use_reentrant=self.reentrant)[:, 0])


def test_checkpoints():
    x = image(3, 1, 2).flatten(1)
    model, reentrant = stock.settle(Checkpointed(False)), stock.settle(Checkpointed(True))
    plain = nn.Sequential(model.body, nn.Unflatten(1, (1, 4)), model.attention, nn.Flatten(), model.head)
    for table in [rules.gradient(), *TABLES]:
        want = run(plain, x, table).values[0]
        assert torch.allclose(run(model, x, table).values[0], want, rtol=1e-12, atol=1e-15)
        with pytest.raises(UnsupportedOperation, match="reentrant checkpoint"):
            run(reentrant, x, table)
    assert all(p.grad is None for p in reentrant.parameters())


def test_wrapped_models():
    model, x = stock.small_vgg(), image(1, 3, 16)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced, scripted = torch.jit.trace(model, x), torch.jit.script(nn.Sequential(nn.ReLU()))
        compiled = torch.compile(model)
    compiled_in_place = stock.small_vgg()
    compiled_in_place.features.compile()
    for wrapped, name in [
        (traced, "scripted"), (nn.Sequential(model, scripted), r"'1' \("), (compiled, "compiled"),
        (nn.Sequential(compiled), "compiled"), (compiled_in_place, "'features'"),
    ]:  # fmt: skip
        with pytest.raises(WrapperError, match=name):
            run(wrapped, x, rules.gradient())
    run(nn.DataParallel(model), x, rules.guided())  # without devices it runs the module itself


def test_quantised_modules():
    module = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})(4, 2)
    with pytest.raises(WrapperError, match=r"quantised module.*'1' \(Linear\)"):
        run(nn.Sequential(nn.ReLU(), module), image(1, 1, 2).flatten(1), rules.gradient())


def test_training_statistics_are_not_moved():
    model = stock.small_resnet().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelModeError, match=r"'bn1' in training mode.*model.eval"):
        run(model, image(2, 3, 16), rules.gradient())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_layers_in_another_thread_are_refused_without_a_place():
    from threading import Thread

    class Threaded(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x):
            box = []
            thread = Thread(target=lambda: box.append(self.body(x)))
            thread.start()
            thread.join()
            return box[0] * 2

    model, x = stock.settle(Threaded()), image(3, 1, 2).flatten(1)
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(score(model(leaf)).sum(), leaf)[0]
    assert torch.allclose(run(model, x, rules.gradient()).values[0], want, rtol=1e-14, atol=0)
    with pytest.raises(UnsupportedOperation, match=r"Addmm\S* \(custom or unlabelled\) at an unknown place"):
        run(model, x, rules.guided())


def test_custom_library_operations():
    @torch.library.custom_op("pellucid_tests::relu", mutates_args=())
    def relu(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)

    relu.register_autograd(
        lambda ctx, grad: grad * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )

    class Model(nn.Module):
        def forward(self, x):
            return relu(x * 3)

    x = image(2, 1, 2).flatten(1)
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(score(Model()(leaf)).sum(), leaf)[0]
    assert torch.equal(run(Model(), x, rules.gradient()).values[0], want)
    with pytest.raises(UnsupportedOperation, match="custom or unlabelled"):
        run(Model(), x, rules.guided())


@pytest.mark.parametrize("bad", [lambda o: o, lambda o: o.sum(), lambda o: o.argmax(1), lambda o: 3.0])
def test_scores_that_are_no_numbers_per_row(bad):
    with pytest.raises(TargetError, match="one floating number per row"):
        rules.backward(stock.small_vgg(), image(2, 3, 16), bad, rules.gradient())


def test_nothing_to_differentiate():
    class Closed(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return x * 2

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return x.detach() * self.weight

    with pytest.raises(NeedError, match="carries no gradient"):
        run(Closed(), image(2, 1, 2), rules.gradient())
    with pytest.raises(NeedError, match="Nothing arrives"):
        run(Cut(), image(2, 1, 2), rules.gradient())


def test_one_unreached_input_of_two_gets_zeros():
    class One(nn.Module):
        def forward(self, x, y):
            return x * 2 + y.detach()

    x = image(2, 1, 2)
    values = rules.backward(One(), (x, x), score, rules.gradient()).values
    assert values[0].abs().sum() > 0
    assert torch.equal(values[1], torch.zeros_like(x))


def test_where_the_self_test_failed_rule_tables_are_refused(monkeypatch):
    monkeypatch.setattr(rules, "available", lambda: rules.Outcome(False, "labels moved"))
    model, x = stock.small_vgg(), image(1, 3, 16)
    with pytest.raises(UnsupportedOperation, match=f"torch {re.escape(torch.__version__)}.*labels moved"):
        run(model, x, rules.guided())


def test_errors_of_the_model_pass_unchanged():
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(Broken(), image(), rules.guided())


def test_fused_attention_called_from_below_is_refused():
    class Direct(nn.Module):
        def forward(self, x):
            q = x.view(len(x), 1, 2, 2)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0].flatten(1)

    with pytest.raises(UnsupportedOperation, match=r"aten\._scaled_dot_product_flash_attention_for_cpu in module"):
        run(Direct(), image(2, 1, 2).flatten(1), rules.guided())


def test_log_softmax_has_no_relevance_rule():
    model = nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(1)).double()
    with pytest.raises(UnsupportedOperation, match=r"aten\._log_softmax in module '1'"):
        run(model, image(2, 1, 2).flatten(1), rules.epsilon_lrp())


def test_unlabelled_composites_are_not_guessed():
    x = image(2, 1, 2).flatten(1)
    model = nn.Sequential(nn.Linear(4, 4), nn.CELU(), nn.Linear(4, 2)).double()
    run(model, x, rules.guided())
    assert F.celu is not None
