package ioi.book.lab.data_move_test

import data.ioi.book.lab.data_move

codes(class, source, target) := {deny.code |
	some deny in data_move.verdict.deny with input as {
		"asset": {"data_class": class}, "source": {"domain": source}, "target": {"domain": target},
	}
		with data.ioi.lab.partners as ["library.example", "lab.example"]
}

test_partners_exchange_data if codes("internal", "library.example", "lab.example") == set()

test_others_are_given_what_is_public_alone if {
	codes("internal", "lab.example", "stranger.example") == {"lab.not_a_partner"}
	codes("internal", "stranger.example", "lab.example") == {"lab.not_a_partner"}
	codes("public", "lab.example", "stranger.example") == set()
}
