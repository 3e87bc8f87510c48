package ioi.book.placement_test

import data.ioi.book.placement

doc(class, capability, domain, authority, handles) := {
	"origin": {"domain": "library.example", "authority": "partners"},
	"step": {"data_class": class, "capability": capability},
	"candidate": {"domain": domain, "authority": authority, "handles": handles},
}

codes(document) := {deny.code | some deny in placement.verdict.deny with input as document}

test_restricted_stays_home if {
	codes(doc("restricted", "page.ocr", "library.example", "partners", "restricted")) == set()
	codes(doc("restricted", "page.ocr", "lab.example", "partners", "internal")) == {"placement.class_too_high", "placement.restricted_leaves_home"}
}

test_own_code_stays_in_the_authority if {
	codes(doc("public", "dagster.step", "cloud.example", "cloud", "public")) == {"placement.own_code_abroad"}
	codes(doc("public", "dagster.step", "lab.example", "partners", "internal")) == set()
}

test_internal_stays_in_the_authority if {
	codes(doc("internal", "page.ocr", "cloud.example", "cloud", "restricted")) == {"placement.internal_leaves_authority"}
	codes(doc("internal", "page.ocr", "lab.example", "partners", "internal")) == set()
}

test_an_unknown_class_goes_nowhere if {
	codes(doc("secret", "page.ocr", "library.example", "partners", "restricted")) == {"placement.class_too_high"}
}
