package ioi.book.data_move_test

import data.ioi.book.data_move

doc(class, target, regions) := {
	"asset": {"owner": "library.example", "data_class": class, "regions": regions},
	"source": {"domain": "library.example", "authority": "partners", "handles": "restricted", "region": "eu"},
	"target": target,
}

library := {"domain": "library.example", "authority": "partners", "handles": "restricted", "region": "eu"}

lab := {"domain": "lab.example", "authority": "partners", "handles": "internal", "region": ""}

cloud := {"domain": "cloud.example", "authority": "cloud", "handles": "public", "region": "elsewhere"}

codes(document) := {deny.code | some deny in data_move.verdict.deny with input as document}

test_each_class_goes_as_far_as_it_may if {
	codes(doc("public", cloud, [])) == set()
	codes(doc("internal", lab, [])) == set()
	codes(doc("restricted", library, [])) == set()
}

test_a_class_goes_no_further if {
	codes(doc("internal", cloud, [])) == {"data.class_too_high", "data.internal_leaves_authority"}
	codes(doc("restricted", lab, [])) == {"data.class_too_high", "data.restricted_leaves_home"}
	codes(doc("secret", library, [])) == {"data.unknown_class"}
}

test_whatever_another_claims_to_handle_internal_data_stays_with_partners if {
	codes(doc("internal", object.union(cloud, {"handles": "restricted"}), [])) == {"data.internal_leaves_authority"}
	nobody := object.union(doc("internal", object.union(lab, {"authority": ""}), []), {"source": {"domain": "library.example", "authority": ""}})
	codes(nobody) == {"data.internal_leaves_authority"}
}

test_residency_holds_wherever_it_is_taken_from if {
	codes(doc("public", cloud, ["eu"])) == {"data.leaves_region"}
	codes(doc("public", lab, ["eu"])) == {"data.leaves_region"}
	codes(doc("public", library, ["eu", "us"])) == set()
}

test_a_region_that_is_not_said_is_told_so if {
	{deny.params.keeps | some deny in data_move.verdict.deny with input as doc("public", lab, ["eu"])} == {"a region that it does not name"}
}
