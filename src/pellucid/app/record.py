"""`pellucid record`: what a decision record says, and what people decided since."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pellucid.app import terminal
from pellucid.contract.errors import InputError
from pellucid.report import record as records
from pellucid.show.words import counted, percent


def command(
    record: Annotated[Path, Parameter(help="The record that `pellucid report --record` wrote.")],
    /,
    *,
    override: Annotated[str | None, Parameter(help="Set down what was decided instead.")] = None,
    who: Annotated[str | None, Parameter(help="Who decided so.")] = None,
    reason: Annotated[str | None, Parameter(help="Why.")] = None,
    case: Annotated[int, Parameter(help="Which of the record's cases.")] = 1,
) -> int:
    """Show a decision record, or set down that a person decided otherwise: entries are only ever added.

    The exit status is 1 if the record was altered after it was written.
    """
    if override is not None:
        if who is None or reason is None:
            raise InputError("An --override needs to say who decided so and why", hint="--who NAME --reason WORDS")
        records.override(record, who=who, decision=override, reason=reason, case=case)
    elif who is not None or reason is not None:
        raise InputError("--who and --reason belong to an --override", hint="--override WORDS")
    found = records.read(record)
    problems = records.altered(found)
    terminal.say("\n".join(_lines(found, problems)))
    return 1 if problems else 0


def _lines(found: dict[str, Any], problems: list[str]) -> list[str]:
    asked, issued, cases = found["asked"], found["issued"], found["computed"]["cases"]
    clean = terminal.clean
    lines = [
        f"Decision record {clean(issued['id'])} of {clean(issued['when'])}",
        f"model: {clean(asked['model']['name'] or asked['model']['kind'])}, digest {clean(asked['model']['hash'])}",
        f"responsible: {clean(issued['responsible'] or 'nobody named')}",
        f"to contest: {clean(issued['contest'] or 'not said')}",
        f"{counted(len(found['computed']['results']), 'result')} by "
        + ", ".join(clean(r["method"]) for r in found["computed"]["results"]),
        "",
    ]
    overridden = {entry["case"]: entry for entry in found["overrides"]}
    rows = []
    for number, case in enumerate(cases, 1):
        said = case.get("answer") or {}
        share = said.get("share")
        late = overridden.get(number)
        rows.append(
            (
                number,
                said.get("name") or said.get("value") or "",
                percent(share) if isinstance(share, float) else "",
                case.get("truth") or "",
                f"overridden: {late['decision']}" if late else "",
            )
        )
    lines.append(terminal.table(("case", "answer", "share", "truth", "now"), rows, wrap=(4,)))
    if found["overrides"]:
        lines.append("")
    for entry in found["overrides"]:
        words = (entry["who"], entry["decision"], entry["reason"])
        who, decision, reason = map(clean, words)
        lines.append(f"{clean(entry['when'])}: {who} decided “{decision}” for case {entry['case']}: {reason}")
    lines += ["", "ALTERED: " + clean("; ".join(problems)) if problems else "The record is as it was written."]
    return lines
