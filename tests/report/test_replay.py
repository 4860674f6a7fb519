"""A record is computed again: what is true is verified, what is not is found, what can't be told is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.contract.method import _REGISTERED
from pellucid.engine.target import margin
from pellucid.report import Replay, replay
from report.deciding import ROWS, Scale, edited, reported, two


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    reported(folder)
    return folder


def verdicts(found: Replay) -> dict[str, str]:
    return {f.what.partition(":")[0]: f.verdict for f in found.findings}


def test_an_untouched_record_is_verified_bit_for_bit(made: Path) -> None:
    found = replay(made / "page.json", two(), ROWS)
    assert found.verified, str(found)
    how = [f.how for f in found.findings if f.what.startswith(("result", "case", "the network"))]
    assert len(how) == 5
    assert set(how) == {"bit for bit"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c["outputs"]["tensor"]["values"].__setitem__(0, 2.000001), "the network's outputs"),
        (lambda c: c["results"][0]["fields"]["values"]["tensor"]["values"].__setitem__(1, 0.5), "result 1"),
        (lambda c: c["results"][1]["facts"].popitem(), "result 2"),
        (lambda c: c["results"][1]["settings"].update(samples=3), "result 2"),
        (lambda c: c["results"][0].update(digest="0" * 64), "result 1"),
        (lambda c: c["cases"][0]["answer"].update(share=0.99), "case 1"),
        (lambda c: c["cases"][0].update(right=True), "case 1"),
        (lambda c: c["cases"][0]["why"]["erasure"].update(count=2), "case 1"),
        (lambda c: c["cases"][1]["why"]["result"]["facts"]["score"]["tensor"]["values"].__setitem__(0, 9.0), "case 2"),
        (lambda c: c["statements"]["/computed/cases/0"].__setitem__(0, "1 “half” 99 %"), "what the page says"),
        (lambda c: c["missing"].clear(), "what could not be computed"),
    ],
)
def test_a_figure_changed_by_someone_who_makes_the_digests_anew_is_found(made: Path, change: Any, what: str) -> None:
    path = edited(made, lambda r: change(r["computed"]), resealed=True)
    found = verdicts(replay(path, two(), ROWS))
    assert found["the record itself"] == "verified"
    assert [name for name, verdict in found.items() if verdict != "verified"] == [what]


def test_the_pages_digest_finds_what_cannot_be_computed_again(made: Path) -> None:
    seal = json.loads((made / "page.json").read_bytes())["digests"]["record"]
    assert replay(made / "page.json", two(), ROWS, seal=seal.upper()).verified
    path = edited(made, lambda r: r["issued"].update(responsible="Somebody else"), resealed=True)
    assert replay(path, two(), ROWS).verified
    assert verdicts(replay(path, two(), ROWS, seal=seal))["the page's digest"] == "differs"


def test_another_model_or_other_inputs_are_found_before_any_work(made: Path) -> None:
    other = Scale().eval()
    with torch.no_grad():
        other.weight[0] = 1.0000001
    found = verdicts(replay(made / "page.json", other, ROWS))
    assert found["the model"] == "differs"
    assert {v for k, v in found.items() if k.startswith(("result", "case"))} == {"cannot"}
    assert verdicts(replay(made / "page.json", two(), ROWS + 1e-6))["the inputs"] == "differs"
    assert verdicts(replay(made / "page.json", two()))["the inputs"] == "cannot"


def test_kept_inputs_are_enough(tmp_path: Path) -> None:
    reported(tmp_path, keep_inputs=True)
    assert replay(tmp_path / "page.json", two()).verified


def elsewhere(told: dict[str, Any], by: float) -> None:
    """As if it had been computed on another machine, whose figures are off by this share."""
    told["issued"]["environment"]["threads"] = 99
    values = told["computed"]["results"][0]["fields"]["values"]["tensor"]
    values["values"][0] *= 1 + by
    values["digest"] = "0" * 32


def test_elsewhere_figures_may_differ_by_the_tolerance_and_no_more(made: Path) -> None:
    near = edited(made, lambda r: elsewhere(r, 1e-6), resealed=True)
    found = replay(near, two(), ROWS)
    assert found.verified, str(found)
    assert "within 0.0001" in next(f.how for f in found.findings if f.what.startswith("result 1"))
    assert verdicts(replay(near, two(), ROWS, tolerance=1e-8))["result 1"] == "differs"
    far = edited(made, lambda r: elsewhere(r, 1e-2), resealed=True)
    assert verdicts(replay(far, two(), ROWS))["result 1"] == "differs"
    assert verdicts(replay(far, two(), ROWS, tolerance=0.05))["result 1"] == "verified"
    with pytest.raises(InputError, match="tolerance"):
        replay(near, two(), ROWS, tolerance=-1.0)


@dataclass(frozen=True, kw_only=True)
class Own(Method):
    """A method of the caller's own."""

    card: ClassVar[Card] = Card(
        name="test-own", title="Own", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject: Any, ask: Any, state: Any) -> Attribution:
        return Attribution(values=torch.zeros_like(ask.inputs.floats[0]))


_REGISTERED.pop("test-own", None)


def test_what_can_not_be_told_is_named_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_REGISTERED, "test-own", Own)
    reported(tmp_path, methods=["test-own", "vanilla-gradient"])
    assert replay(tmp_path / "page.json", two(), ROWS).verified
    monkeypatch.delitem(_REGISTERED, "test-own")
    found = verdicts(replay(tmp_path / "page.json", two(), ROWS))
    assert (found["result 1"], found["result 2"], found["what the page says"]) == ("cannot", "verified", "cannot")
    reported(tmp_path, methods=["vanilla-gradient"], target=lambda out: out[:, 0])
    found = replay(tmp_path / "page.json", two(), ROWS)
    assert verdicts(found)["result 1"] == "cannot"
    assert "function" in str(found)
    reported(tmp_path, methods=["vanilla-gradient"], target=margin(0, 1))
    assert replay(tmp_path / "page.json", two(), ROWS).verified


def test_the_data_are_held_against_their_digest(tmp_path: Path) -> None:
    data, labels = torch.randn(30, 1, 1, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    reported(tmp_path, methods=["cart-c45-surrogate"], data=(data, labels))
    path = tmp_path / "page.json"
    assert replay(path, two(), ROWS, data=(data, labels)).verified
    assert verdicts(replay(path, two(), ROWS, data=(data, 1 - labels)))["the data"] == "differs"
    assert verdicts(replay(path, two(), ROWS))["the data"] == "cannot"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["asked"]["methods"].insert(0, {"method": "os.system", "command": "true"}),
        lambda r: r["asked"]["methods"].insert(0, {"method": {"method": "x"}}),
        lambda r: r["asked"]["methods"].insert(0, {"method": "smoothgrad", "of": {"method": "no"}}),
        lambda r: r["asked"]["methods"].insert(0, {"method": "smoothgrad", "samples": "__import__('os')"}),
        lambda r: r["asked"].update(target={"margin": ["a", "b"]}),
        lambda r: r["asked"].update(target={"unit": ["nowhere", 0, "mean"]}),
        lambda r: r["asked"].update(target=10**30),
        lambda r: r["asked"].update(labels=[1]),
        lambda r: r["asked"].update(seed=10**40),
        lambda r: r["asked"]["inputs"].update(values={"0": {"tensor": {"values": [1], "shape": [7], "type": "code"}}}),
    ],
)
def test_a_hostile_record_is_refused_or_differs_and_runs_nothing(made: Path, change: Any) -> None:
    path = edited(made, change, resealed=True)
    for given in (ROWS, None):
        assert outcome(path, given) in ("must be tensors", "not verified")


def outcome(path: Path, given: torch.Tensor | None) -> str:
    """What becomes of replaying a record that can't be verified."""
    try:
        return "verified" if replay(path, two(), given).verified else "not verified"
    except InputError as error:
        return "must be tensors" if "must be tensors" in str(error) else str(error)
