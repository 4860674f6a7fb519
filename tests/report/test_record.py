"""A record holds every figure of its page, and any change to it is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.report import override, read, record, schema
from pellucid.report.schema import problem
from pellucid.show.words import number
from report.deciding import ROWS, edited, reported, two
from show.reading import Page
from show.samples import PAYLOADS

FIGURE = re.compile(r"\d[\d.,]*\d|\d")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    reported(folder, audience="engineer", responsible="A. Person", contest="Write to 1 Main Street.", keep_inputs=True)
    return folder


def page_of(folder: Path) -> str:
    return (folder / "page.html").read_text(encoding="utf-8").replace("\u00a0", " ")


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def at(value: Any, pointer: str) -> Any:
    for name in pointer.strip("/").split("/"):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def test_every_number_on_the_page_is_on_record_with_the_computation_behind_it(made: Path) -> None:
    told, page = read(made / "page.json"), page_of(made)
    page = page.replace(told["digests"]["record"], "")
    style = re.search("<style>.*?</style>", page, re.DOTALL)
    script = re.search("<script>.*?</script>", page, re.DOTALL)
    assert style
    assert script
    said = Page(page.replace(style[0], "").replace(script[0], "")).text
    known = {f for line in leaves(told["computed"]["statements"]) for f in FIGURE.findall(line)}
    seconds = {f for value in told["issued"]["seconds"] for f in FIGURE.findall(number(value))}
    shown = FIGURE.findall(said)
    assert len(shown) > 100
    assert [f for f in shown if f not in known | seconds] == []
    for pointer in told["computed"]["statements"]:
        assert at(told, pointer) is not None, pointer


def test_facts_on_the_page_are_those_on_record(made: Path) -> None:
    told, page = read(made / "page.json"), page_of(made)
    for place, result in enumerate(told["computed"]["results"]):
        lines = told["computed"]["statements"][f"/computed/results/{place}"]
        for name, fact in result["facts"].items():
            for value in fact["tensor"]["values"]:
                line = f"{name.replace('_', ' ')}: {number(value, 4)}"
                assert line in lines
        assert result["method"] in page
    answer = told["computed"]["cases"][0]["answer"]
    assert answer["shares"] == pytest.approx(torch.softmax(torch.tensor([2.0, 0.5]), 0).tolist())
    assert answer["lead"] == pytest.approx(answer["shares"][0] - answer["shares"][1])
    assert told["computed"]["outputs"]["tensor"]["values"] == pytest.approx([2.0, 0.5, 0.1, 0.5])


def test_a_record_fits_its_schema_and_says_who_answers_for_it(made: Path) -> None:
    told = read(made / "page.json")
    assert problem(told) == ""
    assert schema()["$schema"].startswith("https://json-schema.org/")
    assert record.altered(told) == []
    assert told["issued"]["responsible"] == "A. Person"
    assert told["issued"]["contest"] == "Write to 1 Main Street."
    assert told["asked"]["inputs"]["values"]["0"]["tensor"]["values"] == ROWS.double().flatten().tolist()
    page = page_of(made)
    assert told["digests"]["record"] in page
    assert "A. Person" in page
    assert "Write to 1 Main Street." in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("asked"), "/asked is missing"),
        (lambda r: r.update(more=1), "/more is not known"),
        (lambda r: r.update(version=2), "must be 1"),
        (lambda r: r["asked"].update(seed="0"), "/asked/seed must be of type integer"),
        (lambda r: r["asked"].update(seed=True), "/asked/seed must be of type integer"),
        (lambda r: r["asked"].update(audience="child"), "must be one of"),
        (lambda r: r["computed"]["results"][0].update(facts=[]), "/computed/results/0/facts must be of type object"),
        (lambda r: r["issued"].update(responsible="x" * 5000), "too long"),
        (lambda r: r["overrides"].append({}), "/overrides/0/case is missing"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(made: Path, change: Any, words: str) -> None:
    with pytest.raises(UnsafeFileError, match=re.escape(words)):
        read(edited(made, change, resealed=False))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "NaN", '{"schema": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "1" * 5000, "\x00", '"\ud800"'],
)
def test_files_that_are_no_record_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UnsafeFileError):
        read(path)
    with pytest.raises(InputError):
        read(tmp_path / "none.json")


def test_what_is_asked_and_computed_is_equal_in_every_run(made: Path, tmp_path: Path) -> None:
    _, again = reported(
        tmp_path, audience="engineer", responsible="A. Person", contest="Write to 1 Main Street.", keep_inputs=True
    )
    first = read(made / "page.json")
    assert again["digests"]["asked"] == first["digests"]["asked"]
    assert again["digests"]["computed"] == first["digests"]["computed"]
    _, other = reported(tmp_path, audience="engineer", seed=1)
    assert other["digests"]["computed"] != first["digests"]["computed"]


def test_inputs_are_kept_on_request_alone(tmp_path: Path) -> None:
    _, told = reported(tmp_path, methods=["smoothgrad"])
    assert "values" not in told["asked"]["inputs"]
    assert told["computed"]["cases"][0]["why"]["erasure"]["erased"]["tensor"].keys() == {"shape", "type", "digest"}


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["asked"].update(seed=1),
        lambda r: r["asked"]["methods"][0].update(tolerance=0.5),
        lambda r: r["computed"]["cases"][0]["answer"].update(share=0.99),
        lambda r: r["computed"]["results"][0]["facts"].clear(),
        lambda r: r["computed"]["statements"]["/computed/cases/0"].pop(),
        lambda r: r["issued"].update(responsible="Nobody"),
        lambda r: r["issued"].update(when="1999-01-01T00:00:00+00:00"),
        lambda r: r["digests"].update(record="0" * 64),
        lambda r: r["digests"].update(asked="0" * 64),
    ],
)
def test_any_change_by_hand_is_found(made: Path, change: Any) -> None:
    assert record.altered(read(edited(made, lambda r: None, resealed=False))) == []
    assert record.altered(read(edited(made, change, resealed=False)))


def test_overrides_are_added_and_sealed_to_each_other(tmp_path: Path) -> None:
    _, before = reported(tmp_path)
    path = tmp_path / "page.json"
    first = override(path, who="A. Person", decision="half", reason="it is half", when="2026-01-01T00:00:00+00:00")
    second = override(path, who="B. Other", decision="first", reason="no", case=2)
    told = read(path)
    assert record.altered(told) == []
    assert told["overrides"] == [first, second]
    assert first["previous"] == before["digests"]["record"]
    assert second["previous"] == first["digest"]
    assert {k: told[k] for k in before if k != "overrides"} == {k: before[k] for k in before if k != "overrides"}
    for change in (
        lambda r: r["overrides"].pop(0),
        lambda r: r["overrides"].reverse(),
        lambda r: r["overrides"][0].update(reason="another"),
        lambda r: r["overrides"][1].update(who="A. Person"),
        lambda r: r["overrides"].insert(1, r["overrides"][0]),
    ):
        changed = edited(tmp_path, change, resealed=False)
        assert "override" in record.altered(read(changed))[0]
        with pytest.raises(UnsafeFileError, match="untouched"):
            override(changed, who="C", decision="d", reason="e")


@pytest.mark.parametrize(
    "bad",
    [{"who": ""}, {"reason": "  "}, {"decision": 3}, {"case": 0}, {"case": 3}, {"case": True}, {"who": "x" * 5000}],
)
def test_an_override_says_who_what_and_why(bad: dict[str, Any], tmp_path: Path) -> None:
    reported(tmp_path, methods=["vanilla-gradient"])
    before = (tmp_path / "page.json").read_bytes()
    with pytest.raises(InputError):
        override(tmp_path / "page.json", **{"who": "a", "decision": "b", "reason": "c", **bad})
    assert (tmp_path / "page.json").read_bytes() == before


@pytest.mark.parametrize("payload", [*PAYLOADS, "\ud800", "=cmd()", "x" * 300])
def test_hostile_names_stay_text(payload: str, tmp_path: Path) -> None:
    page, told = reported(
        tmp_path, two(payload, "half"), methods=[payload, "vanilla-gradient"], responsible=payload, contest=payload
    )
    assert Page(page).foreign == []
    assert (tmp_path / "page.json").read_bytes().isascii()
    assert problem(told) == ""
    assert record.altered(read(tmp_path / "page.json")) == []
    override(tmp_path / "page.json", who=payload, decision=payload, reason=payload)
    assert record.altered(read(tmp_path / "page.json")) == []


def test_the_record_says_nothing_of_where_and_by_whom_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "quetzalfrog"
    for name in ("USER", "LOGNAME", "USERNAME", "HOME", "HOSTNAME", "TMPDIR"):
        monkeypatch.setenv(name, f"/home/{secret}" if name == "HOME" else secret)
    folder = tmp_path / secret
    folder.mkdir()
    reported(folder, named={"model": f"/home/{secret}/model"}, names=[f"/home/{secret}/a.npy:0", "b"])
    assert secret not in (folder / "page.json").read_text()


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("mine")
    with pytest.raises(InputError, match="must not exist"):
        reported(tmp_path, overwrite=False)
    assert not (tmp_path / "page.html").exists()
    assert (tmp_path / "page.json").read_text() == "mine"
    json.loads(json.dumps(reported(tmp_path, record=tmp_path / "page.json", overwrite=True)[1]))
