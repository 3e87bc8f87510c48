# What the run's owner asks of each step start, beside where it goes.
package ioi.book.step

import data.ioi.lib.classes
import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: A step stays within its run permit's data class
# custom: {id: step.class, level: hard, owner: network, remedy: launch the run with a permit for that class}
found contains {
	"code": "step.above_permit", "policy": "book/step", "domain": "book",
	"params": {"class": input.step.data_class, "limit": input.permit.highest},
	"remedy": "launch the run with a permit for that class",
} if not classes.within(input.step.data_class, input.permit.highest)

# METADATA
# title: A step goes only where its run permit says
# custom: {id: step.domain, level: hard, owner: network, remedy: launch the run with a permit for that domain}
found contains {
	"code": "step.domain_not_permitted", "policy": "book/step", "domain": "book",
	"params": {"who": input.candidate.domain},
	"remedy": "launch the run with a permit for that domain",
} if not input.candidate.domain in input.permit.domains
