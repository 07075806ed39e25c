"""The forms of a report: the words the verdict allows, host text as data, every state designed."""

from __future__ import annotations

import html.parser
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from cli.render import words
from cli.render.html import render_html
from cli.render.markdown import render_markdown
from cli.render.terminal import print_report
from tests.cli import samples
from wardround.models.document import to_document

SAMPLES = [samples.problem, samples.healthy, samples.degraded]


def terminal(diagnosis, width: int = 80, colour: bool = False, **how) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None)
    print_report(to_document(diagnosis), console=console, **how)
    return out.getvalue()


def likely_only():
    return replace(samples.problem(), hypotheses=(samples.DISK,), severity="warning")


def test_root_cause_is_said_only_of_a_confirmed_hypothesis():
    for render in (terminal, lambda d: render_markdown(to_document(d)), lambda d: render_html(to_document(d))):
        assert "Root cause (confirmed, 94 %)" in render(samples.problem())
        weaker = render(likely_only())
        assert "root cause" not in weaker.lower()
        assert "Most likely cause (not confirmed, 62 %)" in weaker
        assert "a failing write with ENOSPC" in weaker


def test_the_first_screen_tells_cause_culprit_onset_evidence_and_commands():
    shown = terminal(samples.problem())
    for part in (
        "api (pid 4121) is stopped", "cgroup /shop/api (pid 4121)", "cpu.throttling", "11:05:21 UTC, for 1 min 49 s",
        "$ cat /sys/fs/cgroup/shop/api/cpu.stat", "threads throttled", "Also:", "/var/lib/shop has no space left",
        "mem.leak of cached (pid 77) (12 %)", "Ruled out", "mem.thrashing", "nothing was changed", "R1", "undo:",
        "Not seen: ebpf.runqlat: not permitted to load programs → run as root", "Left out, -v says why: nvml",
        "no language model is configured",
    ):  # fmt: skip
        assert part in shown
    assert len(shown.splitlines()) <= 56


def test_lines_fit_80_columns_except_commands_which_are_never_broken():
    for make in SAMPLES:
        for line in terminal(make(), width=200).splitlines():
            assert len(line) <= 80 or line.strip().startswith("$ ")
    assert samples.LOG.reproduce in terminal(samples.problem())


def test_a_narrow_terminal_wraps():
    for line in terminal(samples.problem(), width=50).splitlines():
        assert len(line) <= 50 or line.strip().startswith("$ ")


def test_healthy_says_so_and_what_was_looked_at():
    shown = terminal(samples.healthy())
    assert "HEALTHY" in shown
    assert "No fault found." in shown
    assert "Looked at: cpu, psi, cgroup, space." in shown


def test_degraded_says_what_was_missing_and_the_next_command():
    shown = terminal(samples.degraded())
    assert "Not enough could be seen" in shown
    assert "mount /proc" in shown
    assert "diagnose doctor" in shown


def test_quiet_is_the_answer_alone():
    shown = terminal(samples.problem(), quiet=True)
    assert "api (pid 4121) is stopped" in shown
    assert "Evidence" not in shown
    assert "Looked at" not in shown


def test_verbose_leaves_no_evidence_out():
    evidence = [replace(samples.IDLE, id=f"ev_1{n}", statement=f"statement number {n}") for n in range(8)]
    cause = replace(samples.THROTTLING, supporting=tuple(each.id for each in evidence))
    diagnosis = replace(samples.problem(), hypotheses=(cause,), evidence=tuple(evidence))
    assert "4 more with -v" in terminal(diagnosis)
    assert all(each.statement in terminal(diagnosis, verbose=True) for each in evidence)
    assert "Left out: nvml: no NVIDIA driver on this host" in terminal(diagnosis, verbose=True)


def test_colour_is_an_addition_never_the_only_sign():
    plain, coloured = terminal(samples.problem()), terminal(samples.problem(), colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


@pytest.mark.parametrize("render", [terminal, lambda d: render_markdown(to_document(d))], ids=["terminal", "markdown"])
def test_host_text_cannot_steer_the_terminal(render):
    shown = render(samples.problem())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", shown)


def test_host_text_is_no_markup_in_the_terminal():
    assert "[bold]not markup[/bold]" in terminal(samples.problem())


def test_host_text_is_no_markup_in_markdown():
    shown = render_markdown(to_document(samples.problem()))
    assert r"\<script\>" in shown
    assert "\n<script" not in shown
    hostile = replace(samples.LOG, reproduce="echo ``` ````")
    shown = render_markdown(to_document(replace(samples.problem(), evidence=(hostile, samples.THROTTLED))))
    assert "`````sh\n" in shown


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.shown.append(data)


@pytest.mark.parametrize("make", SAMPLES)
def test_the_page_is_well_formed_and_loads_nothing(make):
    page = Page(render_html(to_document(make())))
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action")
            assert name != "href" or (value or "").startswith("#")
    assert "http:" not in render_html(to_document(make()))


def test_host_text_is_escaped_on_the_page():
    text = render_html(to_document(samples.problem()))
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    assert any('<script>alert("x")</script>' in shown for shown in Page(text).shown)


def test_a_hostile_name_is_escaped_in_every_drawing():
    culprit = replace(samples.THROTTLING.culprit, name='"/><script>1</script>')
    cause = replace(samples.THROTTLING, culprit=culprit, causal_chain=("</svg><script>2</script>",), explains=("<b>",))
    chart = replace(samples.problem().charts[0], title="</svg><script>3</script>", unit="<u>")
    page = Page(render_html(to_document(replace(samples.problem(), hypotheses=(cause,), charts=(chart,)))))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.open == []


def test_every_citation_on_the_page_leads_to_its_evidence():
    page = Page(render_html(to_document(samples.problem())))
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links
    assert all(link[1:] in targets for link in links)


def test_the_page_draws_the_telling_series_and_the_spread_with_text_alternatives():
    page = Page(render_html(to_document(samples.problem())))
    drawings = {attributes["class"]: attributes for tag, attributes in page.tags if tag == "svg"}
    assert drawings.keys() == {"chart", "graph"}
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings.values())


def test_a_sparkline_shows_the_peak_the_gap_and_the_shape():
    assert words.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert words.sparkline([0, None, 1]) == "▁ █"
    assert words.sparkline([0.0] * 100 + [9.0] + [0.0] * 100).count("█") == 1
    assert words.sparkline([5, 5, 5]) == words.sparkline([None]) == words.sparkline([]) == ""


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.71, "1", "71 %"),
        (1536, "By", "1.5 KiB"),
        (3 * 2**30, "By/s", "3 GiB/s"),
        (0.0021, "s", "2.1 ms"),
        (1234567, "{packet}/s", "1 234 567 packet/s"),
        (0.25, "s/s", "25 %"),
        (None, "By", "unknown"),
        (0, "By", "0 B"),
    ],
)
def test_numbers_read_with_their_unit(value, unit, text):
    assert words.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.94, "94 %"), (0.999, "> 99 %"), (0.001, "< 1 %"), (1.0, "100 %"), (0.0, "0 %")]
)
def test_a_probability_is_never_rounded_to_certainty(share, text):
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (100, "1 min 40 s"), (7500, "2 h 5 min"), (90000, "1 d 1 h")]
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


def test_evidence_of_the_page_is_numbered_from_what_the_first_hypothesis_rests_on():
    told = samples.problem()
    later = replace(told, evidence=tuple(reversed(told.evidence)))
    text = render_html(to_document(later))
    numbers = dict(re.findall(r'title="([^"]+)">\[(\d+)\]', text))
    supporting = told.hypotheses[0].supporting
    assert [numbers[each] for each in supporting] == [str(n) for n in range(1, len(supporting) + 1)]
    assert re.search(r'<li id="([^"]+)"', text)[1] == supporting[0]
