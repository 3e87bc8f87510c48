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
	"params": {"action": input.action, "whose": whose}, "remedy": "say why, with --why",
} if {
	ends_or_moves
	input.target.subject != object.get(input, ["subject", "id"], "")
	trim_space(input.reason) == ""
}

# METADATA
# title: Who stops a block or a tenant, which others work with, says why
# custom: {id: intervene.order_reason, level: hard, owner: network, remedy: "say why, with --why"}
found contains {
	"code": "intervene.no_order_reason", "policy": "book/intervene", "domain": "book",
	"params": {"action": input.action, "kind": input.target.kind, "name": input.target.name},
	"remedy": "say why, with --why",
} if {
	input.action in {"pause", "drain"}
	object.get(input, ["target", "kind"], "run") in {"block", "tenant"}
	trim_space(input.reason) == ""
}

# METADATA
# title: What a domain owns, runs too, is ordered by its own people
# custom: {id: intervene.owner, level: hard, owner: network, remedy: "ask the owner of the domain"}
found contains {
	"code": "intervene.foreign", "policy": "book/intervene", "domain": "book",
	"params": {"whose": object.get(input, ["subject", "domain"], ""), "domain": concat("/", input.domain_path)},
	"remedy": "ask the owner of the domain",
} if {
	object.get(input, ["subject", "domain"], "") != concat("/", input.domain_path)
}

ends_or_moves if input.action in {"cancel", "reroute"}

ends_or_moves if {
	input.action == "drain"
	object.get(input, ["target", "kind"], "run") == "run"
}

whose := input.target.subject if input.target.subject != ""

whose := concat("", ["others (", concat(" ", named), ")"]) if {
	input.target.subject == ""
	named := [object.get(input, ["target", "kind"], "run"), object.get(input, ["target", "name"], "")]
}
