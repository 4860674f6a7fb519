"""Scores of changed rows, computed from the changes alone, against whole passes of the plain model."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid as px
from engine.plan_nets import IMAGE, NETS, made, rows
from nets import stock
from pellucid.attribution import FeatureAblation, Occlusion
from pellucid.engine import perturb, plan
from pellucid.engine.incremental import Patch, grouping, network_of
from pellucid.engine.incremental.patch import Canvas, crop
from pellucid.engine.incremental.reach import Reach, union


@pytest.fixture(autouse=True)
def _no_plans_left() -> Iterator[None]:
    yield
    plan._shelves.clear()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph of maps is worth its bookkeeping."""
    monkeypatch.setattr(perturb, "WORTH", 0.0)


# --- the arithmetic ---


@pytest.mark.parametrize("seed", range(40))
def test_affected_results_are_those_whose_reads_meet_the_interval(seed: int) -> None:
    chance = random.Random(seed)
    kernel, stride, dilation = chance.randint(1, 4), chance.randint(1, 4), chance.randint(1, 3)
    span = dilation * (kernel - 1) + 1
    padding, length = chance.randint(0, kernel), chance.randint(span, span + 9)
    results = (length + 2 * padding - span) // stride + 1
    reach = Reach((kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    for low in range(length):
        for high in range(low + 1, length + 1):
            touched = [
                i for i in range(results)
                if any(low <= i * stride - padding + dilation * k < high for k in range(kernel))
            ]  # fmt: skip
            first, last = reach.affected(np.array([[low], [0]]), np.array([[high], [1]]), (results, 1))
            got = range(int(first[0, 0]), int(last[0, 0]))
            # With gaps between what a result reads, the interval may also hold results that skip the change.
            assert set(touched) <= set(got)
            if dilation == 1:
                assert touched == list(got)


def test_empty_intervals_count_for_nothing_in_a_union() -> None:
    low, high = union(
        [
            (np.array([[3, 0], [1, 0]]), np.array([[3, 2], [5, 2]])),
            (np.array([[4, 5], [4, 5]]), np.array([[6, 5], [6, 9]])),
        ]
    )
    assert low.tolist() == [[4, 0], [4, 0]]
    assert high.tolist() == [[6, 2], [6, 2]]


@pytest.mark.parametrize("seed", range(10))
def test_crops_are_slices_of_the_padded_map_with_the_patch_written_into_it(seed: int) -> None:
    chance = np.random.default_rng(seed)
    clean, margin = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed)), 2
    canvas = Canvas.of(clean, (margin, margin), (margin, margin), -1.5)
    first = np.stack([chance.integers(0, 7 - 2, 4), chance.integers(0, 9 - 3, 4)])
    patch = Patch(
        torch.randn(4, 3, 3, 4, generator=torch.Generator().manual_seed(seed + 1)), np.minimum(first, [[4], [5]])
    )
    size = (int(chance.integers(1, 8)), int(chance.integers(1, 10)))
    start = np.stack([chance.integers(-2, 7 + 3 - size[0], 4), chance.integers(-2, 9 + 3 - size[1], 4)])
    got = crop(canvas, patch, start, size)
    for job in range(4):
        whole = clean[0].clone()
        y, x = patch.first[:, job]
        whole[:, y : y + 3, x : x + 4] = patch.values[job]
        whole = F.pad(whole, (margin,) * 4, value=-1.5)
        y, x = start[:, job] + margin
        assert torch.equal(got[job], whole[:, y : y + size[0], x : x + size[1]])


# --- networks: each operation, and random ones ---


class Both(nn.Module):
    """The sum, product or concatenation of two branches."""

    def __init__(self, how: str, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.how, self.one, self.two = how, one, two

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), self.two(x)
        return {"add": lambda: a + b, "mul": lambda: a * b, "cat": lambda: torch.cat([a, b], 1)}[self.how]()


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv(inputs: int, outputs: int, *settings: int, **more: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, *settings, **more)


class Gate(nn.Module):
    """Squeeze and excitation: a mean over the whole map acts back on every place."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))


class Placed(nn.Module):
    """A constant for each place, one for each channel, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("places", torch.randn(1, 3, 13, 17, generator=generator))
        self.register_buffer("channels", torch.randn(3, 1, 1, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.places) * self.channels - 0.5


OPERATIONS: dict[str, Callable[[], list[nn.Module]]] = {
    "stride": lambda: [conv(3, 4, 3, 2)],
    "stride beyond the kernel": lambda: [conv(3, 4, 2, 3, 1)],
    "dilation": lambda: [conv(3, 4, 3, 2, 4, dilation=3)],
    "groups": lambda: [conv(3, 6, 3, 1, 1), nn.ReLU(), conv(6, 4, 3, 1, 1, groups=2)],
    "depthwise": lambda: [conv(3, 6, 3, 2, 1, groups=3), conv(6, 4, 1)],
    "oblong": lambda: [conv(3, 4, (1, 5), (2, 1), (0, 2)), nn.ReLU(), conv(4, 4, (5, 1), (1, 3), (2, 0))],
    "same": lambda: [conv(3, 4, 3, padding="same"), nn.Tanh(), conv(4, 4, 5, padding="same")],
    "reflect": lambda: [conv(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()],
    "wide padding": lambda: [conv(3, 4, 3, 1, 3), nn.ReLU()],
    "max pool": lambda: [conv(3, 4, 3, 1, 1), nn.MaxPool2d(2)],
    "overlapping max pool": lambda: [conv(3, 4, 3, 1, 1), nn.MaxPool2d(3, 2, 1), conv(4, 4, 3)],
    "ceil max pool": lambda: [conv(3, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True), conv(4, 4, 2)],
    "dilated max pool": lambda: [nn.MaxPool2d(2, 1, 1, dilation=2), conv(3, 4, 3)],
    "functional pools": lambda: [Does(lambda x: F.max_pool2d(x, 2)), Does(lambda x: F.avg_pool2d(x, 3, 1)), conv(3, 4, 1)],
    "average pool": lambda: [conv(3, 4, 3), nn.AvgPool2d(2)],
    "padded average": lambda: [nn.AvgPool2d(3, 2, 1), conv(3, 4, 3)],
    "padded average of valid": lambda: [nn.AvgPool2d(3, 2, 1, count_include_pad=False), conv(3, 4, 3)],
    "ceil average": lambda: [nn.AvgPool2d(4, 3, 1, ceil_mode=True), conv(3, 4, 2)],
    "ceil average of valid": lambda: [nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False), conv(3, 4, 2)],
    "average by divisor": lambda: [nn.AvgPool2d(3, 2, 1, divisor_override=5), conv(3, 4, 2)],
    "adaptive to itself": lambda: [conv(3, 4, 3), nn.AdaptiveAvgPool2d((11, 15))],
    "adaptive by halves": lambda: [conv(3, 4, (2, 2)), nn.AdaptiveAvgPool2d((6, 4)), nn.ReLU()],
    "adaptive uneven": lambda: [conv(3, 4, 3), nn.AdaptiveAvgPool2d((4, 6)), nn.ReLU()],
    "adaptive max": lambda: [conv(3, 4, 3), nn.AdaptiveMaxPool2d(3)],
    "batch norm first": lambda: [nn.BatchNorm2d(3), nn.ReLU(), conv(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU()],
    "in place": lambda: [conv(3, 4, 3), nn.ReLU(inplace=True), conv(4, 4, 3), nn.LeakyReLU(0.1, inplace=True)],
    "activations": lambda: [nn.GELU(), conv(3, 4, 3), nn.SiLU(), nn.ELU(), nn.PReLU(4), nn.Hardswish(), nn.Softplus()],
    "residual": lambda: [conv(3, 4, 3), Both("add", conv(4, 4, 3, 1, 1), nn.Identity()), nn.ReLU()],
    "residual of strides": lambda: [Both("add", conv(3, 4, 3, 2, 1), conv(3, 4, 1, 2)), nn.ReLU()],
    "product": lambda: [Both("mul", conv(3, 4, 3, 1, 1), conv(3, 4, 5, 1, 2))],
    "cat": lambda: [Both("cat", conv(3, 2, 3, 1, 1), conv(3, 2, 1)), Does(lambda x: x * (x > 0))],
    "where": lambda: [conv(3, 4, 3), Does(lambda x: torch.where(x > 0, x, x.exp() - 1)), Does(lambda x: x.clamp(max=1))],
    "constants": lambda: [Placed(), conv(3, 4, 3)],
    "zero padding": lambda: [nn.ZeroPad2d((1, 0, 2, 3)), conv(3, 4, 3, 2), Does(lambda x: F.pad(x, (0, 1), value=2.0))],
    "reflection": lambda: [nn.ReflectionPad2d(2), conv(3, 4, 3)],
    "gate": lambda: [conv(3, 4, 3), Gate(), conv(4, 4, 3)],
    "group norm": lambda: [conv(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), conv(4, 4, 3)],
    "up": lambda: [conv(3, 4, 3, 2), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 2, 2)],
    "slices": lambda: [Does(lambda x: x[:, :, 1::2]), conv(3, 4, 3), Does(lambda x: x[:, :, :-1] + x[:, :, 1:])],
    "shuffle": lambda: [conv(3, 4, 3), nn.ChannelShuffle(2), conv(4, 4, 3)],
    "turned": lambda: [conv(3, 4, 3), Does(lambda x: x.transpose(2, 3)), conv(4, 4, 3)],
    "rolled": lambda: [conv(3, 4, 3), Does(lambda x: torch.roll(x, (2, 3), (2, 3))), conv(4, 4, 3)],
}  # fmt: skip
HEADS: dict[str, Callable[[int], list[nn.Module]]] = {
    "mean": lambda c: [Does(lambda x: x.mean((2, 3))), nn.Linear(c, 3)],
    "pool": lambda c: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3)],
    "sum": lambda c: [Does(lambda x: x.sum((-1, -2), keepdim=True)), nn.Flatten(), nn.Linear(c, 3)],
    "flat": lambda c: [nn.Flatten(), nn.LazyLinear(3)],
    "max": lambda c: [Does(lambda x: x.amax((2, 3))), nn.Linear(c, 3)],
    "unpooled": lambda c: [conv(c, 3, 1)],
}
OBLONG = (3, 13, 17)


def built(layers: list[nn.Module], head: str, shape: tuple[int, ...], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(5)
    body = nn.Sequential(*layers)
    with torch.no_grad():
        channels = body.eval()(torch.zeros(1, *shape)).shape[1]
        model = nn.Sequential(body, *HEADS[head](channels)).eval()
        model(torch.zeros(1, *shape))  # makes lazy weights
    return made(lambda: model, dtype)


def boxes(shape: tuple[int, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    limit = np.array(shape[1:])[:, None]
    low = (chance.random((2, count)) * limit).astype(np.int64)
    high = np.minimum(low + 1 + (chance.random((2, count)) * limit / 2).astype(np.int64), limit)
    return low, high


def both_ways(model: nn.Module, x: Tensor, low: np.ndarray, high: np.ndarray) -> tuple[Tensor, Tensor]:
    """The outputs with the boxes filled: from the changes alone, and from the plain model, one image at a time."""
    made_plan = plan.get(model, (x,), "forward")
    assert made_plan is not None, plan.explain_none(model, (x,), "forward")
    network = network_of(made_plan, 0)
    assert network is not None
    filled = []
    for top, left, bottom, right in np.concatenate([low, high]).T:
        image = x[0].clone()
        image[:, top:bottom, left:right] = 0.7
        filled.append(image)
    images = torch.stack(filled)
    with torch.inference_mode():
        clean, spans = network.clean((x,)), network.survey(low, high)
        found = {}
        for group in grouping(network, spans, np.arange(low.shape[1])).groups:
            size = (high - low)[:, group].max(1)
            first = np.minimum(low[:, group], np.array(x.shape[2:])[:, None] - size[:, None])
            values = [
                images[job, :, y : y + size[0], z : z + size[1]] for job, (y, z) in zip(group, first.T, strict=True)
            ]
            output = network.run(clean, spans, group, Patch(torch.stack(values), first))
            output = output if network.cut is None else network.finish(clean, output)
            found |= dict(zip(group.tolist(), output, strict=True))
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images])
    return torch.stack([found[job] for job in range(len(images))]).clone(), expected


def close(got: Tensor, expected: Tensor) -> None:
    tight = 1e-10 if expected.dtype is torch.float64 else 2e-5
    torch.testing.assert_close(got, expected, rtol=0, atol=tight * float(expected.abs().max()))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_every_operation(name: str, dtype: torch.dtype) -> None:
    heads = list(HEADS)
    model = built(OPERATIONS[name](), heads[len(name) % len(heads)], OBLONG, dtype)
    close(*both_ways(model, rows(OBLONG, 1, dtype), *boxes(OBLONG, 12, 0)))


@pytest.mark.parametrize("head", HEADS)
def test_every_head(head: str) -> None:
    model = built([conv(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)], head, OBLONG, torch.float64)
    close(*both_ways(model, rows(OBLONG, 1, torch.float64), *boxes(OBLONG, 12, 0)))


def layer(chance: random.Random, channels: int, side: int) -> tuple[nn.Module, int]:
    """A random layer for maps of so many channels whose shorter side is `side`, and the channels after it."""
    kernel = chance.choice([k for k in (1, 2, 3, 5) if k <= side])
    padding, stride, dilation = chance.randint(0, kernel // 2), chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2))
    dilation = dilation if dilation * (kernel - 1) < side else 1
    out = chance.choice((2, 4, 6))
    groups = chance.choice([g for g in (1, 2, channels) if channels % g == 0 and out % g == 0])
    settings = {"padding": padding, "stride": stride, "dilation": dilation}
    kind = chance.choice(("conv", "conv", "conv", "max", "average", "norm", "point", "add", "cat", "pad"))
    if kind == "conv":
        return conv(channels, out, kernel, **settings, groups=groups), out
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=chance.random() < 0.5), channels
    if kind == "average":
        more = {"ceil_mode": chance.random() < 0.5, "count_include_pad": chance.random() < 0.5}
        return nn.AvgPool2d(kernel, stride, padding, **more), channels
    if kind == "norm":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)), channels
    if kind == "point":
        return chance.choice((nn.ReLU, nn.GELU, nn.Sigmoid, nn.LeakyReLU))(), channels
    if kind == "pad":
        return nn.ZeroPad2d([chance.randint(0, 2) for _ in range(4)]), channels
    if kind == "add":
        branch = conv(channels, channels, 3, 1, 1)
        return Both("add", nn.Sequential(branch, nn.BatchNorm2d(channels)), nn.Identity()), channels
    return Both("cat", conv(channels, 2, 3, 1, 1), conv(channels, 2, 1)), 4


def architecture(seed: int, shape: tuple[int, ...]) -> list[nn.Module]:
    chance = random.Random(seed)
    layers, channels, size = [], shape[0], shape
    for _ in range(chance.randint(2, 6)):
        made_layer, after = layer(chance, channels, min(size[1:]))
        with torch.no_grad():
            size = nn.Sequential(*layers, made_layer).eval()(torch.zeros(1, *shape)).shape[1:]
        layers.append(made_layer)
        channels = after
    return layers


@pytest.mark.parametrize("seed", range(60))
def test_random_architectures(seed: int) -> None:
    chance = random.Random(1000 + seed)
    shape = (3, chance.randint(11, 24), chance.randint(11, 24))
    dtype = torch.float64 if seed % 3 else torch.float32
    model = built(architecture(seed, shape), chance.choice(list(HEADS)), shape, dtype)
    close(*both_ways(model, rows(shape, 1, dtype), *boxes(shape, 9, seed)))


# --- methods ---


def image_nets() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    nets = {
        name: (lambda b=build: made(b, torch.float64), shape) for name, (build, shape) in NETS.items() if shape == IMAGE
    }
    sides = {name: (3, stock.SIDES.get(name, 16), stock.SIDES.get(name, 16)) for name in stock.SMALL}
    return nets | {name: (lambda b=build: b("functional"), sides[name]) for name, build in stock.SMALL.items()}


@pytest.mark.parametrize("name", image_nets())
@pytest.mark.usefixtures("always")
def test_methods_give_the_same_on_every_network(name: str) -> None:
    build, shape = image_nets()[name]
    model, x = build(), rows(shape, 3, torch.float64)
    methods = (
        Occlusion(window=(5, 3), stride=(3, 2), baseline=(0.0, "mean")),
        FeatureAblation(features=("grid", 3), baseline="blur"),
    )
    for method in methods:
        ours = px.explain(px.Subject(model, plan=True), x, method, target=1)
        plain = px.explain(px.Subject(model, plan=False), x, method, target=1)
        assert plain.source["path"] == "plain"
        close(ours.values, plain.values)
        facts = plain.facts.items() if name != "in-place" else ()  # its classes tie: rounding decides which one wins
        for fact, figures in facts:
            torch.testing.assert_close(ours.facts[fact], figures, rtol=1e-9, atol=1e-9)


class Deep(nn.Module):
    """Wide enough for its parts to be worth it; the second input goes round the image's convolutions."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            *(conv(16, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)), conv(16, 24, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.words, self.head = nn.Embedding(9, 24), nn.Linear(24, 5)

    def forward(self, image: Tensor, words: Tensor | None = None) -> Tensor:
        x = self.layers(image).mean((2, 3))
        return self.head(x if words is None else x * self.words(words).mean(1))


WIDE = (3, 56, 48)


def paths(model: object, x: object, method: object, **asked: object) -> tuple[str, float]:
    """The path taken, and the largest difference to whole passes as a share of the largest drop."""
    ours = px.explain(px.Subject(model, plan=True), x, method, **asked)
    plain = px.explain(px.Subject(model, plan=False), x, method, **asked)
    values = [each if isinstance(each, tuple) else (each,) for each in (ours.values, plain.values)]
    worst = max(float((a - b).abs().max()) for a, b in zip(*values, strict=True) if a is not None)
    return ours.source["path"], worst / float(plain.facts["largest_drop"].abs().max())


WINDOWS = Occlusion(window=9, stride=7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "method",
    [
        WINDOWS,
        Occlusion(window=(9, 14), stride=(5, 11), baseline=("mean", 0.5)),
        Occlusion(window=(1, 10, 10), stride=(1, 9, 9)),
        FeatureAblation(features=("grid", 6)),
        FeatureAblation(features=("patch", 11), baseline="mean"),
        FeatureAblation(features=("patch", 7), baseline="blur"),
    ],
    ids=["window", "oblong", "channel", "grid", "patch", "blur"],
)
def test_parts_of_a_wide_network_are_chosen_where_they_pay(method: object, dtype: torch.dtype) -> None:
    model, x = made(Deep, dtype), F.avg_pool2d(rows((3, 60, 52), 2, dtype), 5, 1)
    if dtype is torch.float32:  # the drops must not drown in the rounding of the score itself
        method = dataclasses.replace(method, baseline=(9.0, -6.0) if method.baseline == ("mean", 0.5) else 9.0)
    path, difference = paths(model, x, method, target=2)
    assert path == "incremental"
    assert difference < (1e-10 if dtype is torch.float64 else 1e-4)


@pytest.mark.usefixtures("always")
def test_features_of_any_form_are_changed_within_their_boxes() -> None:
    model, x = made(Deep, torch.float64), F.avg_pool2d(rows((3, 60, 52), 2, torch.float64), 5, 1)
    for method, data in (
        (FeatureAblation(features=("superpixels", 40)), None),
        (FeatureAblation(features="channel"), None),
        (FeatureAblation(), {"groups": (torch.arange(56)[:, None] + torch.arange(48))[None] % 7 - 1}),
    ):
        path, difference = paths(model, x, method, target=2, data=data)
        assert path == "incremental"
        assert difference < 1e-10


def test_a_small_network_or_a_wide_window_is_left_to_whole_passes() -> None:
    small = nn.Sequential(conv(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = rows((3, 12, 12), 2)
    small.eval()(x)
    assert paths(small, x, Occlusion(window=2, stride=1))[0] == "plan"
    model, x = made(Deep), rows(WIDE, 1)
    assert paths(model, x, Occlusion(window=(40, 46), stride=1))[0] == "plan"
    assert px.explain(model, x, WINDOWS, target=px.unit("layers.0", 1)).source["path"] == "plain"
    assert px.explain(px.Subject(model, plan=False), x, WINDOWS).source["path"] == "plain"


def test_a_batch_is_its_rows_and_memory_changes_nothing_but_the_way() -> None:
    model, x = made(Deep, torch.float64), rows(WIDE, 3, torch.float64)
    whole = px.explain(model, x, WINDOWS, target=[0, 3, 1])
    for n, target in enumerate((0, 3, 1)):
        close(px.explain(model, x[n : n + 1], WINDOWS, target=target).values, whole.values[n : n + 1])
    for memory, path in ((12_000_000, "incremental"), (2_300_000, "plan")):
        tight = px.explain(model, x, WINDOWS, target=[0, 3, 1], memory=memory)
        assert tight.source["path"] == path
        close(tight.values, whole.values)


def test_two_inputs_of_which_one_is_hidden_and_a_layer() -> None:
    model, image = made(Deep, torch.float64), rows(WIDE, 2, torch.float64)
    words = torch.tensor([[1, 2], [7, 3]])
    path, difference = paths(model, (image, words), WINDOWS)
    assert path == "incremental"
    assert difference < 1e-10
    path, difference = paths(model, image, Occlusion(window=12, stride=6, baseline=-1.0), layer="layers.2")
    assert path == "incremental"
    assert difference < 1e-10


def test_what_changes_nothing_drops_by_nothing() -> None:
    model, x = made(Deep), rows(WIDE, 1)
    x[:, :, :24] = 0
    result = px.explain(model, x, FeatureAblation(features=("grid", 6)))
    assert result.source["path"] == "incremental"
    assert not result.values[:, :, :18].any()
    assert result.values[:, :, 27:].all()


def test_targets_that_are_functions_and_outputs_of_several_parts() -> None:
    class Several(Deep):
        def forward(self, image: Tensor, words: Tensor | None = None) -> dict[str, Tensor]:
            return {"scores": super().forward(image), "map": self.layers(image)}

    model, x = made(Several, torch.float64), rows(WIDE, 1, torch.float64)
    for output, target in (("scores", px.margin(0, 2)), ("map", lambda maps: maps[:, 3].amax((1, 2)))):
        ours = px.explain(px.Subject(model, output=output), x, WINDOWS, target=target)
        plain = px.explain(px.Subject(model, output=output, plan=False), x, WINDOWS, target=target)
        assert ours.source["path"] == "incremental"
        close(ours.values, plain.values)


def test_interrupted_half_way_it_leaves_no_trace_and_works_again() -> None:
    model, x = made(Deep), rows(WIDE, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, seen = torch.get_rng_state(), x.clone()

    def stop(done: int, total: int, label: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        px.explain(model, x, WINDOWS, progress=stop)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, seen)
    assert not any(module._forward_hooks for module in model.modules())
    assert paths(model, x, WINDOWS)[1] < 1e-4


def test_progress_counts_every_job_once() -> None:
    told: list[tuple[int, int]] = []
    px.explain(made(Deep), rows(WIDE, 2), WINDOWS, progress=lambda done, total, label: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == 2 * (8 * 7 + 1)


def test_a_changed_weight_is_seen() -> None:
    model, x = made(Deep), rows(WIDE, 1)
    first = px.explain(model, x, WINDOWS)
    with torch.no_grad():
        model.layers[0].weight.mul_(1.5)
    again = px.explain(model, x, WINDOWS)
    assert not torch.equal(first.values, again.values)
    assert paths(model, x, WINDOWS)[1] < 1e-4


@pytest.mark.usefixtures("always")
def test_memory_stays_within_the_budget() -> None:
    model, x, memory = made(Deep), rows((3, 160, 160), 1), 48 << 20
    px.explain(model, x, WINDOWS)  # makes the plan
    from pellucid.engine.batch import Meter

    meter = Meter()
    with meter:
        result = px.explain(model, x, Occlusion(window=24, stride=6), memory=memory)
    assert result.source["path"] == "incremental"
    assert meter.peak < 1.1 * memory
