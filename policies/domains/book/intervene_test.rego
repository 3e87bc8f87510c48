package ioi.book.intervene_test

import data.ioi.book.intervene

good := {
	"subject": {"id": "ann"},
	"action": "cancel",
	"target": {"run": "r", "job": "j", "step": "", "subject": "bob"},
	"reason": "it fills the disk",
}

codes(document) := {deny.code | some deny in intervene.verdict.deny with input as document}

test_who_says_who_and_why_may if codes(good) == set()

test_nobody_may_not if codes(object.union(good, {"subject": {"id": ""}})) == {"intervene.no_subject"}

test_the_work_of_others_is_not_ended_without_a_reason if {
	codes(object.union(good, {"reason": " "})) == {"intervene.no_reason"}
	codes(object.union(good, {"reason": "", "action": "drain"})) == {"intervene.no_reason"}
	codes(object.union(good, {"reason": "", "action": "pause"})) == set()
	codes(object.union(good, {"reason": "", "subject": {"id": "bob"}})) == set()
}

ordered := {
	"subject": {"id": "ann", "domain": "library.example"}, "domain_path": ["library.example"], "action": "pause",
	"target": {"kind": "block", "name": "page.ocr", "run": "", "job": "", "step": "", "subject": ""},
	"reason": "a bad model",
}

test_a_domains_own_people_order_with_a_reason if {
	codes(ordered) == set()
	codes(object.union(ordered, {"reason": ""})) == {"intervene.no_order_reason"}
	codes(object.union(ordered, {"reason": "", "action": "resume"})) == set()
	codes(object.union(ordered, {"reason": "", "action": "drain", "target": {"kind": "node"}})) == set()
}

test_another_domains_people_do_not_order if {
	codes(object.union(ordered, {"subject": {"domain": "cloud.example"}})) == {"intervene.foreign"}
	codes(object.union(ordered, {"subject": {"id": ""}})) == {"intervene.no_subject"}
}

test_what_was_decided_is_not_kept if intervene.verdict.ttl_s == 0 with input as good

test_whose_work_is_ended_is_named_where_nobody_has_started_it if {
	found := object.union(ordered, {"action": "cancel", "reason": ""})
	{deny.params.whose | some deny in intervene.verdict.deny with input as found; deny.code == "intervene.no_reason"} == {"others (block page.ocr)"}
}
