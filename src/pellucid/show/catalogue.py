"""The catalogue as a page: three dimensions, a table that narrows to what is asked for, and the surveys' trees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pellucid import surveys
from pellucid.contract.card import FORMS, NEEDS, SCOPES, Card
from pellucid.show import pages
from pellucid.surveys import DIMENSIONS

LEVELS = (1, 4, 10, 30)  # from how many methods on a cell has the next shade
TILE, HIGHEST = 46, 120  # pixels: half of a tile's width, and the tallest column


def page(cards: Sequence[Card], title: str = "Methods that explain a network") -> str:
    """The whole page: no outside request, every text escaped, readable without its script."""
    counts = Counter(found for card in cards if (found := surveys.dimensions(card)))
    body = pages.render(
        "catalogue.html",
        title=title,
        rows=[_row(card) for card in cards],
        outside=len(cards) - sum(counts.values()),
        cube=cube(counts),
        matrices=_matrices(counts),
        scopes=DIMENSIONS["scope"],
        filters=_filters(cards),
        trees=[(survey, about, _branches(survey, cards)) for survey, about in surveys.SURVEYS.items()],
    )
    return pages.document(title, body, style="catalogue.css", script="catalogue.js")


def _row(card: Card) -> dict[str, str]:
    found = surveys.places(card)
    cell = surveys.dimensions(card)
    return {
        "anchor": f"method-{pages.slug(card.name)}",
        "name": card.name,
        "title": card.title,
        "question": card.question,
        "form": card.form,
        "scope": card.scope,
        "needs": ", ".join(card.needs),
        "data": ", ".join(card.data_types),
        "needs_list": "|".join(card.needs),
        "places_list": "|".join(f"{survey}:{path}" for survey, path in found.items()),
        "cell": "/".join(cell) if cell else "",
    }


def _filters(cards: Sequence[Card]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Name, label and choices of each; only choices that some method has."""
    used = {need for card in cards for need in card.needs}
    places = [
        (f"{survey}:{branch}", f"{survey}: {branch}")
        for survey in surveys.SURVEYS
        for branch, names in surveys.tree(survey, cards).items()
        if names
    ]
    return [
        ("form", "Gives", [(form, form) for form in FORMS if any(card.form == form for card in cards)]),
        ("scope", "Scope", [(scope, scope) for scope in SCOPES if any(card.scope == scope for card in cards)]),
        ("needs", "Needs", [(need, need) for need in NEEDS if need in used]),
        ("place", "Place in a survey", places),
    ]


def _branches(survey: str, cards: Sequence[Card]) -> list[tuple[str, list[dict[str, str]]]]:
    return [
        (branch, [{"name": name, "anchor": f"method-{pages.slug(name)}"} for name in names])
        for branch, names in surveys.tree(survey, cards).items()
    ]


def _matrices(counts: Counter[tuple[str, str, str]]) -> list[tuple[str, list[tuple[str, list[dict[str, Any]]]]]]:
    """For each engagement the explanations, the most powerful first, and their cells by scope."""

    def cell(engagement: str, explanation: str, scope: str) -> dict[str, Any]:
        count = counts[engagement, explanation, scope]
        level = sum(count >= least for least in LEVELS)
        return {"count": count, "scope": scope, "level": level, "place": f"{engagement}/{explanation}/{scope}"}

    return [
        (e, [(x, [cell(e, x, s) for s in DIMENSIONS["scope"]]) for x in reversed(DIMENSIONS["explanation"])])
        for e in DIMENSIONS["engagement"]
    ]


def cube(counts: Counter[tuple[str, str, str]]) -> Markup:
    """The three dimensions as a drawing: for each engagement a floor of explanations by scopes, with columns of methods.

    A column's height grows with the root of its count, so that one method can be seen beside sixty.
    """
    most = max(counts.values(), default=1)
    shapes = []
    for number, engagement in enumerate(DIMENSIONS["engagement"]):
        left, top = 250 + 480 * number, 160
        drawn = [_floor(left, top)]
        # From the back to the front, so that nearer columns are drawn over farther ones.
        for depth in range(len(DIMENSIONS["explanation"]) + len(DIMENSIONS["scope"]) - 1):
            for i, explanation in enumerate(reversed(DIMENSIONS["explanation"])):
                j = depth - i
                if 0 <= j < len(DIMENSIONS["scope"]):
                    count = counts[engagement, explanation, DIMENSIONS["scope"][j]]
                    drawn.append(_column(left, top, i, j, count, HIGHEST * (count / most) ** 0.5))
        drawn.append(_axes(left, top))
        drawn.append(f'<text class="part" x="{left - 20}" y="40" text-anchor="middle">{engagement}</text>')
        shapes.append(f'<g class="{engagement}">{"".join(drawn)}</g>')
    told = "; ".join(f"{count} {', '.join(place)}" for place, count in sorted(counts.items()))
    return Markup(
        '<svg viewBox="0 20 960 320" role="img" aria-labelledby="cube-title cube-text">'
        '<title id="cube-title">Methods by engagement, explanation and scope</title>'
        f'<desc id="cube-text">{told or "none"}</desc>{"".join(shapes)}</svg>'
    )


def _at(left: float, top: float, i: float, j: float) -> tuple[float, float]:
    """Where a corner of the floor is drawn: explanations run to the lower left, scopes to the lower right."""
    return left + (j - i) * TILE, top + (i + j) * TILE * 0.55


def _polygon(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polygon class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _floor(left: float, top: float) -> str:
    tiles = [(i, j) for i in range(len(DIMENSIONS["explanation"])) for j in range(len(DIMENSIONS["scope"]))]
    return "".join(
        _polygon([_at(left, top, *corner) for corner in ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))], "floor")
        for i, j in tiles
    )


def _column(left: float, top: float, i: int, j: int, count: int, height: float) -> str:
    """A box on its tile with the count on its roof; nothing where there are no methods."""
    if not count:
        return ""
    edge = 0.16
    corners = ((i + edge, j + edge), (i + edge, j + 1 - edge), (i + 1 - edge, j + 1 - edge), (i + 1 - edge, j + edge))
    back, right, front, west = (_at(left, top, *corner) for corner in corners)

    def up(point: tuple[float, float]) -> tuple[float, float]:
        return point[0], point[1] - height

    x, y = up(((west[0] + right[0]) / 2, (back[1] + front[1]) / 2))
    return (
        _polygon((west, front, up(front), up(west)), "left")
        + _polygon((front, right, up(right), up(front)), "right")
        + _polygon((up(back), up(right), up(front), up(west)), "roof")
        + f'<text x="{x:.1f}" y="{y - 18:.1f}" text-anchor="middle">{count}</text>'
    )


def _axes(left: float, top: float) -> str:
    """The names along the two edges in front, which no column covers."""
    explanations, scopes = [*reversed(DIMENSIONS["explanation"])], DIMENSIONS["scope"]
    words = []
    for i, name in enumerate(explanations):
        x, y = _at(left, top, i + 0.5, len(scopes))
        words.append(f'<text class="axis" x="{x + 8:.1f}" y="{y + 12:.1f}">{name}</text>')
    for j, name in enumerate(scopes):
        x, y = _at(left, top, len(explanations), j + 0.5)
        words.append(f'<text class="axis" x="{x - 8:.1f}" y="{y + 12:.1f}" text-anchor="end">{name}</text>')
    return "".join(words)
