"""`pellucid methods`: the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import pellucid as px
from pellucid import surveys
from pellucid.app import results, terminal
from pellucid.contract import FORMS, NEEDS, SCOPES


def command(
    text: str | None = None,
    /,
    *,
    form: Annotated[str | None, Parameter(help=f"One of: {', '.join(FORMS)}.")] = None,
    scope: Annotated[str | None, Parameter(help=f"One of: {', '.join(SCOPES)}.")] = None,
    needs: Annotated[
        tuple[str, ...] | None,
        Parameter(consume_multiple=True, negative="", help=f"What you can give; any of: {', '.join(NEEDS)}."),
    ] = None,
    question: Annotated[str | None, Parameter(help="Your question in your words; the best fit comes first.")] = None,
    category: Annotated[str | None, Parameter(help="Part of a place in a survey's taxonomy, such as saliency.")] = None,
    cite: Annotated[bool, Parameter(negative="", help="Print the BibTeX entries instead.")] = False,
    json: Annotated[
        bool,
        Parameter(
            negative="", help="Print whole cards as JSON; without conditions, tools, demos and requirements too."
        ),
    ] = False,
    tree: Annotated[
        str | None, Parameter(help=f"Print a survey's tree instead; one of: {', '.join(surveys.SURVEYS)}.")
    ] = None,
    html: Annotated[Path | None, Parameter(help="Write a page instead, with filters and all surveys' trees.")] = None,
    force: Annotated[bool, Parameter(negative="", help="Overwrite an existing page.")] = False,
    gate: Annotated[
        bool,
        Parameter(
            negative="", help="Try every claim on these methods' cards; the exit status is 3 if one is not kept."
        ),
    ] = False,
) -> int:
    """List the methods: what each answers, gives and needs.

    Parameters
    ----------
    text
        Words that must all occur on a method's card.
    """
    found = px.catalogue.find(text, form=form, scope=scope, needs=needs, question=question, category=category)
    if gate:
        from pellucid import testing

        told = testing.gate([c.name for c in found])
        terminal.say(told.as_json() if json else told.text())
        return 0 if told.open else 3
    if html is not None:
        results.free(html, force)
        html.write_text(px.catalogue.html(found), encoding="utf-8")
        terminal.say(f"Open this page: {terminal.clean(html.resolve())}")
    elif tree is not None:
        for branch, names in px.catalogue.tree(tree, found).items():
            terminal.say(terminal.paragraphs(f"{branch}: {', '.join(names) or '–'}"))
    elif json:
        everything = not any((text, form, scope, needs, question, category))
        terminal.say(px.catalogue.as_json(None if everything else found))
    elif cite:
        known = px.catalogue.bibliography()
        terminal.say("\n\n".join(known[key] for key in sorted({c.citation for c in found}) if key in known))
    elif found:
        rows = [(c.name, c.question, c.form, c.scope, ", ".join(c.needs)) for c in found]
        terminal.say(terminal.table(("method", "question", "form", "scope", "needs"), rows, wrap=(1, 4)))
        terminal.say(f"\n{len(found)} method{'s' if len(found) != 1 else ''}")
    else:
        terminal.say("No method fits all of these conditions.")
    return 0
