# Data goes from one domain to another: asked by each end that has a say before a byte is read. What no rule here lets go, stays.
package ioi.book.data_move

import data.ioi.lib.classes
import data.ioi.lib.verdict as shape

verdict := shape.make(denies, [])

denies := [deny | some deny in found]

# METADATA
# title: Data has a known class, or goes nowhere
# custom: {id: data.known, level: hard, owner: network, remedy: "register it as public, internal or restricted"}
found contains {
	"code": "data.unknown_class", "policy": "book/data_move", "domain": "book",
	"params": {"class": input.asset.data_class}, "remedy": "register it as public, internal or restricted",
} if not classes.known(input.asset.data_class)

# METADATA
# title: Data goes only to a domain that may handle its class
# custom: {id: data.handles, level: hard, owner: network, remedy: choose another domain or have the owner lower the class}
found contains {
	"code": "data.class_too_high", "policy": "book/data_move", "domain": "book",
	"params": {"class": input.asset.data_class, "limit": input.target.handles, "who": input.target.domain},
	"remedy": "choose another domain, or have its owner lower the class",
} if {
	classes.known(input.asset.data_class)
	not classes.within(input.asset.data_class, input.target.handles)
}

# METADATA
# title: Restricted data goes nowhere but home to its owner
# custom: {id: data.restricted, level: hard, owner: network, remedy: use it in its owner's domain}
found contains {
	"code": "data.restricted_leaves_home", "policy": "book/data_move", "domain": "book",
	"params": {"home": input.asset.owner, "who": input.target.domain},
	"remedy": "use it in its owner's domain",
} if {
	input.asset.data_class == "restricted"
	input.target.domain != input.asset.owner
}

# METADATA
# title: Internal data stays within one certificate authority
# custom: {id: data.internal, level: hard, owner: network, remedy: take it to the owner or a partner}
found contains {
	"code": "data.internal_leaves_authority", "policy": "book/data_move", "domain": "book",
	"params": {"authority": source_authority, "who": input.target.domain},
	"remedy": "take it to its owner or a partner of the same certificate authority",
} if {
	input.asset.data_class == "internal"
	not same_authority
}

# METADATA
# title: Data that has to stay in regions goes only to a domain that keeps it in one of them
# custom: {id: data.residency, level: hard, owner: network, remedy: choose a domain in these regions}
found contains {
	"code": "data.leaves_region", "policy": "book/data_move", "domain": "book",
	"params": {"regions": concat(", ", bound_to), "who": input.target.domain, "keeps": kept_in},
	"remedy": "choose a domain that keeps data in one of these regions",
} if {
	count(bound_to) > 0
	not input.target.region in bound_to
}

bound_to := object.get(input, ["asset", "regions"], [])

kept_in := input.target.region if input.target.region != ""

else := "a region that it does not name"

source_authority := object.get(input, ["source", "authority"], "")

same_authority if {
	source_authority != ""
	source_authority == input.target.authority
}
