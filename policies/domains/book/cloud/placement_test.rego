package ioi.book.cloud.placement_test

import data.ioi.book.cloud.placement

codes(class, capability) := {deny.code | some deny in placement.verdict.deny with input as {"step": {"data_class": class, "capability": capability}}}

test_public_blocks_are_taken if codes("public", "page.ocr") == set()

test_each_rule_fires if {
	codes("internal", "page.ocr") == {"cloud.public_only"}
	codes("public", "dagster.step") == {"cloud.no_foreign_code"}
}
