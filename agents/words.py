"""What a diagnosis says: sentences that several kinds share, and evidence whose text is safe to show."""

from __future__ import annotations

from dataclasses import replace

from wardround.models.diagnosis import Evidence
from wardround.redaction import plain

ALONE = "no language model is configured: the rule engine judged alone"
MOST_TEXT = 600


def cleaned(evidence: Evidence) -> Evidence:
    """Return evidence whose text carries no secret, no control sequence, no direction override, and has an end."""
    statement, reproduce = plain(evidence.statement), plain(evidence.reproduce)
    return replace(evidence, statement=statement[:MOST_TEXT], reproduce=reproduce[:MOST_TEXT])
