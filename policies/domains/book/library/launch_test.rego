package ioi.book.library.launch_test

import data.ioi.book.library.launch

codes(code) := {deny.code | some deny in launch.verdict.deny with input as {"run": {"code": code}} with data.ioi.library.code_locations as ["reviewed"]}

test_reviewed_code_starts if codes("reviewed") == set()

test_other_code_does_not if codes("evil") == {"launch.unknown_code"}
