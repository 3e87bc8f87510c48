package ioi.book.step_test

import data.ioi.book.step

doc(class, domain) := {
	"step": {"data_class": class, "capability": "page.ocr"},
	"candidate": {"domain": domain},
	"permit": {"highest": "internal", "domains": ["library.example", "lab.example"]},
}

codes(document) := {deny.code | some deny in step.verdict.deny with input as document}

test_a_step_within_its_permit_is_allowed if {
	codes(doc("internal", "lab.example")) == set()
	step.verdict.allow with input as doc("internal", "lab.example")
}

test_each_rule_fires if {
	codes(doc("restricted", "lab.example")) == {"step.above_permit"}
	codes(doc("public", "cloud.example")) == {"step.domain_not_permitted"}
}
