# The lab helps its partners, with nothing above internal.
package ioi.book.lab.placement

import data.ioi.lib.classes
import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: The lab works for its partners only
# custom: {id: lab.partner, level: hard, owner: lab.example, remedy: ask the lab for a partnership}
found contains {
	"code": "lab.not_a_partner", "policy": "book/lab/placement", "domain": "lab.example",
	"params": {"origin": input.origin.domain},
	"remedy": "ask the lab for a partnership, which then adds you to ioi.lab.partners in its policies/data.json",
} if not input.origin.domain in data.ioi.lab.partners

# METADATA
# title: Nothing above internal
# custom: {id: lab.class, level: hard, owner: lab.example, remedy: run it in the owner's own domain}
found contains {
	"code": "lab.above_internal", "policy": "book/lab/placement", "domain": "lab.example",
	"params": {"class": input.step.data_class}, "remedy": "run it in the owner's own domain",
} if not classes.within(input.step.data_class, "internal")
