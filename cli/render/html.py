"""The report as one self-contained page: inline style, inline charts, one small script to copy a command.

The page loads nothing: its content policy forbids every source, and the one script is allowed by its hash. Host
text is escaped by the template engine, so it can neither become markup nor run.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cli.render import words
from cli.render.charts import chart_svg
from cli.render.graph import graph_svg
from wardround import __version__
from wardround.models.document import Document, Evidence, Hypothesis


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cli.render"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["plain"] = words.plain
    return environment


def _asset(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _told_first(document: Document) -> list[Evidence]:
    """All evidence, what the first hypothesis rests on first: the numbers of the page then begin at 1."""
    cited = [number for each in document.hypotheses for number in (*each.supporting, *each.contradicting)]
    return list({one.id: one for one in (*document.cited(cited), *document.evidence)}.values())


def render_html(document: Document) -> str:
    """Return the page."""
    script = _asset("report.js")
    policy = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"

    def charts(hypothesis: Hypothesis) -> list[tuple[str, str, Markup]]:
        """Return ``(title, evidence id, svg)``; `chart_svg` has escaped all host text in it."""
        own = [chart for chart in document.charts if chart.evidence in hypothesis.supporting]
        drawn = [(chart.title, chart.evidence, chart_svg(chart, document)) for chart in own]
        return [(title, evidence, Markup(svg)) for title, evidence, svg in drawn if svg]

    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            numbered=_told_first(document),
            words=words,
            charts=charts,
            graph=lambda hypothesis: Markup(graph_svg(hypothesis, document)),
            script=Markup(script),
            style=Markup(_asset("report.css")),
            script_policy=policy,
            version=__version__,
        )
    )
