"""A gateway's members: what its book keeps, and who may join."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.http.membership import Members
from ioi_dagster.adapters.http.protocol import JoinAnswer
from ioi_dagster.cli import app
from ioi_dagster.clock import ManualClock
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.errors import SignatureError
from ioi_dagster.governors import network
from ioi_dagster.governors.network import Heard, Keep, PeerState, ProbeAnswered, Pull
from ioi_dagster.local.member_book import FolderBook, introduce, know_all, put_out
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.member import Invited, MemberRecord
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.signing import SigningKey
from tests.members import Author, author
from tests.realms import introduce as known_to_all
from tests.realms import owned, realm

LATER = time.time() + 3_600


@pytest.fixture
def lab(tmp_path: Path) -> DomainHome:
    one = realm(tmp_path, "lab")
    known_to_all(one)
    one.home.save_config(DomainConfig("n", "lab", one.spec, "", (), {}, "", (), {}, {}))
    return one.home


def invited(changes: dict[str, Any]) -> Invited:
    return replace(Invited("a1", DataClass.INTERNAL, LATER), **changes)


def guest(home: DomainHome, **changes: object) -> tuple[Members, FolderBook]:
    book = FolderBook(home)
    book.put_invited(invited(changes))
    return Members("lab", book, None, ManualClock()), book


def test_a_guest_becomes_a_member_and_may_be_given_what_the_invitation_says(lab):
    members, book = guest(lab)
    answer = members.join("invitation-a1", author("cloud").signed(), time.time())
    assert answer == JoinAnswer(book.records()["lab"], DataClass.INTERNAL)
    config = lab.config()
    assert (config.peers, config.authorities) == ({"cloud": "https://cloud:1"}, {"cloud": "cloud-authority"})
    assert config.limits == {"cloud": DataClass.INTERNAL}
    assert lab.trusted().verify(author("cloud").key.sign({"a": 1})) == "cloud"
    assert members.join("invitation-a1", author("cloud").signed(), time.time()) == answer, "its answer may be lost"


@pytest.mark.parametrize(
    ("shown", "changes", "text"),
    [
        ("invitation-b2", {}, "the invitation has expired, or is not one of ours any more"),
        ("invitation-../../x", {}, "the invitation has expired, or is not one of ours any more"),
        ("invitation-a1", {"expires": 5.0}, "the invitation has expired, or is not one of ours any more"),
        ("invitation-a1", {"domain": "library"}, "the invitation is for library, not for cloud"),
        ("invitation-a1", {"used_by": "library"}, "the invitation is for library, not for cloud"),
    ],
)
def test_nobody_else_joins(lab, shown, changes, text):
    members, book = guest(lab, **changes)
    answer = members.join(shown, author("cloud").signed(), time.time())
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.text) == ("member.not_invited", text)
    assert set(book.read()) == {"lab"}


def thief(of: str) -> Author:
    """Who writes that name into a record and signs it by a key of its own."""
    return replace(author(of), key=SigningKey.generate(of))


@pytest.mark.parametrize("changes", [{}, {"used_by": "cloud"}, {"used_by": "cloud", "domain": "cloud"}])
def test_who_is_a_member_already_is_not_replaced_by_whoever_has_an_invitation(lab, changes):
    members, book = guest(lab, **changes)
    book.keep(Keep(author("cloud").signed(), author("cloud").record()))
    members = Members("lab", book, None, ManualClock())
    answer = members.join("invitation-a1", thief("cloud").signed(2), time.time())
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.by) == ("member.signature", "lab")
    assert answer.remedy == "it is a member already; its owner asks for `ioi domain invite --to cloud`"
    assert book.read()["cloud"] == author("cloud").record()
    assert book.invited("invitation-a1") == invited(changes), "the invitation is as it was"


@pytest.mark.parametrize("changes", [{}, {"used_by": "cloud"}])
def test_a_member_tells_a_newer_record_by_any_invitation_and_is_given_no_more_by_it(lab, changes):
    members, book = guest(lab, **changes)
    book.keep(Keep(author("cloud").signed(2), author("cloud").record(2)))
    members = Members("lab", book, None, ManualClock())
    older = members.join("invitation-a1", author("cloud").signed(1), time.time())
    assert isinstance(older, Refusal)
    assert older.text == "lab knows record 2 of cloud, and record 1 came"
    newer = members.join("invitation-a1", author("cloud").signed(3, gateway="https://moved:1"), time.time())
    assert newer == JoinAnswer(book.records()["lab"], DataClass.PUBLIC)
    assert (book.read()["cloud"].serial, lab.config().peers) == (3, {"cloud": "https://moved:1"})
    assert lab.config().limits == {"cloud": DataClass.PUBLIC}


def test_a_member_whose_keys_are_lost_comes_back_by_an_invitation_made_for_it_once(lab):
    members, book = guest(lab, domain="cloud")
    book.keep(Keep(author("cloud").signed(5), author("cloud").record(5)))
    members = Members("lab", book, None, ManualClock())
    new, other = thief("cloud"), thief("cloud")
    assert members.join("invitation-a1", new.signed(1), time.time()) == JoinAnswer(
        book.records()["lab"], DataClass.INTERNAL
    )
    assert book.read()["cloud"] == new.record(1)
    assert isinstance(members.join("invitation-a1", other.signed(2), time.time()), Refusal)
    assert book.read()["cloud"] == new.record(1)


def test_an_invitation_is_used_before_its_guest_is_kept(lab, monkeypatch):
    """The gateway is killed in between: whoever has the file does not use it again."""
    members, book = guest(lab)
    monkeypatch.setattr(lab.__class__, "put_member", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        members.join("invitation-a1", author("cloud").signed(), time.time())
    monkeypatch.undo()
    assert book.invited("invitation-a1") == invited({"used_by": "cloud"})
    members = Members("lab", book, None, ManualClock())
    for one in (author("cloud"), thief("cloud")):
        answer = members.join("invitation-a1", one.signed(), time.time())
        assert isinstance(answer, Refusal)
        assert answer.text == "the invitation was used by cloud, which is no member"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clusters": ("lab-c",)}, "cloud claims lab-c, which lab has"),
        ({"network": "other"}, "cloud is of the network other, not of n"),
        (
            {"gateway": "http://cloud:1"},
            "the record of cloud is not valid: its gateway is not of the form https://host:port",
        ),
        ({"left": True}, "cloud has left"),
        ({"domain": "lab"}, "lab is this domain's own name"),
    ],
)
def test_a_guest_whose_record_is_not_fit_is_told_why(lab, changes, text):
    members, book = guest(lab)
    signer = author(str(changes.get("domain", "cloud")))
    answer = members.join("invitation-a1", signer.signed(**changes), time.time())
    assert isinstance(answer, Refusal)
    assert answer.text == text
    assert set(book.read()) == {"lab"}


def test_a_gateway_that_runs_takes_whom_its_owner_has_joined_anew_whatever_the_serial(lab):
    _, book = guest(lab)
    book.keep(Keep(author("cloud").signed(5), author("cloud").record(5)))
    members, new = Members("lab", book, None, ManualClock()), thief("cloud")
    lab.put_member(new.signed(1))
    members.look()
    assert members.snapshot()["cloud"]["serial"] == 1
    assert book.read()["cloud"] == new.record(1)


def test_peers_are_asked_with_the_certificate_that_the_domain_has_now(lab):
    """Over a connection that was opened with an older one they would refuse, once that is revoked."""
    _, book = guest(lab)
    book.keep(Keep(author("cloud").signed(), author("cloud").record()))
    opened, shown = [], [b"first"]

    def opens(record: MemberRecord) -> httpx.AsyncClient:
        opened.append((record.domain, shown[0]))
        return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})))

    async def asks() -> None:
        members = Members("lab", book, opens, ManualClock(), lambda: shown[0])
        for shows in (b"first", b"first", b"second"):
            shown[0] = shows
            await members._get("cloud", "health")
        await members.close()

    asyncio.run(asks())
    assert opened == [("cloud", b"first"), ("cloud", b"second")]


def test_who_has_left_is_remembered_and_not_trusted(lab):
    book = FolderBook(lab)
    book.keep(Keep(author("cloud").signed(), author("cloud").record()))
    assert set(lab.members()) == {"lab", "cloud"}
    left = author("cloud").record(2, left=True)
    book.keep(Keep(author("cloud").signed(2, left=True), left))
    assert (set(lab.members()), book.read()["cloud"]) == ({"lab"}, left)
    assert lab.config().peers == {}
    assert [row["state"] for row in Members("lab", book, None, ManualClock()).snapshot().values()] == ["left"]


def test_only_the_own_records_are_told_one_after_the_other(lab):
    book = FolderBook(lab)
    first = book.records()["lab"]
    book.keep(Keep(author("cloud").signed(3), author("cloud").record(3)))
    assert book.chain("lab", 0) == (first,)
    assert book.chain("lab", 1) == ()
    assert [one.body["serial"] for one in book.chain("cloud", 0)] == [3]
    assert book.chain("nobody", 0) == ()


def test_a_record_of_too_many_bytes_is_not_read(lab):
    members, _ = guest(lab)
    signed = author("cloud").signed()
    big = author("cloud").key.sign({**signed.body, "more": "x" * 70_000})
    answer = members.join("invitation-a1", big, time.time())
    assert isinstance(answer, Refusal)
    assert answer.text == "a member's record has 65536 bytes at most"


def test_who_is_expelled_is_no_member_whatever_is_told_and_comes_back_by_an_invitation_made_for_it_since(lab):
    members, book = guest(lab)
    cloud, now = author("cloud"), time.time()
    assert isinstance(members.join("invitation-a1", cloud.signed(), now), JoinAnswer)
    for number, of in (("b2", "cloud"), ("c3", "")):
        book.put_invited(Invited(number, DataClass.INTERNAL, LATER, of))
    assert [put_out(lab, "cloud", "it lies"), put_out(lab, "cloud", "it lies")] == [True, False]
    members.look()
    assert members.snapshot() == {}
    config = lab.config()
    assert (config.peers, config.limits, config.authorities, config.expelled) == ({}, {}, {}, {"cloud": "it lies"})
    with pytest.raises(SignatureError):
        lab.trusted().verify(cloud.key.sign({"a": 1}))
    # An answer that was on its way; and a gateway that has not looked yet.
    assert not book.keep(Keep(cloud.signed(serial=2), cloud.record(serial=2)))
    members._keep(Keep(cloud.signed(serial=2), cloud.record(serial=2), "library"))
    assert (set(book.read()), members.snapshot()) == ({"lab"}, {})
    codes = [members.join(f"invitation-{one}", cloud.signed(), now) for one in ("a1", "b2", "c3")]
    assert [one.code for one in codes if isinstance(one, Refusal)] == [
        "member.not_invited", "member.not_invited", "member.expelled",
    ]  # fmt: skip
    book.put_invited(Invited("d4", DataClass.PUBLIC, LATER, "cloud"))
    assert isinstance(members.join("invitation-d4", cloud.signed(), now), JoinAnswer)
    assert (set(book.read()), lab.config().expelled) == ({"lab", "cloud"}, {})
    assert lab.config().limits == {"cloud": DataClass.PUBLIC}


@pytest.mark.parametrize("of", ["cloud", ""])
def test_who_is_put_out_while_it_joins_does_not_come_back_by_the_invitation_that_it_had(lab, of):
    class Book(FolderBook):
        interrupted = False

        def expelled(self):
            found = super().expelled()
            if self.interrupted:
                put_out(lab, "cloud", "it lies")
            return found

    book = Book(lab)
    book.put_invited(invited({"domain": of}))
    members = Members("lab", book, None, ManualClock())
    book.interrupted = True
    answer = members.join("invitation-a1", author("cloud").signed(), time.time())
    book.interrupted = False
    assert isinstance(answer, Refusal)
    assert answer.code == "member.expelled"
    members.look()
    assert (set(book.read()), members.snapshot(), lab.config().limits) == ({"lab"}, {}, {})
    assert lab.config().expelled == {"cloud": "it lies"}
    assert book.invited("invitation-a1") == (None if of else invited({})), "it is as it was, or gone"


def test_an_invitation_that_is_taken_back_while_its_guest_joins_makes_no_member(lab):
    class Book(FolderBook):
        def keep(self, *words):
            (lab.root / "invitations" / "a1.json").unlink()
            return super().keep(*words)

    book = Book(lab)
    book.put_invited(invited({}))
    members = Members("lab", book, None, ManualClock())
    answer = members.join("invitation-a1", author("cloud").signed(), time.time())
    assert isinstance(answer, Refusal)
    assert answer.code == "member.not_invited"
    members.look()
    assert (set(book.read()), members.snapshot(), lab.config().limits) == ({"lab"}, {}, {})


def test_an_invitation_that_cannot_be_read_is_none_and_is_in_nobodys_way(lab):
    members, book = guest(lab)
    members.join("invitation-a1", author("cloud").signed(), time.time())
    for number, of in (("b2", "cloud"), ("c3", "edge")):
        book.put_invited(Invited(number, DataClass.INTERNAL, LATER, of))
    folder = lab.root / "invitations"
    (folder / "00.json").write_text("{")
    (folder / "01.json").symlink_to(folder / "removed a moment ago")
    answer = members.join("invitation-00", author("edge").signed(), time.time())
    assert isinstance(answer, Refusal)
    assert answer.code == "member.not_invited"
    assert put_out(lab, "cloud", "it lies")
    assert [path.name for path in folder.iterdir()] == ["c3.json"]


def test_what_an_owner_says_is_heard_also_where_another_member_is_kept_before_the_gateway_looks(lab):
    members, book = guest(lab)
    assert isinstance(members.join("invitation-a1", author("cloud").signed(), time.time()), JoinAnswer)
    members.look()
    put_out(lab, "cloud", "it lies")
    introduce(lab, False)
    members._keep(Keep(author("edge").signed(), author("edge").record()))
    members.look()
    assert (set(members.snapshot()), members._governor.introductions) == ({"edge"}, False)
    assert set(book.read()) == {"lab", "edge"}


def test_an_expulsion_that_was_cut_off_is_whole_when_the_domain_starts(lab, monkeypatch):
    members, book = guest(lab)
    members.join("invitation-a1", author("cloud").signed(), time.time())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(OSError, match="killed"):
            put_out(lab, "cloud", "")
    assert "cloud" in book.read()
    members.look()
    assert members.snapshot() == {}
    know_all(lab)
    assert (set(book.read()), lab.config().peers) == ({"lab"}, {})


def killed(*_: object, **__: object) -> None:
    raise OSError("killed")


def test_an_owner_turns_introductions_off_and_on_while_the_gateway_runs(lab):
    members, book = guest(lab)
    members.join("invitation-a1", author("cloud").signed(), time.time())
    told = ProbeAnswered("cloud", 1, (Heard("edge", 1, PeerState.ALIVE),))

    def pulled(at: float) -> list[Any]:
        members.look()
        return members._governor.handle(told, at)

    assert [introduce(lab, False), introduce(lab, False)] == [True, False]
    assert pulled(1.0) == []
    assert introduce(lab, True)
    assert pulled(2.0) == [Pull("cloud", "edge", 0)]
    assert set(book.read()) == {"lab", "cloud"}


def test_the_setting_is_shown_and_changed_by_its_command(tmp_path):
    home = owned(tmp_path, "lab").home
    home.by_hand.touch()

    def said(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["domain", "introductions", *words, "--home", str(tmp_path)])
        assert result.exit_code == code, result.output
        return result.output.strip()

    on = "introductions are on: a domain of which a member tells becomes one too"
    off = "introductions are off: only who is invited or invites becomes a member"
    assert [said(), said("on"), said("off"), said("off"), said()] == [
        on,
        f"{on}, as before",
        off,
        f"{off}, as before",
        off,
    ]
    assert json.loads(said("--json")) == {"domain": "lab", "introductions": False}
    assert not home.config().introductions
    said("perhaps", code=2)
    assert said("on") == on


def test_who_introduced_a_member_is_remembered_until_that_one_is_invited(lab):
    members, book = guest(lab)
    edge = author("edge")
    members._keep(Keep(edge.signed(), edge.record(), "cloud"))
    members._keep(Keep(edge.signed(2), edge.record(2)))
    assert book.vouched() == {"edge": "cloud"}
    members = Members("lab", book, None, ManualClock())
    assert members.snapshot()["edge"]["vouched"] == "cloud"
    assert isinstance(members.join("invitation-a1", edge.signed(3), time.time()), JoinAnswer)
    members.look()
    assert (book.vouched(), members.snapshot()["edge"]["vouched"]) == ({}, "")


def test_a_guest_is_let_in_for_whom_there_was_no_room_beside_those_that_were_introduced(lab, monkeypatch):
    monkeypatch.setattr(network, "MAX_MEMBERS", 2)
    members, book = guest(lab)
    for name, by in (("cloud", ""), ("edge", "cloud")):
        book.keep(Keep(author(name).signed(), author(name).record(), by))
    members = Members("lab", book, None, ManualClock())
    assert isinstance(members.join("invitation-a1", author("shop").signed(), time.time()), JoinAnswer)
    members.look()
    assert set(members.snapshot()) == {"cloud", "shop"}
    config = lab.config()
    assert (set(book.read()), set(config.peers), config.vouched, config.expelled) == (
        {"lab", "cloud", "shop"}, {"cloud", "shop"}, {}, {},
    )  # fmt: skip
