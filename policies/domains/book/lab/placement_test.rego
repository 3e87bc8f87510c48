package ioi.book.lab.placement_test

import data.ioi.book.lab.placement

doc(origin, class) := {"origin": {"domain": origin}, "step": {"data_class": class}}

codes(document) := {deny.code | some deny in placement.verdict.deny with input as document with data.ioi.lab.partners as ["library.example"]}

test_partners_are_helped if codes(doc("library.example", "internal")) == set()

test_each_rule_fires if {
	codes(doc("stranger.example", "public")) == {"lab.not_a_partner"}
	codes(doc("library.example", "restricted")) == {"lab.above_internal"}
	codes(doc("library.example", "unknown")) == {"lab.above_internal"}
}
