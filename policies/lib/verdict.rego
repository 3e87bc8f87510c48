# The shape in which every scope answers.
package ioi.lib.verdict

make(denies, obligations) := {
	"allow": count(denies) == 0,
	"level": "hard",
	"deny": denies,
	"warn": [],
	"obligations": obligations,
	"ttl_s": 60,
}
