package ioi.lib.classes

rank := {"public": 0, "internal": 1, "restricted": 2}

known(class) if rank[class] >= 0

within(class, limit) if rank[class] <= rank[limit]
