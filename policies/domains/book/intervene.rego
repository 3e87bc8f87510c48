# What may be done to runs that are under way.
package ioi.book.intervene

import data.ioi.lib.verdict as shape

verdict := object.union(shape.make(denies, []), {"ttl_s": 0})

denies := [deny | some deny in found]

# METADATA
# title: Whoever intervenes says who he is
# custom: {id: intervene.subject, level: hard, owner: network, remedy: intervene as a named subject}
found contains {
	"code": "intervene.no_subject", "policy": "book/intervene", "domain": "book",
	"params": {}, "remedy": "intervene as a named subject",
} if object.get(input, ["subject", "id"], "") == ""

# METADATA
# title: Who ends or moves the work of others says why
# custom: {id: intervene.reason, level: hard, owner: network, remedy: "say why, with --why"}
found contains {
	"code": "intervene.no_reason", "policy": "book/intervene", "domain": "book",
	"params": {"action": input.action, "whose": input.target.subject}, "remedy": "say why, with --why",
} if {
	input.action in {"cancel", "reroute"}
	input.target.subject != object.get(input, ["subject", "id"], "")
	trim_space(input.reason) == ""
}
