"""Results as HTML: pieces for any page, and whole documents that can fetch nothing and run nothing but their own script."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pellucid.contract import Explanation
from pellucid.show import draw, engineer, hierarchy, palette
from pellucid.show.facts import title_of
from pellucid.show.options import Options
from pellucid.show.words import clean, upper

PIXELS = ("attribution", "examples", "semantics")  # forms drawn as pixels; the others are lines and text


@functools.cache
def environment() -> Environment:
    """The templates: every value is escaped, and an unknown name is an error."""
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.finalize = _finalize
    made.filters["upper_first"] = upper
    return made


def _source(name: str) -> str:
    for package in ("pellucid.show", "pellucid.report"):
        path = files(package) / "templates" / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise FileNotFoundError(name)


# Templates put foreign text on the page only through this: characters that hide or reorder text are made visible.
def _finalize(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    # A percent sign stays with its figure at the end of a line.
    return clean(value, 2000).replace(" %", "\u00a0%") if isinstance(value, str) else value


def render(name: str, **values: Any) -> Markup:
    """A template filled in."""
    return Markup(environment().get_template(name).render(**values))


def document(title: str, body: Markup, *, language: str = "en", style: str = "", script: str = "") -> str:
    """A whole page. Its content policy names its own style and script by hash: nothing else runs, nothing is fetched.

    `style` and `script` name templates of our own that come after those of every page.
    """
    style = _source("piece.css") + _source("page.css") + (_source(style) if style else "")
    script = _source("page.js") + (_source(script) if script else "")
    return str(
        render(
            "document.html",
            title=title,
            body=body,
            language=language,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def html(result: Explanation, module: Any, audience: str, wanted: Options, *, whole: bool) -> str:
    """One result: its figure, its words, and the engineer's figures."""
    if not whole:
        return str(piece(result, module, audience, wanted, style=True))
    body = section("", [piece(result, module, audience, wanted, level=2)])
    return document(title_of(result), render("plain.html", title=title_of(result), body=[body]))


def section(heading: str, parts: Sequence[Markup]) -> Markup:
    """A headed block of a page."""
    return render("section.html", heading=heading, anchor=slug(heading), parts=parts)


def piece(
    result: Explanation, module: Any, audience: str, wanted: Options, *, style: bool = False, level: int = 3
) -> Markup:
    """A result under a heading of this level: with its own `style` where no page gives one."""
    account = module.account(result, wanted)
    rows, total = engineer.table(result, module, wanted)
    return render(
        "piece.html",
        title=title_of(result),
        level=level,
        account=account,
        lines=row_lines(account.answers, account.mattered),
        image=image(result, module, replace(wanted, headed=False)),
        alt=module.alt(result, wanted),
        open=audience == "engineer",
        provenance=engineer.provenance(result),
        table=rows,
        columns=list(dict.fromkeys(name for row in rows for name in row)),
        hidden=total - len(rows),
        groups=render("hierarchy.html", trees=trees) if (trees := hierarchy.lists(result, wanted)) else Markup(""),
        style=Markup(_source("piece.css")) if style else Markup(""),
    )


def row_lines(answers: Sequence[str], mattered: Sequence[str]) -> list[str]:
    """One line of words for each row."""
    count = max(len(answers), len(mattered))
    pairs = [(answers[i] if i < len(answers) else "", mattered[i] if i < len(mattered) else "") for i in range(count)]
    return [" ".join(part for part in pair if part) for pair in pairs]


def image(result: Explanation, module: Any, wanted: Options) -> Markup:
    """The figure as a data address, which holds no character with a meaning in HTML: PNG or, for lines and text, SVG."""
    figure = module.figure(result, wanted)
    if result.form in PIXELS:
        return Markup(palette.data_uri(draw.as_png(figure)))
    return Markup(palette.data_uri(draw.as_svg(figure), "image/svg+xml"))


def slug(name: str, longest: int = 100) -> str:
    """A file or anchor name from any text: letters, digits and hyphens, with a hash where something was lost."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= longest and plain not in _RESERVED:
        return plain
    mark = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain[: longest - 9].strip('-') or 'name'}-{mark}"


_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10)), ""}
