# The cloud takes public data and block invocations from whoever is signed; nothing else.
package ioi.book.cloud.placement

import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: Public data only
# custom: {id: cloud.public, level: hard, owner: cloud.example, remedy: run it with the owner or a partner}
found contains {
	"code": "cloud.public_only", "policy": "book/cloud/placement", "domain": "cloud.example",
	"params": {"class": input.step.data_class}, "remedy": "run it with the owner or a partner",
} if input.step.data_class != "public"

# METADATA
# title: Only blocks that the cloud itself offers
# custom: {id: cloud.blocks, level: hard, owner: cloud.example, remedy: ask for one of its blocks}
found contains {
	"code": "cloud.no_foreign_code", "policy": "book/cloud/placement", "domain": "cloud.example",
	"params": {}, "remedy": "ask for one of its blocks",
} if input.step.capability == "dagster.step"
