"""Edges by hand and by scikit-image; a network that computes a Sobel filter; controls that know nothing of the network."""

import pytest
import torch
from scipy import stats
from skimage import filters
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import EdgeDetector, EdgeDetectorBaseline, ModelRandomisationTest, controls

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def reader(*shape):
    count = 1
    for n in shape:
        count *= n
    return nn.Sequential(nn.Flatten(), nn.Linear(count, 3, **DOUBLE)).eval()


def test_a_constant_picture_has_no_edges():
    x = torch.full((2, 3, 6, 5), 0.4, **DOUBLE)
    for name in ("sobel", "canny"):
        assert not px.explain(reader(3, 6, 5), x, EdgeDetector(filter=name)).values.any()


def test_a_step_answers_in_the_two_columns_beside_it():
    """Rows are alike, so the smoothing changes nothing, and the difference of the neighbours, halved, is h / 2."""
    x = torch.zeros(1, 2, 5, 7, **DOUBLE)
    x[..., 3:] = 0.8
    found = px.explain(reader(2, 5, 7), x, "edge-detector").values
    assert found.shape == x.shape
    expected = torch.zeros(5, 7, **DOUBLE)
    expected[:, 2:4] = 0.8 / 2
    assert torch.allclose(found.sum(1)[0], expected)
    turned = px.explain(reader(2, 7, 5), x.transpose(2, 3), "edge-detector").values
    assert torch.allclose(turned, found.transpose(2, 3))


def test_a_ramp_has_its_slope():
    x = (0.25 * torch.arange(6, **DOUBLE))[None, None, :, None].expand(1, 1, 6, 4).contiguous()
    found = px.explain(reader(1, 6, 4), x, "edge-detector").values
    assert torch.allclose(found[0, 0, 1:-1], torch.full((4, 4), 0.25, **DOUBLE))


def test_sobel_is_scikit_images():
    """That library halves the sum of squares, but not the differences; its mirrored border repeats the last pixel, too."""
    x = drawn(2, 9, 6)
    for row, found in zip(x, controls.sobel(x), strict=True):
        assert torch.allclose(2**0.5 * found, torch.from_numpy(filters.sobel(row.numpy(), mode="reflect")))


@pytest.mark.parametrize("rows", [1, 7])
def test_similarities_are_scipys(rows):
    x, net = drawn(rows, 3, 8, 9), reader(3, 8, 9)
    target = torch.arange(rows) % 3
    values = px.explain(net, x, "gradient-x-input", target=target).values
    found = px.explain(net, x, EdgeDetectorBaseline(of="gradient-x-input"), target=target)
    for row in range(rows):
        sized = values[row].abs().sum(0)
        edges = controls.sobel(x[row].mean(0)[None])[0]
        assert found.values[row].item() == pytest.approx(stats.spearmanr(sized.flatten(), edges.flatten())[0], abs=1e-9)
        middle = stats.spearmanr(sized.flatten(), found.parts["centre"].flatten())[0]
        assert found.facts["centre_rank"][row].item() == pytest.approx(middle, abs=1e-9)
    assert found.better == "lower"


def test_the_edge_map_is_flagged_and_noise_is_not():
    x = drawn(4, 1, 12, 10)
    found = px.explain(reader(1, 12, 10), x, EdgeDetectorBaseline(of="edge-detector"))
    assert found.values.tolist() == pytest.approx([1] * 4)
    assert found.facts["sobel_ssim"].tolist() == pytest.approx([1] * 4)
    assert found.facts["flagged"].tolist() == [1] * 4
    noisy = px.explain(reader(1, 12, 10), x, EdgeDetectorBaseline(of="vanilla-gradient"))
    assert bool((noisy.values.abs() < 4 / 119**0.5).all())  # four standard deviations of chance
    assert noisy.facts["flagged"].tolist() == [0] * 4
    assert noisy.facts["random_spread"].mean().item() == pytest.approx(1 / 119**0.5, rel=0.4)
    assert bool((noisy.facts["random_rank"].abs() < 4 / (8 * 119) ** 0.5).all())


def test_the_middle_is_a_control():
    middle = controls.centre(6, 8)
    assert torch.equal(middle, middle.flip(0))
    assert torch.equal(middle, middle.flip(1))
    assert middle.argmax() in (2 * 8 + 3, 2 * 8 + 4)
    assert middle[2, 5].item() == pytest.approx(
        float(torch.exp(torch.tensor(-0.5 * ((0.5 / 1.5) ** 2 + (1.5 / 2) ** 2))))
    )


class Sobel(nn.Module):
    """Scores the sum of squared slopes, so that its saliency is made of edges and of nothing else."""

    def __init__(self):
        super().__init__()
        across = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([-1.0, 0, 1])).double() / 8
        self.slopes = nn.Parameter(torch.stack([across, across.T])[:, None])

    def forward(self, x):
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return nn.functional.conv2d(padded, self.slopes).square().sum((1, 2, 3))[:, None]


def test_a_network_that_computes_a_sobel_filter_is_flagged():
    x = torch.zeros(1, 1, 12, 12, **DOUBLE)
    x[..., 3:9, 4:9] = 1.0
    found = px.explain(Sobel().eval(), x, EdgeDetectorBaseline(of="vanilla-gradient"))
    assert found.facts["flagged"].item() == 1


def test_the_edge_detector_fails_the_randomisation_test_as_it_must():
    net, x = reader(1, 6, 6), drawn(2, 1, 6, 6)
    found = px.explain(net, x, ModelRandomisationTest(of="edge-detector", draws=2))
    assert found.values.tolist() == pytest.approx([1, 1])
    assert found.facts["fails"].tolist() == [1, 1]


def test_bad_settings_are_refused():
    with pytest.raises(MethodError, match="filter"):
        px.explain(reader(1, 4, 4), drawn(1, 1, 4, 4), EdgeDetector(filter="log"))
    with pytest.raises(MethodError, match="limit"):
        px.explain(reader(1, 4, 4), drawn(1, 1, 4, 4), EdgeDetectorBaseline(limit=2))
    with pytest.raises(InputError, match="images"):
        px.explain(reader(6), drawn(1, 6), "edge-detector")
