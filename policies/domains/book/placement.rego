# Where a step may go: asked by the run's owner before it announces, and by the receiver before it answers.
package ioi.book.placement

import data.ioi.lib.classes
import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: Data goes only to a domain that may handle its class
# custom: {id: placement.class, level: hard, owner: network, remedy: choose another domain or have the owner lower the class}
found contains {
	"code": "placement.class_too_high", "policy": "book/placement", "domain": "book",
	"params": {"class": input.step.data_class, "limit": input.candidate.handles, "who": input.candidate.domain},
	"remedy": "choose another domain or have the owner lower the class",
} if not classes.within(input.step.data_class, input.candidate.handles)

# METADATA
# title: Restricted data stays with its owner
# custom: {id: placement.restricted, level: hard, owner: network, remedy: run it in the owner's own domain}
found contains {
	"code": "placement.restricted_leaves_home", "policy": "book/placement", "domain": "book",
	"params": {"home": input.origin.domain, "who": input.candidate.domain},
	"remedy": "run it in the owner's own domain",
} if {
	input.step.data_class == "restricted"
	input.candidate.domain != input.origin.domain
}

# METADATA
# title: Internal data stays within its certificate authority, whatever another claims to handle
# custom: {id: placement.internal, level: hard, owner: network, remedy: run it with the owner or a partner}
found contains {
	"code": "placement.internal_leaves_authority", "policy": "book/placement", "domain": "book",
	"params": {"authority": input.origin.authority, "who": input.candidate.domain},
	"remedy": "run it with the owner or a partner",
} if {
	input.step.data_class == "internal"
	input.candidate.authority != input.origin.authority
}

# METADATA
# title: Own code goes only to clusters of the same certificate authority
# custom: {id: placement.own_code, level: hard, owner: network, remedy: offer it as a block there}
found contains {
	"code": "placement.own_code_abroad", "policy": "book/placement", "domain": "book",
	"params": {"who": input.candidate.domain},
	"remedy": "offer it as a block there",
} if {
	input.step.capability == "dagster.step"
	input.candidate.authority != input.origin.authority
}
