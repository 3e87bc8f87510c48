# The lab helps its partners, with nothing above internal.
package ioi.book.lab.placement

import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: The lab works for its partners only
# custom: {id: lab.partner, level: hard, owner: lab.example, remedy: ask the lab for a partnership}
found contains {
	"code": "lab.not_a_partner", "policy": "book/lab/placement", "domain": "lab.example",
	"params": {"origin": input.origin.domain}, "remedy": "ask the lab for a partnership",
} if not input.origin.domain in data.ioi.lab.partners
