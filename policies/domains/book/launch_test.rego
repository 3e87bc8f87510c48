package ioi.book.launch_test

import data.ioi.book.launch

good := {
	"subject": {"id": "ann"},
	"run": {"tags": {}, "code": "definitions.documents.defs"},
	"plan": {"steps": 10},
	"data": {"highest": "restricted"},
	"approvals": [],
}

codes(document) := {deny.code | some deny in launch.verdict.deny with input as document with data.ioi.limits.steps as 100}

test_a_good_launch_is_allowed if codes(good) == set()

test_each_rule_fires if {
	codes(object.union(good, {"subject": {"id": ""}})) == {"launch.no_subject"}
	codes(object.union(good, {"data": {"highest": "secret"}})) == {"launch.unknown_class"}
	codes(object.union(good, {"plan": {"steps": 101}})) == {"launch.too_many_steps"}
}

test_approval_is_an_obligation if {
	launch.verdict.obligations[0].kind == "require_approval" with input as object.union(good, {"run": {"tags": {"ioi/approval": "required"}}})
}
