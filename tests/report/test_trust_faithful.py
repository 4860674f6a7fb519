"""Maps say how they stood the test: one that points at what the network reads, and one that does not."""

import torch
from torch import nn

import pellucid as px
from nets.told import Told
from pellucid import report
from pellucid.contract.method import from_config
from pellucid.engine import as_subject
from pellucid.report.trust_faithful import faithful
from pellucid.show.facts import verdicts


class First(nn.Module):
    """The sum of the first four of twelve columns, each above any single part of the rest, of which nothing is read."""

    def forward(self, x):
        return torch.stack([x[:, :4].sum(1), torch.zeros(len(x), dtype=x.dtype)], 1)


def asked(name, **settings):
    x = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) + 0.5
    subject, method = as_subject(First().eval()), from_config({"method": name, **settings})
    result = px.explain(subject, x, method, target=0)
    return subject, x, method, result


def test_a_map_that_points_at_what_is_read_beats_all_random_orders():
    subject, x, method, result = asked("gradient-x-input")
    found = faithful(subject, x, method, result, target=0)
    assert found.facts["beats_random_orders"].tolist() == [1.0] * 3
    assert "beats_random_orders" not in result.facts
    told = verdicts(found.facts, 0)
    assert [v.level for v in told if "removal" in v.short] == ["good"]


def test_a_map_that_points_elsewhere_is_told_to_be_a_story():
    """It points at the largest inputs, which the network does not read."""
    x = torch.cat([torch.full((2, 4), 0.5), torch.full((2, 8), 5.0)], 1)
    subject, method = as_subject(First().eval()), Told()
    found = faithful(subject, x, method, px.explain(subject, x, method, target=0), target=0)
    assert found.facts["beats_random_orders"].tolist() == [0.0] * 2
    assert any(v.level == "poor" and "no more than a story" in v.long for v in verdicts(found.facts, 0))


def test_what_can_not_be_tried_is_given_back():
    x = torch.rand(3, 2)
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    method = from_config({"method": "deep-nearest-neighbours", "neighbours": 1})
    result = px.explain(net, x, method, data=x)
    assert faithful(as_subject(net), x, method, result, data=x) is result


def test_the_page_says_how_each_map_stood_the_test(tmp_path):
    page = report(First().eval(), torch.rand(2, 12) + 0.5, ["gradient-x-input"], path=tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "checked by removal: beats 100\u00a0% of random orders" in text
    assert "a story that pleases can be wrong" in text
