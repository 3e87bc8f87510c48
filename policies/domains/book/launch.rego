# What every run in the network must say of itself before anything of it starts.
package ioi.book.launch

import data.ioi.lib.classes
import data.ioi.lib.verdict as shape

verdict := shape.make(denies, obligations)

denies := [deny | some deny in found]

# METADATA
# title: A run names who asked for it
# custom: {id: launch.subject, level: hard, owner: network, remedy: start the run as a named subject}
found contains {
	"code": "launch.no_subject", "policy": "book/launch", "domain": "book",
	"params": {}, "remedy": "start the run as a named subject",
} if object.get(input, ["subject", "id"], "") == ""

# METADATA
# title: The highest data class of a run is a known one
# custom: {id: launch.class, level: hard, owner: network, remedy: "use public, internal or restricted"}
found contains {
	"code": "launch.unknown_class", "policy": "book/launch", "domain": "book",
	"params": {"class": input.data.highest}, "remedy": "use public, internal or restricted",
} if not classes.known(input.data.highest)

# METADATA
# title: A plan stays within the network's limit of steps
# custom: {id: launch.steps, level: hard, owner: network, remedy: split the run}
found contains {
	"code": "launch.too_many_steps", "policy": "book/launch", "domain": "book",
	"params": {"steps": input.plan.steps, "limit": data.ioi.limits.steps},
	"remedy": "split the run, or raise ioi.limits.steps in policies/data.json",
} if input.plan.steps > data.ioi.limits.steps

# METADATA
# title: A run that asks for approval waits for one
# custom: {id: launch.approval, level: soft, owner: network, remedy: have someone else approve the run}
obligations := [{"kind": "require_approval", "params": {"of": "a second person"}}] if {
	input.run.tags["ioi/approval"] == "required"
	count([who | some who in object.get(input, "approvals", []); who != object.get(input, ["subject", "id"], "")]) == 0
} else := []
