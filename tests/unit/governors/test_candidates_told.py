"""What is said of the places of many steps in a row is put in words once, and is each step's own."""

from __future__ import annotations

from ioi_dagster.governors.flow_messages import Place, PlacesFound, Tell
from ioi_dagster.governors.flow_texts import Candidates
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

HERE, THERE = Place("here", "d"), Place("there", "d")
NO = (("far", Refusal("ras.domain_class", "it may not see that", "registry")),)


def told(step: str, text: str, places: list[str], rejected: bool = False) -> Tell:
    why = [{"who": "far", "code": "ras.domain_class", "text": "it may not see that"}] if rejected else []
    return Tell(step, Chapter.CANDIDATES, text, {"places": places, "rejected": why})


def test_each_step_is_told_its_own_places_whoever_came_before() -> None:
    candidates = Candidates()
    both, one = (HERE, THERE), (HERE,)
    found = [candidates.tell(PlacesFound(*its, may_change=True)) for its in (("a", both, ()), ("b", both, ()))]
    assert found == [told(step, "may go to here, there", ["here", "there"]) for step in ("a", "b")]
    found[0].facts["places"] = []
    assert candidates.tell(PlacesFound("c", both, (), True)).facts["places"] == ["here", "there"]
    text = "may go to here; rejected: far: it may not see that [ras.domain_class]"
    assert candidates.tell(PlacesFound("d", one, NO, True)) == told("d", text, ["here"], rejected=True)
    assert candidates.tell(PlacesFound("e", one, (), True)) == told("e", "may go to here", ["here"])
    nobody = candidates.tell(PlacesFound("f", (), NO, False))
    assert nobody.text == "may go to nobody; rejected: far: it may not see that [ras.domain_class]"
