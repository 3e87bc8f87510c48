"""Does a gateway keep to the protocol? Asked from outside, as a known peer, of any implementation.

Each rule is asked and answered over the wire; nothing of the other side's code is imported. The rules of negotiation take what
is free in one of its clusters for a moment, and give it back; by `remaining_s` and `due_s` they say that none of it is
worth a node more. Its block is called only with what the subject says. A guest comes only by the subject's invitation, and is
to be refused each time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ioi_dagster.adapters.http.conformance import calls
from ioi_dagster.adapters.http.conformance.asker import Ask, Asker, Outcome, Subject, found
from ioi_dagster.adapters.http.conformance.leases import negotiated
from ioi_dagster.adapters.http.conformance.members import GUESTS, MEMBERS
from ioi_dagster.adapters.http.conformance.messages import RULES
from ioi_dagster.adapters.http.conformance.room import WITH_ROOM, WITHOUT_ROOM, Room

__all__ = ["Ask", "Outcome", "Subject", "check"]


def check(subject: Subject) -> Iterator[Outcome]:
    """All rules, one after the other. What a gateway does beyond answering wrongly or not at all (a broken connection) ends them
    with the error of `Subject.ask`."""
    asker = Asker(subject)
    for rule, probe in (RULES | MEMBERS).items():
        yield Outcome(rule, found(lambda probe=probe: probe(asker)))
    if (yield from negotiated(asker)):
        yield from _in_a_cluster(asker)
    # Last: who takes what is no record of a member's does not know that member any more.
    if subject.guest is not None:
        for rule, its in GUESTS.items():
            yield Outcome(rule, found(lambda its=its, ask=subject.guest: its(asker, ask)))


def _in_a_cluster(asker: Asker) -> Iterator[Outcome]:
    """Where something is free."""
    for rule, its in WITH_ROOM.items():
        yield Outcome(rule, found(lambda its=its: Room(asker).hold_for(its)))
    for rule, its in (calls.REFUSED | (calls.RUN if asker.subject.call is not None else {})).items():
        yield Outcome(rule, found(lambda its=its: Room(asker).hold_for(its)))
    for rule, its in WITHOUT_ROOM.items():
        yield Outcome(rule, found(lambda its=its: Room(asker).fill_for(its)))
