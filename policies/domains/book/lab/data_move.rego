# The lab takes data of its partners, and gives what it holds of them to partners only.
package ioi.book.lab.data_move

import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: The lab exchanges data with its partners only, but for what is public
# custom: {id: lab.data_partner, level: hard, owner: lab.example, remedy: ask the lab for a partnership}
found contains {
	"code": "lab.not_a_partner", "policy": "book/lab/data_move", "domain": "lab.example",
	"params": {"origin": end},
	"remedy": "ask the lab for a partnership, which then adds it to ioi.lab.partners in its policies/data.json",
} if {
	input.asset.data_class != "public"
	some end in [input.source.domain, input.target.domain]
	not end in data.ioi.lab.partners
}
