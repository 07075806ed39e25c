"""The report as Markdown, to paste into a ticket. Host text is escaped, so that it cannot become markup."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from cli.render import words
from wardround.models.document import Document

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def escape(text: object) -> str:
    """Return one line of host text in which no character has a meaning in Markdown."""
    return _MARKUP.sub(r"\\\1", words.plain(str(text)))


def code(text: str) -> str:
    """Return a fenced block around `text`, its fence longer than any run of backticks inside."""
    line = words.plain(text)
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{line}\n{fence}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cli.render"),
        autoescape=False,  # Markdown, not HTML: `escape` is called on all host text
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(md=escape, code=code)
    return environment.get_template("report.md.j2")


def render_markdown(document: Document) -> str:
    """Return the whole report as Markdown."""
    return _template().render(document=document, words=words)
