# The library starts only its own code.
package ioi.book.library.launch

import data.ioi.lib.verdict as shape

verdict := shape.make([deny | some deny in found], [])

# METADATA
# title: The code location is one that the library reviewed
# custom: {id: launch.code, level: hard, owner: library.example, remedy: have the library review the code location}
found contains {
	"code": "launch.unknown_code", "policy": "book/library/launch", "domain": "library.example",
	"params": {"code": input.run.code},
	"remedy": concat("", [
		"have the library review it, which then adds \"", input.run.code,
		"\" to ioi.library.code_locations in policies/data.json",
	]),
} if not input.run.code in data.ioi.library.code_locations
