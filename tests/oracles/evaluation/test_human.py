"""Studies: balanced plans, a page that gives nothing away, files that can't be trusted, and effects that were planted."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.contract.errors import InputError, PellucidError, UnsafeFileError
from pellucid.evaluation import Panel, Question, Stimulus, Study, scale, shown
from pellucid.evaluation.human_analysis import _effects, share
from pellucid.evaluation.human_answers import anonymous
from pellucid.evaluation.human_plan import balance, williams

WAYS = ("plain", "map", "rules")
SECRET = ("plain-condition", "map-condition")


def study(ways: tuple[str, ...] = WAYS, cases: int = 6, people: int = 12, **changes: Any) -> Study:
    asked = (
        Question(name="answer", text="What will it say?", options=("cat", "dog")),
        scale("hard", "How hard was it?", "easy", "hard", points=5),
        Question(name="remark", text="Anything else?", kind="remark"),
    )
    cells = [(c, w) for c in range(cases) for w in ways]
    made = [
        Stimulus(
            case=f"case {c}",
            condition=w,
            panels=(Panel(lines=(f"case {c}", str(j))),),
            questions=asked,
            right={"answer": c % 2},
        )
        for j, (c, w) in enumerate(cells)
    ]
    return Study(**{"title": "T", "conditions": ways, "stimuli": tuple(made), "participants": people, **changes})


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_williams_squares_balance_places_and_followers(count: int) -> None:
    square = williams(count)
    for column in square.T:
        assert len(set(np.bincount(column, minlength=count))) == 1
    follows = np.zeros((count, count), int)
    for row in square:
        assert sorted(row) == list(range(count))
        np.add.at(follows, (row[:-1], row[1:]), 1)
    assert len(set(follows[~np.eye(count, dtype=bool)])) == 1


@pytest.mark.parametrize("design", ["within", "crossed"])
@pytest.mark.parametrize("ways", [("a", "b"), WAYS, ("a", "b", "c", "d")])
def test_whole_blocks_are_balanced_exactly(design: str, ways: tuple[str, ...]) -> None:
    made = study(ways, people=2 * len(williams(len(ways))), design=design, seed=3)
    count = np.zeros((len(ways), 6), int)
    for own in made.plan():
        met = [made.stimuli[s.stimulus] for s in own]
        assert len(met) == len({s.stimulus for s in own}) == 6 * (len(ways) if design == "crossed" else 1)
        for s in met:
            count[ways.index(s.condition), int(s.case[-1])] += 1
    assert len(set(count.flatten())) == 1
    assert all(test["chi2"] == 0 and test["p"] == 1 for test in made.balance().values())


def test_between_people_each_meets_one_condition_and_every_case() -> None:
    made = study(people=12, design="between")
    ways = [{made.stimuli[s.stimulus].condition for s in own} for own in made.plan()]
    assert all(len(w) == 1 for w in ways)
    assert sorted(w.pop() for w in ways) == sorted(WAYS * 4)
    assert all(len({made.stimuli[s.stimulus].case for s in own}) == 6 for own in made.plan())


def test_the_balance_test_finds_an_allotment_that_is_none() -> None:
    lopsided = [(f"case {i % 6}", WAYS[0] if i % 6 < 3 else WAYS[1], (i % 10) / 10) for i in range(120)]
    assert balance(lopsided, WAYS)["conditions × cases"]["p"] < 1e-3
    early = [(f"case {i % 6}", WAYS[i // 60], 0.1 if i < 60 else 0.9) for i in range(120)]
    assert balance(early, WAYS)["conditions × thirds"]["p"] < 1e-3


def test_plans_come_from_the_seed_alone() -> None:
    assert study(seed=1).plan() == study(seed=1).plan() != study(seed=2).plan()
    assert study(people=12).plan()[:6] == study(people=6).plan()


class _Page(HTMLParser):
    """Tags, their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


HOSTILE = "</script><img src=x onerror=alert(1)><!-- \u202egnp.exe \x1b[31m"


def test_hostile_text_stays_text_on_the_page(tmp_path: Path) -> None:
    made = study(("a", "b"), cases=1, people=2)
    bad = tuple(
        replace(
            s,
            panels=(Panel(heading=HOSTILE, lines=(HOSTILE,), alt=HOSTILE),),
            questions=(Question(name="answer", text=HOSTILE, options=(HOSTILE, "b")),),
        )
        for s in made.stimuli
    )
    made = replace(made, title=HOSTILE, intro=(HOSTILE,), warnings=(HOSTILE,), stimuli=bad)
    page = made.export(tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    found = _Page(text)
    assert [t for t, _ in found.tags].count("script") == 2
    assert "img" not in {t for t, _ in found.tags}
    assert not any(k.startswith("on") for _, own in found.tags for k in own)
    assert "\u202e" not in text
    assert "\x1b" not in text
    body = json.loads(found.scripts[0])
    assert body["title"].startswith("</script><img")  # it is there, as text
    assert Study.load(tmp_path / "out" / "sealed-key.json", page) == made


def test_the_page_fetches_nothing_and_gives_nothing_away(tmp_path: Path) -> None:
    made = study(SECRET, cases=4, people=4)
    text = made.export(tmp_path / "out").read_text(encoding="utf-8")
    assert not any(secret in text for secret in (*SECRET, '"right"', '"condition"', '"names"'))
    assert not re.findall(r"https?://|//[a-z]+\.", re.sub(r"data:[^\"]*", "", text))
    policy = next(own["content"] for t, own in _Page(text).tags if t == "meta" and "http-equiv" in own)
    assert "default-src 'none'" in (policy or "")
    assert "unsafe" not in (policy or "")
    codes = [code for own in made.public()["plan"] for code, _ in own]
    assert set(codes) == {f"s{i:04d}" for i in range(1, 9)}
    assert list(made.codes()) != sorted(made.codes())


def test_pictures_of_results_name_no_method_and_no_answer(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    subject = px.Subject(net, classes=("cat", "dog", "cow"))
    result = px.explain(subject, torch.rand(2, 1, 8, 8), "gradient-x-input")
    one, other = shown(result, 0), shown(result, 1)
    assert one.image.startswith("data:image/png;base64,")
    assert one.image != other.image
    renamed = result.replace(source={**result.source, "method": "integrated-gradients"})
    renamed = renamed.replace(target=(result.target + 1) % 3)
    assert shown(renamed, 0).image == one.image
    assert shown(renamed, 0, answer=True).image != one.image
    with pytest.raises(InputError, match="row"):
        shown(result, 2)


def test_a_key_that_was_changed_is_found_out(tmp_path: Path) -> None:
    page = study().export(tmp_path / "out")
    key = tmp_path / "out" / "sealed-key.json"
    assert Study.load(key, page) == study()
    changed = json.loads(key.read_text())
    changed["description"]["stimuli"][0]["right"]["answer"] = 1
    key.write_text(json.dumps(changed))
    assert Study.load(key) != study()  # right answers are not on the page, so its mark is the same
    with pytest.raises(UnsafeFileError, match="hash"):
        Study.load(key, page)
    changed["description"]["title"] = "Another"
    key.write_text(json.dumps(changed))
    with pytest.raises(UnsafeFileError):
        Study.load(key)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"description": {"stimuli": [1]}}', "[" * 20000])
def test_a_key_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(UnsafeFileError):
        Study.load(tmp_path / "k.json")


def file(made: Study, number: int = 1, **changes: Any) -> dict[str, Any]:
    """What the page would save."""
    codes, given = made.codes(), {"answer": 1, "hard": 3}
    rows = [
        {"stimulus": codes[s.stimulus], "position": i, "seconds": 2.5, "given": dict(given)}
        for i, s in enumerate(made.plan()[number - 1])
    ]
    body = {"format": "pellucid-answers", "version": 1, "study": made.mark, "participant": number, "answers": rows}
    return {**body, **changes}


def save(folder: Path, name: str, body: Any) -> Path:
    path = folder / name
    path.write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    return path


def test_files_come_back_as_they_were_saved(tmp_path: Path) -> None:
    made = study()
    for number in (1, 2, 7):
        save(tmp_path, f"{number}.json", file(made, number))
    found = made.read(tmp_path)
    assert found.participants == (1, 2, 7)
    assert len(found.answers) == 18
    for a in found.answers:
        assert a.stimulus == made.plan()[a.participant - 1][a.position].stimulus
        assert a.given == {"answer": 1, "hard": 3}
    part = file(made, 3)
    part["answers"] = part["answers"][:2]
    assert len(made.read(save(tmp_path, "part.json", part)).answers) == 2


def _broken(made: Study) -> dict[str, Any]:
    def first(**changes: Any) -> dict[str, Any]:
        body = file(made)
        body["answers"][0] = {**body["answers"][0], **changes}
        return body

    swapped, twice = file(made), file(made)
    swapped["answers"][0]["stimulus"] = swapped["answers"][1]["stimulus"]
    twice["answers"][1] = twice["answers"][0]
    return {
        "not JSON": "answers",
        "a list": [],
        "deep": "[" * 100000,
        "a field too many": file(made, email="me@x.org"),
        "another study": file(made, study="0" * 32),
        "a newer version": file(made, version=2),
        "no such participant": file(made, participant=13),
        "participant 0": file(made, participant=0),
        "a participant by name": file(made, participant="Ann"),
        "true": file(made, participant=True),
        "answers that are none": file(made, answers={"0": 1}),
        "too many": file(made, answers=file(made)["answers"] * 2),
        "another screen": swapped,
        "one screen twice": twice,
        "no time": first(seconds=0),
        "negative time": first(seconds=-1),
        "endless": json.dumps(file(made)).replace("2.5", "1e999", 1),
        "not a number": json.dumps(file(made)).replace("2.5", "NaN", 1),
        "a place too far": first(position=6),
        "an option too far": first(given={"answer": 2, "hard": 3}),
        "a scale from 0": first(given={"answer": 0, "hard": 0}),
        "text": first(given={"answer": "=1+1", "hard": 3}),
        "no answer": first(given={"hard": 3}),
        "another question": first(given={"answer": 1, "hard": 3, "name": 1}),
        "a remark that is none": first(given={"answer": 1, "hard": 3, "remark": 1}),
        "a long remark": first(given={"answer": 1, "hard": 3, "remark": "x" * 5000}),
        "a field twice": json.dumps(file(made)).replace('"version": 1', '"version": 1, "version": 1'),
        "a huge figure": json.dumps(file(made)).replace('"participant": 1', '"participant": ' + "9" * 5000),
        "too large": json.dumps(file(made)) + " " * (1 << 20),
    }


@pytest.mark.parametrize("kind", _broken(study()))
def test_files_the_page_did_not_write_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    made = study()
    path = save(tmp_path, "a\x1b[2J.json", _broken(made)[kind])
    with pytest.raises(UnsafeFileError, match="answers in") as error:
        made.read(path)
    assert "\x1b" not in str(error.value)


def test_two_files_of_one_participant_are_refused(tmp_path: Path) -> None:
    made = study()
    with pytest.raises(InputError, match="different participants"):
        made.read([save(tmp_path, "a.json", file(made)), save(tmp_path, "b.json", file(made))])


def test_remarks_are_left_out_or_made_anonymous(tmp_path: Path) -> None:
    made, body = study(), file(study())
    body["answers"][0]["given"]["remark"] = "I am ann@x.org, 12.3.1970,\x1b[31m +44 20 7946 0000 https://x.org/a see"
    path = save(tmp_path, "a.json", body)
    assert "remark" not in made.read(path).answers[0].given
    kept = made.read(path, remarks=True).answers[0].given["remark"]
    assert kept == "I am […] […],\\x1b[31m […] […] see"
    assert anonymous("one 2 three 34") == "one 2 three 34"


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    made = study(("=cmd|' /C calc'!A0", "@SUM(1)"), people=2)
    body = file(made)
    body["answers"][0]["given"]["remark"] = '=HYPERLINK("x"),\n+1'
    found = made.read(save(tmp_path, "a.json", body), remarks=True).csv(made)
    rows = list(csv.DictReader(io.StringIO(found)))
    assert not any(v.lstrip()[:1] in "=+-@" for row in rows for v in row.values() if v)
    assert {row["question"] for row in rows} == {"answer", "hard", "remark"}
    assert [row["right"] for row in rows if row["question"] == "answer"].count("1") == 3


def person(share: dict[str, float], *, slow: dict[str, float] | None = None) -> Any:
    """Someone who is right so often under each condition, and so many times slower."""

    def answer(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, Any], float]:
        right = draw.random() < share[s.condition]
        given = {"answer": s.right["answer"] if right else 1 - s.right["answer"], "hard": int(draw.integers(1, 6))}
        return given, float(np.exp(draw.normal(1, 0.4))) * (slow or {}).get(s.condition, 1.0)

    return answer


def test_planted_accuracy_and_time_are_recovered() -> None:
    made = study(cases=24, people=60)
    truth = {"plain": 0.6, "map": 0.8, "rules": 0.7}
    found = made.analyse(made.rehearse(person(truth, slow={"rules": 2.0})))
    assert found.values.tolist() == pytest.approx(list(truth.values()), abs=0.05)
    assert found.unit == "share right"
    assert bool((found.facts["low"] < found.values).all() and (found.values < found.facts["high"]).all())
    for name in ("effect", "mixed"):
        assert found.parts[name][1:].tolist() == pytest.approx([0.2, 0.1], abs=0.07)
        assert math.isnan(found.parts[name][0])
        assert float(found.parts[f"{name}_low"][1]) > 0
    assert found.parts["time_ratio"][1:].tolist() == pytest.approx([1, 2], rel=0.08)
    assert found.source["study"]["simulated"]
    assert found.source["study"]["balance"]["conditions × cases"]["p"] == 1


def test_shares_are_those_of_the_table() -> None:
    """Counted one by one from the answers."""
    made = study(people=6)
    answers = made.rehearse(person(dict.fromkeys(WAYS, 0.6)), participants=[1, 2, 5])
    found = made.analyse(answers)
    rows = list(csv.DictReader(io.StringIO(answers.csv(made))))
    for i, way in enumerate(WAYS):
        own = [int(r["right"]) for r in rows if r["condition"] == way and r["question"] == "answer"]
        assert float(found.values[i]) == pytest.approx(sum(own) / len(own))
        assert int(found.facts["answers"][i]) == len(own)
        times = [float(r["seconds"]) for r in rows if r["condition"] == way and r["question"] == "answer"]
        by = {r["participant"] for r in rows}
        assert len(by) == 3
        assert float(found.facts["seconds"][i]) == pytest.approx(math.exp(np.log(times).mean()), rel=1e-3)
    ratings = made.analyse(answers, "hard")
    assert ratings.unit == "mean rating"
    assert 1 <= float(ratings.values.min()) <= float(ratings.values.max()) <= 5


@pytest.mark.parametrize("design", ["within", "between"])
def test_intervals_cover_the_truth_at_the_nominal_rate(design: str) -> None:
    """At the nominal rate, of shares, of effects and of time, for people who differ."""
    made = study(("a", "b"), cases=8, people=24, design=design)
    met = made.plan()
    hits = {"share": 0, "effect": 0, "mixed": 0, "time": 0}
    draw = np.random.default_rng(8)
    people = np.repeat(np.arange(24), 8)
    ways = np.array([made.conditions.index(made.stimuli[s.stimulus].condition) for own in met for s in own])
    cases = np.array([int(made.stimuli[s.stimulus].case[-1]) for own in met for s in own])
    for _ in range(250):
        level = np.clip(0.55 + 0.15 * draw.normal(size=24), 0.05, 0.75)
        figures = (draw.random(192) < level[people] + 0.2 * ways).astype(float)
        seconds = np.exp(draw.normal(size=24)[people] + 0.3 * ways + draw.normal(size=192))
        own = share(figures[ways == 0], people[ways == 0])
        hits["share"] += own.low <= LEVEL <= own.high
        parts = _effects(made, (people, ways, cases, figures, seconds))
        for name, part, truth in (
            ("effect", "effect", 0.2),
            ("mixed", "mixed", 0.2),
            ("time", "time_ratio", math.exp(0.3)),
        ):
            hits[name] += float(parts[f"{part}_low"][1]) <= truth <= float(parts[f"{part}_high"][1])
    assert all(0.915 <= count / 250 <= 0.985 for count in hits.values()), hits


LEVEL = float(np.clip(0.55 + 0.15 * np.random.default_rng(0).normal(size=400000), 0.05, 0.75).mean())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"design": "random"}, "design"),
        ({"participants": 0}, "participants"),
        ({"conditions": ("plain", "map")}, "stimuli"),
        ({"conditions": ("plain", "plain", "map")}, "conditions"),
        ({"stimuli": ()}, "stimuli"),
    ],
)
def test_a_study_that_is_not_whole_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PellucidError, match=said):
        replace(study(), **changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"questions": ()},
        {"questions": (Question(name="Name", text="?", options=("a", "b")),), "right": {}},
        {"questions": (Question(name="__proto__", text="?", options=("a", "b")),), "right": {}},
        {"questions": (Question(name="answer", text="?", options=("a",)),)},
        {"questions": (Question(name="answer", text="?", kind="side"),)},
        {"questions": (Question(name="answer", text="?", options=("a", "b"), kind="guess"),)},
        {"right": {"answer": 2}},
        {"right": {"other": 0}},
        {"panels": (Panel(image="https://x.org/a.png"),)},
        {"sides": (Panel(),), "names": ("a",)},
    ],
)
def test_a_stimulus_that_is_not_whole_is_refused(changes: dict[str, Any]) -> None:
    made = study()
    with pytest.raises(InputError, match="case 0"):
        replace(made, stimuli=(replace(made.stimuli[0], **changes), *made.stimuli[1:])).check()


def test_answers_to_another_study_or_question_are_refused() -> None:
    made = study()
    answers = made.rehearse(person(dict.fromkeys(WAYS, 0.6)))
    with pytest.raises(InputError, match="this study"):
        replace(made, title="Another").analyse(answers)
    with pytest.raises(InputError, match="question"):
        made.analyse(answers, "remark")
    with pytest.raises(InputError, match="question"):
        made.analyse(answers, "unheard of")
    with pytest.raises(InputError, match="person"):
        made.rehearse(lambda *_: ({"answer": 9, "hard": 1}, 1.0))


def test_an_existing_study_is_not_overwritten(tmp_path: Path) -> None:
    study().export(tmp_path / "out")
    with pytest.raises(InputError, match="exist"):
        study().export(tmp_path / "out")
    study().export(tmp_path / "out", overwrite=True)


def test_what_it_finds_can_be_shown_described_and_saved(tmp_path: Path) -> None:
    made = study()
    found = made.analyse(made.rehearse(person(dict.fromkeys(WAYS, 0.6))))
    assert found.show() is not None
    assert "% right, with 95 % confidence" in found.describe()
    assert px.load(found.save(tmp_path / "m.safetensors")).source["study"]["people"] == 12


def test_few_answers_tell_what_they_can() -> None:
    """One person; a condition that nobody met; answers that are all right: figures where there are some, NaN elsewhere."""
    made = study(people=12, design="between")
    alone = made.analyse(made.rehearse(person(dict.fromkeys(WAYS, 0.6)), participants=[1]))
    met = {made.stimuli[s.stimulus].condition for s in made.plan()[0]}
    assert alone.values.isfinite().tolist() == [way in met for way in WAYS]
    assert bool(alone.parts["effect_low"].isnan().all())
    assert alone.describe()
    perfect = study(people=6)
    found = perfect.analyse(perfect.rehearse(person(dict.fromkeys(WAYS, 1.1))))
    assert found.values.tolist() == [1, 1, 1]
    assert bool((found.facts["low"] < 1).all())  # twelve right answers do not prove that nobody ever errs
    assert found.facts["high"].tolist() == [1, 1, 1]
    one = replace(study(("only",)), participants=3)
    assert one.analyse(one.rehearse(person({"only": 0.6}))).parts.keys() == {"agreement"}
