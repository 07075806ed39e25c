"""The order a model may give: only among equals of the leading verdict, and never a probability."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.assemble import MARGIN, reranked
from wardround.models.diagnosis import Culprit, Hypothesis, Verdict


def _hypothesis(number: int, probability: float, verdict: Verdict = "likely") -> Hypothesis:
    return Hypothesis(f"hyp_{number}", "cpu.saturation", Culprit("process", "p", number), probability, verdict, None)


def _order(hypotheses: tuple[Hypothesis, ...]) -> list[str]:
    return [hypothesis.id for hypothesis in hypotheses]


def test_close_ones_may_swap() -> None:
    given_order = (_hypothesis(1, 0.7), _hypothesis(2, 0.6))
    assert _order(reranked(given_order, ["hyp_2", "hyp_1"])) == ["hyp_2", "hyp_1"]


def test_what_the_evidence_tells_apart_stays() -> None:
    given_order = (_hypothesis(1, 0.95), _hypothesis(2, 0.6))
    assert reranked(given_order, ["hyp_2", "hyp_1"]) == given_order


def test_a_verdict_is_not_overtaken() -> None:
    given_order = (_hypothesis(1, 0.86, "confirmed"), _hypothesis(2, 0.84))
    assert reranked(given_order, ["hyp_2", "hyp_1"]) == given_order


def test_unknown_and_missing_names_change_nothing() -> None:
    given_order = (_hypothesis(1, 0.7), _hypothesis(2, 0.6))
    assert reranked(given_order, ["hyp_9"]) == given_order


@given(st.lists(st.floats(0.01, 0.98), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_whatever_the_ranking_nothing_is_lost_and_no_margin_is_broken(chances: list[float], random: object) -> None:
    given_order = tuple(_hypothesis(n, p) for n, p in enumerate(sorted(chances, reverse=True)))
    ranking = _order(given_order)
    random.shuffle(ranking)  # type: ignore[attr-defined]
    result = reranked(given_order, ranking)
    assert sorted(result, key=lambda h: h.id) == sorted(given_order, key=lambda h: h.id)
    odds = [h.probability / (1 - h.probability) for h in result]
    assert all(odds[i] * MARGIN >= later - 1e-9 for i in range(len(odds)) for later in odds[i + 1 :])
