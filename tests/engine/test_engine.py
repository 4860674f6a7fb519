"""The engine's guarantees: targets, places, inputs, seeds, chunks, memory, and no trace left behind."""

import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import errors
from pellucid.contract.errors import InputError
from pellucid.engine import batch, seed
from pellucid.engine.inputs import as_inputs
from pellucid.engine.place import parse, visit


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


X = torch.arange(12.0).reshape(3, 4) / 10


class Counting(nn.Module):
    """Counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = net(), []
        self.eval()

    def forward(self, x):
        self.calls.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.tensor([0, 1]), r"3 ints.*shape \(2,\)"),
        (1.5, "1.5"),
        ("three", "'three'"),
        (True, "True"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32"),
        ([[0, 1]], r"\[\[0, 1\]\]"),
        (torch.ones(3, 3, dtype=torch.bool), "shape"),
    ],
)
def test_bad_targets_are_refused_before_any_forward_pass(target, words):
    model = Counting()
    with pytest.raises(ValueError, match=words):
        px.explain(model, X, "vanilla-gradient", target=target)
    assert model.calls == []


@pytest.mark.parametrize("target", [3, -4, [0, 1, 3]])
def test_classes_out_of_range_are_refused(target):
    with pytest.raises(errors.TargetError, match="from 0 to 2"):
        px.explain(net(), X, "vanilla-gradient", target=target)
    model = Counting()
    with pytest.raises(errors.TargetError, match="from 0 to 2"):
        px.explain(px.Subject(model, classes=("a", "b", "c")), X, "vanilla-gradient", target=target)
    assert model.calls == []


@pytest.mark.parametrize("target", [10**30, -(10**30), 2**63, [10**30] * 3])
def test_a_class_beyond_any_integer_type_is_refused(target):
    model = Counting()
    with pytest.raises(errors.TargetError, match="'target' must"):
        px.explain(model, X, "vanilla-gradient", target=target)
    assert model.calls == []


@pytest.mark.parametrize("data", ["train", b"train"])
def test_text_is_no_data(data):
    with pytest.raises(errors.InputError, match=r"'data' must be a tensor.*Got (str|bytes)"):
        px.explain(net(), X, "expected-gradients", data=data)


def test_a_target_that_gives_no_number_per_row_is_refused():
    with pytest.raises(errors.TargetError, match="one number per row"):
        px.explain(net(), X, "vanilla-gradient", target=lambda out: out.sum())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(0, 4), "at least one"),
        (torch.full((2, 4), float("nan")), "finite"),
        ([1.0, 2.0], "tensor"),
        ("text", "tensor"),
        ((torch.zeros(2, 4), torch.zeros(3, 4)), "same number of rows"),
        (torch.zeros(2, 4, dtype=torch.float64), "float32"),
        (torch.zeros(2, 4, dtype=torch.complex64), "real"),
        (torch.tensor(1.0), "rows"),
    ],
)
def test_bad_inputs_are_refused_before_any_forward_pass(inputs, words):
    model = Counting()
    with pytest.raises(ValueError, match=words):
        px.explain(model, inputs, "vanilla-gradient")
    assert model.calls == []


def test_unknown_layer_lists_the_nearest():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.classifier = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.classifier(self.convolution(x))

    with pytest.raises(LookupError, match="'classifier'"):
        px.explain(Named().eval(), X, "vanilla-gradient", layer="clasifier")


def test_a_reused_module_must_be_told_apart():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.one, self.two = nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(self.act(self.one(self.act(x))))

    model = Reused().eval()
    with pytest.raises(errors.LayerError, match="'act#1', 'act#2'"):
        px.explain(model, X, "vanilla-gradient", layer="act")
    with pytest.raises(errors.LayerError, match="reached"):
        px.explain(model, X, "vanilla-gradient", layer="act#3")
    second = px.explain(model, X, "vanilla-gradient", layer="act#2", target=1).values
    assert torch.allclose(second, model.two.weight[1].expand(3, 4))
    first = px.explain(model, X, "vanilla-gradient", layer="act#1", target=1).values
    mask = (model.one(X.relu()) > 0).float()
    assert torch.allclose(first, (mask * model.two.weight[1]) @ model.one.weight)
    before = px.explain(model, X, "vanilla-gradient", layer="act#2:in", target=1).values
    assert torch.allclose(before, mask * model.two.weight[1])


def test_a_module_that_is_never_called_is_refused():
    model = net()
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with pytest.raises(errors.LayerError, match="reached"):
        px.explain(model.eval(), X, "vanilla-gradient", layer="spare")


def test_part_of_a_tuple_is_a_place():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(3, 6, 4)
    got = px.explain(model, x, "vanilla-gradient", layer="lstm", target=0).values
    assert got.shape == (3, 6, 5)
    assert torch.allclose(got[:, -1], model.head.weight[0].expand(3, 5))
    assert torch.equal(got[:, :-1], torch.zeros(3, 5, 5))


def test_forward_stops_after_the_last_place_needed():
    seen = []
    model = net()
    model[2].register_forward_pre_hook(lambda *_: seen.append(1))
    place = parse("0#1", model)
    visit(lambda: model(X), model, [place], stop=True)
    assert seen == []


def test_nothing_before_the_layer_is_kept_for_the_backward_pass():
    model = net()
    place = parse("1", model)
    with torch.enable_grad():
        found = visit(lambda: model(X), model, cut=place)
    assert found.seen[place].is_leaf
    assert found.output.requires_grad
    names, stack = set(), [found.output.grad_fn]
    while stack:
        node = stack.pop()
        names.add(node.name())
        stack += [f for f, _ in node.next_functions if f is not None]
    assert "ReluBackward0" not in names


class Untidy(nn.Module):
    """Stores activations on itself, counts calls in a buffer, draws random numbers."""

    def __init__(self):
        super().__init__()
        self.inner = net()
        self.register_buffer("count", torch.zeros(()))
        self.memory = {"last": None}
        self.eval()

    def forward(self, x):
        self.count += 1
        self.attention = self.inner(x)
        self.memory["last"] = self.attention
        torch.rand(1)
        np.random.rand()
        return self.attention


@pytest.mark.parametrize("fails", [None, RuntimeError, KeyboardInterrupt])
def test_no_trace_is_left(fails):
    model = Untidy()
    if fails:
        model.inner[2].register_forward_hook(lambda *_: (_ for _ in ()).throw(fails("midway")))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    grads = [p.grad for p in model.parameters()]
    keys, count, state = set(model.__dict__), model.count, {k: v.clone() for k, v in model.state_dict().items()}
    hooks = {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()}
    torch.manual_seed(5)
    np.random.seed(5)
    numbers, x, version = (torch.get_rng_state(), np.random.get_state()[1].copy()), X.clone(), X._version
    try:
        px.explain(model, X, "smoothgrad", layer="inner.0")
    except (RuntimeError, KeyboardInterrupt):
        assert fails
    assert set(model.__dict__) == keys
    assert model.memory == {"last": None}
    assert model.count is count
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is g and bool((g == 1).all()) for p, g in zip(model.parameters(), grads, strict=True))
    assert {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()} == hooks
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert (np.random.get_state()[1] == numbers[1]).all()
    assert torch.equal(X, x)
    assert X._version == version
    assert torch.is_grad_enabled()


def test_training_mode_is_refused_or_explained_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2))
    with pytest.raises(errors.ModelModeError, match=r"eval\(\)"):
        px.explain(model, X, "vanilla-gradient")
    got = px.explain(px.Subject(model, allow_train=True), X, "vanilla-gradient", target=0).values
    assert all(m.training for m in model.modules())
    assert torch.allclose(got, (model[2].weight[0] @ model[0].weight).expand(3, 4), atol=1e-6)


def test_hidden_operations_are_refused():
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hidden = [torch.jit.script(model), torch.compile(model)]
    for wrapped in hidden:
        with pytest.raises(errors.WrapperError, match="eager"):
            px.explain(wrapped, X, "vanilla-gradient")


def test_output_must_be_chosen_where_there_are_several():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return {"logits": self.inner(x), "hidden": x}

    model = Several().eval()
    with pytest.raises(errors.OutputSelectionError, match="'logits', 'hidden'"):
        px.explain(model, X, "vanilla-gradient")
    with pytest.raises(errors.OutputSelectionError, match="logits"):
        px.explain(px.Subject(model, output="scores"), X, "vanilla-gradient")
    got = px.explain(px.Subject(model, output="logits"), X, "vanilla-gradient", target=1).values
    assert torch.equal(got, px.explain(model.inner, X, "vanilla-gradient", target=1).values)


def test_outputs_that_are_not_finite_are_refused_with_their_rows():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), (x.sum(1) - 1.0).log()], 1)

    for method in ("vanilla-gradient", "integrated-gradients", "smoothgrad"):
        with pytest.raises(errors.NumericalError, match="row 0"):
            px.explain(Broken().eval(), X, method)


def test_a_score_without_a_gradient_is_refused():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() * 2

    with pytest.raises(errors.NeedError, match="differentiable"):
        px.explain(Detached().eval(), X, "vanilla-gradient")


def test_plain_callables_are_refused_by_gradient_methods():
    with pytest.raises(errors.NeedError, match="torch module"):
        px.explain(lambda x: x.numpy(), X, "vanilla-gradient")


def test_several_inputs_and_integer_ones():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, a, b, mask):
            return self.a(a) * mask[:, None] + self.b(b)

    model, a, b = Two().eval(), X, torch.ones(3, 3)
    mask = torch.tensor([0, 1, 2])
    got = px.explain(model, (a, b, mask), "vanilla-gradient", target=0).values
    assert got[2] is None
    assert torch.allclose(got[0], mask[:, None] * model.a.weight[0])
    named = px.explain(model, {"b": b, "mask": mask, "a": a}, "vanilla-gradient", target=0).values
    assert torch.equal(named["a"], got[0])
    assert set(named) == {"a", "b"}


def test_token_ids_are_explained_at_the_embedding():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embedding(ids).mean(1))

    model, ids = Tokens().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(errors.InputError, match="embedding"):
        px.explain(model, ids, "vanilla-gradient")
    got = px.explain(model, ids, "integrated-gradients", target=1, layer="embedding")
    want = model.embedding(ids) * model.head.weight[1] / 3
    assert got.values.shape == (2, 3, 4)
    assert torch.allclose(got.values, want, atol=1e-6)
    assert float(got.facts["completeness_gap"].max()) < 1e-6
    other = torch.tensor([[9, 8, 7]])
    got = px.explain(model, ids, "integrated-gradients", target=1, layer="embedding", data=other)
    assert torch.allclose(got.values, want - model.embedding(other) * model.head.weight[1] / 3, atol=1e-6)


def test_chunks_do_not_change_results():
    model, x = net().double(), torch.randn(5, 4, dtype=torch.float64)
    for method in ("vanilla-gradient", "integrated-gradients", "smoothgrad"):
        whole = px.explain(model, x, method, target=0).values
        small = px.explain(model, x, method, target=0, memory=4000).values
        assert torch.allclose(whole, small, atol=1e-13)


def test_chunk_is_halved_when_memory_runs_out():
    class Narrow(Counting):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    model = Narrow()
    x = torch.randn(8, 4)
    got = px.explain(model, x, "vanilla-gradient", target=0).values
    assert max(model.calls) <= 3
    assert torch.allclose(got, px.explain(model.inner, x, "vanilla-gradient", target=0).values)


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(errors.MemoryBudgetError, match="at least one row"):
        px.explain(net(), X, "vanilla-gradient", memory=16)
    with pytest.raises(errors.InputError, match="memory"):
        px.explain(net(), X, "vanilla-gradient", memory="lots")
    assert batch.budget("1.5 MiB", torch.device("cpu")) == 3 << 19


def test_meter_counts_what_is_alive_at_once():
    with batch.Meter() as meter:
        for _ in range(5):
            kept = torch.zeros(1000)
            torch.zeros(250)
            del kept
    assert meter.peak == 5000


def test_noise_depends_on_seed_content_and_draw_alone():
    keys = as_inputs(X).keys()
    a = seed.normal(1, keys, [0, 0, 0], (1000,), X)
    assert torch.equal(seed.normal(1, keys[::-1], [0, 0, 0], (1000,), X).flip(0), a)
    assert not torch.equal(seed.normal(2, keys, [0, 0, 0], (1000,), X), a)
    assert not torch.equal(seed.normal(1, keys, [1, 1, 1], (1000,), X), a)
    assert as_inputs(X.double()).keys() == keys
    flat = seed.normal(3, keys, [0, 1, 2], (20000,), X).flatten()
    assert abs(flat.mean()) < 5 / 60000**0.5
    assert abs(flat.std() - 1) < 0.02
    # Draws of neighbouring numbers don't overlap.
    b, c = (seed.normal(1, keys[:1], [k], (4096,), X)[0] for k in (0, 1))
    assert len(set(b.tolist()) & set(c.tolist())) < 5


def test_threads_on_one_model_agree_with_serial():
    model, x = net(), torch.randn(4, 4)
    want = {m: px.explain(model, x, m).values for m in ("vanilla-gradient", "integrated-gradients", "smoothgrad")}
    wrong = []

    def work(method):
        for _ in range(10):
            if not torch.equal(px.explain(model, x, method).values, want[method]):
                wrong.append(method)

    threads = [threading.Thread(target=work, args=(m,)) for m in want for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_source_says_how_to_do_it_again():
    got = px.explain(net(), X, "smoothgrad", seed=3)
    again = px.explain(net(), X, px.contract.from_config({"method": "smoothgrad", **got.source["settings"]}), seed=3)
    assert torch.equal(got.values, again.values)
    assert got.source["model_hash"] == again.source["model_hash"]
    assert got.source["input_hash"] == again.source["input_hash"]
    changed = net()
    changed[0].weight.data[0, 0] += 1
    assert px.explain(changed, X, "smoothgrad").source["model_hash"] != got.source["model_hash"]


def test_works_inside_no_grad_and_inference_mode():
    want = px.explain(net(), X, "vanilla-gradient", target=0).values
    with torch.no_grad():
        assert torch.equal(px.explain(net(), X, "vanilla-gradient", target=0).values, want)
    model = net()
    with torch.inference_mode():
        x = X.clone()
        assert torch.equal(px.explain(model, x, "vanilla-gradient", target=0).values, want)


def test_results_survive_saving(tmp_path):
    from pellucid.contract.storage import same

    got = px.explain(net(), (X,), "smoothgrad")
    path = got.save(tmp_path / "result.safetensors")
    back = px.load(path)
    assert same(got, back)
    assert back.context.inputs is None
    with pytest.raises(errors.InputError, match="overwrite"):
        got.save(path)
    got.save(path, overwrite=True, inputs=True)
    assert torch.equal(px.load(path).context.inputs[0], X)
    (tmp_path / "other.safetensors").write_bytes(b"not a result at all")
    with pytest.raises(errors.UnsafeFileError):
        px.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("method", ["vanilla-gradient", "integrated-gradients", "guided-backprop"])
def test_names_that_are_not_the_classes_are_refused(method):
    with pytest.raises(errors.InputError, match="3 outputs"):
        px.explain(px.Subject(net(), classes=("a", "b", "c", "d")), X, method)
    assert px.explain(px.Subject(net(), classes=("a", "b", "c")), X, method).context.classes == ("a", "b", "c")


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c", "d", "e")])
def test_names_that_cannot_be_the_columns_are_refused(names):
    with pytest.raises(InputError, match="features"):
        px.explain(px.Subject(nn.Linear(3, 2).eval(), features=names), torch.ones(1, 3), "vanilla-gradient")


@pytest.mark.parametrize("path", [None, 3, b"name"])
def test_a_path_that_is_none_is_refused(path):
    result = px.Attribution(values=torch.ones(1, 3))
    with pytest.raises(InputError, match="path"):
        result.save(path)
    with pytest.raises(InputError, match="path"):
        px.load(path)


@pytest.mark.parametrize(
    "method", ["feature-ablation", "occlusion-sensitivity", "shapley-value", "kernel-shap", "lime"]
)
def test_rows_whose_questions_got_no_answer_are_listed_and_the_others_complete(method):
    def model(x):
        return torch.where((x[:, :1] == 0) & (x[:, 1:2] > 5), torch.nan, x.sum(1, keepdim=True))

    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 9.0, 3.0], [2.0, 2.0, 2.0]])
    result = px.explain(model, x, method)
    assert result.source["rows_without_values"] == [1]
    assert torch.allclose(result.values[[0, 2]], px.explain(lambda x: x.sum(1, keepdim=True), x[[0, 2]], method).values)
    assert "rows_without_values" not in px.explain(model, x[[0, 2]], method).source
