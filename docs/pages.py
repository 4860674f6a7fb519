"""Pages made from the catalogue: one per method, one per folder, the rules by operation, and the bibliography."""

from __future__ import annotations

import inspect
from pathlib import Path

import pellucid as px
from pellucid.contract import CLAIMS, NEEDS, Method, registered
from pellucid.contract.entry import KINDS


def write(root: Path) -> list[Path]:
    """Write all generated pages below `root`; unchanged files are left alone."""
    methods = dict(sorted(registered().items()))
    pages = {f"methods/{name}.md": method_page(method) for name, method in methods.items()}
    pages["methods/index.md"] = index_page(methods)
    pages["rules.md"] = rules_page()
    pages["requirements.md"] = requirements_page()
    written = []
    for name, text in pages.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        written.append(path)
    return written


def method_page(method: type[Method]) -> str:
    """Question, settings, what it claims and what it can't say, from class and card."""
    card, doc = method.card, inspect.cleandoc(method.__doc__ or "")
    claims = "\n".join(f"- **{c}**: {CLAIMS[c]}." for c in card.claims) or "None beyond the shared ones."
    lines = [
        f"# {card.title}",
        f"`{card.name}` · {card.form} · {card.scope} · needs: {'; '.join(NEEDS[n] for n in card.needs)}",
        "```text",
        doc,
        "```",
        "## What its result can support",
        *(f"- {s}." for s in card.supports),
        "## What it can't",
        *(f"- {s}." for s in card.limits),
        "## What is checked",
        claims,
        *(f"- Not checked, *{check}*: {reason}." for check, reason in card.exempt.items()),
        "## Places in the surveys' taxonomies",
        *(f"- {survey}: {path}" for survey, path in card.taxonomy.items()),
    ]
    if card.covers:
        lines += ["## Also covers", ", ".join(f"`{c}`" for c in card.covers)]
    return "\n\n".join(lines) + "\n"


def index_page(methods: dict[str, type[Method]]) -> str:
    """All methods by form."""
    lines = ["# Methods", f"{len(methods)} methods. Each answers one question.", ""]
    for form in dict.fromkeys(m.card.form for m in methods.values()):
        chosen = {n: m for n, m in methods.items() if m.card.form == form}
        lines += [f"## {form.capitalize()}", "", "| method | question | scope |", "|---|---|---|"]
        lines += [f"| [{m.card.title}]({n}.md) | {m.card.question} | {m.card.scope} |" for n, m in chosen.items()]
        lines.append("")
    return "\n".join([*lines, "```{toctree}", ":hidden:", *methods, "```", ""])


def rules_page() -> str:
    """Which rule each operation gets under each table."""
    from pellucid.engine import rules

    tables = {"guided": rules.guided(), "deconvnet": rules.deconvnet(), "epsilon": rules.epsilon_lrp()}
    names = sorted({name for table in tables.values() for name in table.rules})
    lines = [
        "# Rules by operation",
        "Backward rules belong to operations, whatever module or function spells them. Rectifiers are recognised by what",
        "they compute; what is not in this table is refused by name. `pellucid check MODEL` shows the table for a model.",
        "",
        "| operation | " + " | ".join(tables) + " |",
        "|---" * (len(tables) + 1) + "|",
    ]
    for name in names:
        cells = [table.rules[name].name if name in table.rules else "refused" for table in tables.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def requirements_page() -> str:
    """What the library does beside its methods: how each is reached, and the test that shows it."""
    lines = [
        "# Tools, demos and requirements",
        "What the library promises beside its methods. Each line names the test that shows it; `make test` runs them all.",
    ]
    for kind in KINDS:
        here = [entry for entry in px.catalogue.entries() if entry.kind == kind]
        if here:
            lines += ["", f"## {kind.capitalize()}s", "", "| what | how | shown by |", "|---|---|---|"]
            lines += [f"| **{e.title}** (`{e.name}`). {e.does} | `{e.use}` | `{e.test}` |" for e in here]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for page in write(Path(__file__).parent):
        print(page.relative_to(Path(__file__).parent))
    print(f"Pellucid {px.__version__}")
