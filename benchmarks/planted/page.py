"""The page and the table, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.planted.claims import CLAIMS, LIMIT, figures
from benchmarks.planted.measure import STEADY

TITLES = {
    "objects": "Pictures: the object",
    "cues": "Pictures: a tag",
    "words": "Sentences",
    "attention": "Sentences: attention set by hand",
    "loans": "A table: loans",
    "columns": "A table: the circuit",
    "games": "Games",
    "seeds": "Other seeds",
    "weights": "Other weights",
}
ABOUT = {
    "objects": "The class is the outline of the largest of one to three objects; the truth is that object's mask. Network: "
    "`zoo:shapes-cnn`. Kept are pictures on which painting the object over, in the ground's colour, changes the "
    "answer, and painting all else over does not: there, the network goes by the object. Parts of its outline may"
    " still be enough for it.",
    "cues": "A coloured tag in the corner names the class; the truth is its mask, 25 of 1,024 pixels. Network: "
    "`zoo:shapes-cnn-spurious`. Kept are pictures whose twin, with another class's tag and all else equal, gets "
    "that class: the tag decides.",
    "words": "Sentences of twelve words, without padding, about several aspects of a restaurant; asked is whether the food"
    " is good. The truth is the deciding opinion and its denial. Network: `zoo:sentences-lstm`, explained at its "
    "embedding, a word's dimensions pooled. Turning the deciding opinion round turns the answer; turning all "
    "others round does not.",
    "attention": "The same sentences, read by a network with attention that is set by hand: it adds up what all words "
    "say that can be opinions, and reads no other word. The truth, these words, is that of the network itself.",
    "loans": "Eleven columns, of which a rule uses six; the truth is which of them could turn the row's decision alone, by"
    " some value that occurs. Network: `zoo:tabular-mlp`. The truth is the rule's: the network agrees with it on "
    "most rows, and goes by the other columns a little (see below), so that 1 is not to be expected.",
    "columns": "A network set by hand over eight columns, one of which saturates, two act as a pair, one is a copy and one "
    "noise, neither of which it reads. Each column's share of the score is known by formula: against zero, or, "
    "for methods that learn from data, against that data; for methods that explain all rows at once it is the "
    "mean size of the share.",
    "games": "Eight cooperative games as networks: everybody against nobody. Their Shapley values are known in closed "
    "form. The network is the game, so there is nothing to check. A method that means something else by a share "
    "than Shapley did is no worse for being far from it.",
    "seeds": "The same question with three seeds, on the loans, or on four pictures for methods of pictures. Methods that "
    "draw nothing are listed below: their cards say so, and the conformance kit checks it.",
    "weights": "The maps of four digits (`zoo:digits-cnn`), compared with those of the same network with its weights drawn "
    "anew, layer by layer from the output to the input, by two draws. Near 0 is good: the map comes from what was"
    " learnt. It is no measure of truth. Above 0.5 a map **fails**: a convention of the measure.",
}
MEANS = {
    "pointing": "pointing: the largest value lies in the truth",
    "rank": "rank: as many of the largest values as the truth has places, the share of them in it",
    "mass": "mass: the share of the values that lies in the truth",
    "roc": "ROC: how often a true place has a larger value than another",
    "precision": "precision: average precision",
    "order": "order: rank correlation of the sizes with the true ones",
    "top": "top: the share of the three largest that are found",
    "unread": "unread: what is given to the two columns that are not read (0 is right)",
    "saturated": "saturated: how much of its true part the saturated column gets (1 is right)",
    "exact": "exact: the share of the games whose values are right to a hundredth",
    "error": "error: the sum of the errors over that of the true shares (0 is right; only for methods that give shares of "
    "the score)",
    "spread": "spread: standard deviation over seeds as a share of the values (0 is steady)",
    "agreement": "agreement: Jaccard index of the three foremost (1 is steady)",
    "similarity": "similarity: rank correlation with sign",
    "size": "size: rank correlation of sizes",
    "structure": "structure: SSIM of sizes",
}
# The columns of the one table: task, figure, heading.
SHOWN = (
    ("objects", "rank", "object, rank"),
    ("cues", "rank", "tag, rank"),
    ("words", "roc", "words, ROC"),
    ("attention", "roc", "attention, ROC"),
    ("loans", "roc", "loans, ROC"),
    ("columns", "order", "circuit, order"),
    ("columns", "saturated", "saturated"),
    ("games", "exact", "games, exact"),
    ("seeds", "spread", "seeds, spread"),
    ("weights", "similarity", "weights, similarity"),
)


def page(found: Mapping[str, Any]) -> str:
    """The whole page, from what the run wrote as JSON."""
    cells, told = found["cells"], found["about"]
    names = sorted({name for task in cells.values() for name in task})
    lines = [
        "# Truth",
        "",
        f"What {len(names)} attribution methods say where it is known what they should say. Made by `python "
        "benchmarks/truth.py` from [the figures](truth.json), with the seed 0 and every method's default settings"
        " unless a table says otherwise; never edited by hand.",
        "",
        f"{told['date']}, Pellucid {told['pellucid']}, torch {told['torch']}, {told['cores']} cores: "
        f"{told['busy']:.0f} s of their time, {told['seconds']:.0f} s in all, beside other work.",
        "",
        "Figures are means over rows with half their 95 % intervals (Student's t). **chance** is written where "
        "the interval of the difference from blind guessing, row by row, holds 0; **below** where it lies below. "
        "– is a world that a method does not apply to; each world lists why. The truth is about the world. "
        "Whether the network goes by it was tried by intervention:",
        "",
        *_checks(found["checks"]),
        "",
        "A high figure says that an explanation found what this network goes by, on worlds that are simple by "
        "design. Chance over many methods and worlds is not corrected for: of hundred blind figures some five "
        "differ from chance.",
        "",
        "## All methods",
        "",
        "Seconds are of one processor core, over all worlds.",
        "",
        *_overview(cells, names),
        "",
        "## Known failures",
        "",
        *_claims(cells),
    ]
    for task in TITLES:
        if task in cells:
            lines += ["", *_world(task, cells[task])]
    return "\n".join(lines) + "\n"


def _checks(checks: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| world | intervention | found |", "|---|---|---|"]
    for task, asked in checks.items():
        for what, value in asked.items():
            text = f"{value:{'.0e' if what.startswith('largest') else '.2f'}}" if value else "0"
            lines.append(f"| {TITLES[task]} | {what} | {text} |")
    return lines


def _overview(cells: Mapping[str, Mapping[str, Any]], names: list[str]) -> list[str]:
    shown = [s for s in SHOWN if s[0] in cells]
    lines = ["| method | " + " | ".join(title for *_, title in shown) + " | s |", "|---" * (len(shown) + 2) + "|"]
    for name in names:
        row = [_figure(cells[task].get(name, {}), figure) for task, figure, _ in shown]
        seconds = sum(task.get(name, {}).get("busy", 0.0) for task in cells.values())
        lines.append(f"| `{name}` | " + " | ".join(row) + f" | {seconds:.1f} |")
    return lines


def _figure(cell: Mapping[str, Any], figure: str) -> str:
    """One figure as text."""
    one = cell.get("figures", {}).get(figure)
    if one is None:
        return "0" if STEADY in cell.get("refused", "") else "–"
    if one["mean"] is None:
        return "flat"
    text = f"{one['mean']:.2f}"
    if one.get("high") is not None:
        text += f" ± {(one['high'] - one['low']) / 2:.2f}"
    if figure == "similarity" and one["mean"] > LIMIT:
        return f"fails ({text})"
    against = one.get("against chance")
    return (
        f"chance ({text})"
        if against == "chance"
        else f"below ({text})"
        if against == "below" and _high(figure)
        else text
    )


def _high(figure: str) -> bool:
    """Whether more is better, so that less than chance is worth saying."""
    return figure != "unread"


def _claims(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    look, lines = figures(cells), []
    for claim in CLAIMS:
        if all("figures" in cells.get(task, {}).get(name, {}) for task, name in claim.needs):
            lines.append(
                f"- **{claim.title}.** {claim.told(look)}" + ("" if claim.holds(look) else " **Not reproduced.**")
            )
    return lines


def _world(task: str, cells: Mapping[str, Any]) -> list[str]:
    done = {name: cell for name, cell in cells.items() if "figures" in cell}
    kinds = list(dict.fromkeys(figure for cell in done.values() for figure in cell["figures"]))
    lines = [f"## {TITLES[task]}", "", ABOUT[task], "", "; ".join(MEANS[k] for k in kinds) + ".", ""]
    if levels := _levels(done, kinds):
        lines += [levels, ""]
    lines += ["| method | " + " | ".join(kinds) + " | s | settings |", "|---" * (len(kinds) + 3) + "|"]
    for name, cell in sorted(done.items()):
        row = " | ".join(_figure(cell, k) for k in kinds)
        settings = cell["settings"] if cell["settings"] in ("defaults", "trial") else f"`{cell['settings']}`"
        lines.append(f"| `{name}` | {row} | {cell['busy']:.2f} | {settings} |")
    reasons: dict[str, list[str]] = {}
    for name, cell in sorted(cells.items()):
        if "refused" in cell:
            reasons.setdefault(_general(cell["refused"]), []).append(name)
    if reasons:
        lines += ["", "Does not apply:", ""]
        lines += [f"- {why}: {', '.join(f'`{n}`' for n in group)}" for why, group in sorted(reasons.items())]
    return lines


def _levels(done: Mapping[str, Any], kinds: list[str]) -> str:
    """What blind guessing gets."""
    told = []
    for kind in kinds:
        found = {
            round(c["figures"][kind]["chance"], 3)
            for c in done.values()
            if c["figures"][kind].get("chance") is not None
        }
        if found:
            told.append(
                f"{kind} {min(found):.2f}" + (f" to {max(found):.2f}" if max(found) - min(found) > 0.01 else "")
            )
    return f"By chance: {', '.join(told)}." if told else ""


def _general(reason: str) -> str:
    """A refusal without the name of the method, so that equal ones come together."""
    for start, short in (
        ("needs a table", "needs a table"),
        ("needs images", "needs images"),
        ("needs one image", "needs images"),
        ("needs one picture", "needs images"),
        ("must have attention", "needs a network with attention"),
        ("no spatial layer", "needs a layer with maps"),
        ("must hold maps", "needs a layer with maps"),
        ("'layer' must be left out", "explains the input alone, and words are explained at the embedding"),
        ("'data' must hold", "learns from many rows, and a game has one"),
        ("must be graphs", "needs a graph"),
        ("must hold an LSTM", "needs a long short-term memory"),
        ("FisherVectors", "needs Fisher vectors"),
    ):
        if start in reason:
            return short
    return reason.replace("|", "\\|")
