"""The report for a terminal: the cause, the proof, what was ruled out, what could be done, what was not seen.

At most 80 columns unless the terminal is narrower; commands are never broken, so that they can be copied. Host text
is printed as data: no markup, no control characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from cli.render import words
from wardround.models.document import Document, Evidence, Hypothesis

WIDTH = 80
_COLOURS = {"critical": "bold red", "warning": "bold yellow", "info": "bold cyan", "none": "bold green"}


def print_report(
    document: Document,
    *,
    verbose: bool = False,
    quiet: bool = False,
    no_color: bool = False,
    console: Console | None = None,
) -> None:
    """Print the report to standard output (or `console`): `quiet` the headline alone, `verbose` everything."""
    out = console or Console(highlight=False, color_system=None if no_color else "auto")
    out.width = min(WIDTH, out.width)
    Report(document, out, verbose).show(quiet)


class Report:
    """One printing of one document."""

    def __init__(self, document: Document, console: Console, verbose: bool) -> None:
        self.document = document
        self.console = console
        self.evidence_lines = 99 if verbose else 4
        self.most = 99 if verbose else 4
        self.verbose = verbose
        self.charts = {chart.evidence: chart for chart in reversed(document.charts)}

    def show(self, quiet: bool) -> None:
        faults = words.present(self.document)
        self._title()
        if not faults:
            self._nothing_found()
        for number, fault in enumerate(faults):
            self._fault(fault, words.heading(fault), first=number == 0, quiet=quiet)
        for number, fault in enumerate(words.last_crash(self.document)):
            title = words.whose_crash(fault, self.document) + words.heading(fault).lower()
            self._fault(fault, title, first=number == 0 and not faults, quiet=quiet)
        if quiet:
            return
        self._crash()
        self._considered()
        self._ruled_out()
        self._actions()
        self._explanation()
        self._coverage()

    def _title(self) -> None:
        document = self.document
        state = document.severity.upper() if document.status == "problem" else words.TITLES[document.status].upper()
        left = f"{words.plain(document.host)} · {words.subject(document)}"
        style = _COLOURS["warning" if document.status in ("degraded", "error") else document.severity]
        title = Text(left[: self.console.width - len(state) - 2], "dim")
        title.append(" " * max(2, self.console.width - len(title) - len(state)))
        title.append(state, style)
        self.console.print(title)
        if document.about == "crash" and document.crash is not None:
            self._text(words.kernel(document.crash), 0, "dim")

    def _nothing_found(self) -> None:
        self._heading(words.nothing_found(self.document))
        self._text(words.plain(self.document.summary), 2)
        if self.document.status == "degraded":
            self._text("Next: `diagnose doctor` says what would improve it; as root more can be seen.", 2)

    def _fault(self, fault: Hypothesis, title: str, *, first: bool, quiet: bool) -> None:
        self._heading(title if first or fault.ended is not None else f"Also: {title.lower()}")
        self._text(words.sentence(fault, self.document), 2, "bold")
        self._pair("culprit", f"{words.culprit(fault)}   fault {fault.fault}")
        self._pair("since", words.since(fault, self.document))
        if quiet:
            return
        if fault.causal_chain:
            self._pair("chain", " → ".join(words.plain(step) for step in fault.causal_chain))
        if fault.explains:
            self._pair("explains", _some(fault.explains, 6 if self.verbose else 3))
        if first:
            self._heading("Evidence")
        self._evidence(fault, self.evidence_lines if first else min(2, self.evidence_lines))
        for step in fault.would_confirm[: self.most]:
            self._pair("confirm by", words.plain(step))
        against = self.document.cited(fault.contradicting)
        for evidence in against[: self.most]:
            self._pair("against", words.plain(evidence.statement))

    def _evidence(self, fault: Hypothesis, limit: int) -> None:
        cited = words.telling(fault, self.document)
        for number, evidence in enumerate(cited[:limit], 1):
            self._finding(number, evidence)
        if len(cited) > limit:
            self._text(f"{len(cited) - limit} more with -v", 4, "dim")

    def _finding(self, number: int, evidence: Evidence) -> None:
        self._text(f"{number} {words.plain(evidence.statement)}", 2, hang=2)
        chart = self.charts.get(evidence.id)
        if chart is not None and (shape := words.sparkline(chart.values)):
            seen = [value for value in chart.values if value is not None]
            span = f"{words.quantity(min(seen), chart.unit)} to {words.quantity(max(seen), chart.unit)}"
            line = Text("    ").append(shape, "cyan").append(f"  {span}", "dim")
            self.console.print(line, no_wrap=True, overflow="ellipsis")
        self.console.print(Text("    $ ", "dim").append(words.plain(evidence.reproduce), "green"), soft_wrap=True)

    def _crash(self) -> None:
        """The crash's telling frames and who waited for whom, as they were read."""
        crash = self.document.crash
        if crash is None or not (crash.stacks or crash.waits or crash.message):
            return
        if self.document.about == "host":
            self._heading(f"The crash: {words.ended(crash)}")
            self._text(words.kernel(crash), 2, "dim")
        else:
            self._heading("The crash")
        if crash.message:
            self._pair("last words", words.plain(crash.message))
        for line in crash.waits[: self.most]:
            self._pair("lock", words.plain(line))
        for stack in crash.stacks[: self.most]:
            self._pair("stack", words.plain(stack.task))
            for frame in stack.frames[: 2 * self.most]:
                self._text(words.plain(frame), 13)

    def _considered(self) -> None:
        possible = words.considered(self.document)
        if possible:
            listed = [f"{h.fault} of {words.culprit(h)} ({words.percent(h.probability)})" for h in possible]
            self._heading("Considered, not believed")
            self._text(_some(listed, self.most, "; "), 2)

    def _ruled_out(self) -> None:
        if not self.document.ruled_out:
            return
        self._heading("Ruled out")
        for excluded in self.document.ruled_out[: self.most]:
            whose = f" of {words.plain(excluded.culprit)}" if excluded.culprit and self.verbose else ""
            because = words.because(excluded.because[: 9 if self.verbose else 1], self.document)
            self._text(f"{excluded.fault}{whose}: {because}", 2, hang=2)

    def _actions(self) -> None:
        if not self.document.actions:
            return
        self._heading("What could be done (nothing was changed)")
        for action in self.document.actions[: 9 if self.verbose else 3]:
            self._text(f"{words.plain(action.preview)}", 2, "bold", hang=2)
            detail = f"{action.risk} {words.RISKS[action.risk]}; affects {words.plain(action.blast_radius)}"
            self._text(f"{detail}; undo: {words.plain(action.rollback)}", 4, "dim")

    def _explanation(self) -> None:
        if self.document.explanation:
            self._heading("Explained by the model, each sentence checked against evidence")
            for line in self.document.explanation:
                self._text(words.plain(line), 2)
        verification = self.document.verification
        if verification.status == "contested":
            votes = ", ".join(f"{v.by}: {v.fault} ({words.percent(v.probability)})" for v in verification.votes)
            self._heading("Contested")
            self._text(votes, 2)

    def _coverage(self) -> None:
        coverage = self.document.coverage
        limited = [each for each in coverage.skipped if each.enable]
        others = [each for each in coverage.skipped if not each.enable]
        ran = _some([words.short_name(name) for name in coverage.ran], 99 if self.verbose else 8)
        looked = f"Looked at: {ran or 'nothing'}."
        self.console.print()
        self._text(looked, 0, "dim")
        for each in limited[: self.most]:
            name = words.short_name(each.name)
            self._text(
                f"Not seen: {name}: {words.plain(each.reason)} → {words.plain(each.enable or '')}", 0, "yellow", 2
            )
        if len(limited) > self.most:
            self._text(f"and {len(limited) - self.most} more not seen; -v or `diagnose doctor` lists them", 2, "dim")
        if others and self.verbose:
            for each in others:
                self._text(f"Left out: {words.short_name(each.name)}: {words.plain(each.reason)}", 0, "dim", 2)
        elif others:
            names = _some([words.short_name(each.name) for each in others], 8)
            self._text(f"Left out, -v says why: {names}.", 0, "dim", 2)
        if self.document.verification.note:
            self._text(words.plain(self.document.verification.note), 0, "dim")
        usage = self.document.usage
        tokens = f", {usage.input_tokens + usage.output_tokens} tokens" if usage.model_calls else ""
        self._text(f"{self.document.run_id} · {usage.seconds:.1f} s, {usage.tool_calls} tool calls{tokens}", 0, "dim")

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, "bold underline"))

    def _pair(self, label: str, text: str) -> None:
        self._text(f"{label:<10} {text}", 2, hang=11)

    def _text(self, text: str, indent: int, style: str = "", hang: int = 0) -> None:
        """Print wrapped text; lines after the first are `hang` columns further in."""
        first, rest = " " * indent, " " * (indent + hang)
        for line in wrap(
            text,
            self.console.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        ):
            self.console.print(Text(line, style), soft_wrap=True)


def _some(parts: Iterable[str], most: int, joint: str = ", ") -> str:
    listed = [words.plain(part) for part in parts]
    more = f"{joint}and {len(listed) - most} more" if len(listed) > most else ""
    return joint.join(listed[:most]) + more
