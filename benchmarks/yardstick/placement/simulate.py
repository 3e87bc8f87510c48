"""Independent evaluation of a static plan {task: {"node", "order"}}.

Rule: on every node, tasks start in increasing `order` (ties by task id); a task starts at the first
moment at which all its inputs have arrived, its cores, memory and GPUs are free, and every task
before it on that node has started. Transfers start when the producer finishes and do not contend.
"""
import heapq

from benchmarks.yardstick.placement.model import allowed, exec_time, fetch_time, topological_order, transfer_time


class Infeasible(Exception):
    pass


def check_plan(graph, network, plan):
    for tid, task in graph["tasks"].items():
        if tid not in plan:
            raise Infeasible(f"task {tid} has no placement")
        node = plan[tid].get("node")
        if node not in network["nodes"]:
            raise Infeasible(f"task {tid}: unknown node {node!r}")
        if not allowed(task, network["nodes"][node]):
            raise Infeasible(f"task {tid}: node {node} is forbidden or too small")
        if not isinstance(plan[tid].get("order"), int):
            raise Infeasible(f"task {tid}: order must be an int")


def simulate(graph, network, plan):
    """{task: (node, start, finish)} under the rule above; raises Infeasible."""
    check_plan(graph, network, plan)
    tasks, nodes = graph["tasks"], network["nodes"]
    preds, children = {t: [] for t in tasks}, {t: [] for t in tasks}
    for a, b, x in graph["edges"]:
        preds[b].append((a, x))
        children[a].append(b)
    missing = {t: len(p) for t, p in preds.items()}
    queue = {n: [] for n in nodes}
    for t in tasks:
        queue[plan[t]["node"]].append((plan[t]["order"], t))
    for q in queue.values():
        q.sort(reverse=True)                              # next task is at the end
    clock = {n: 0.0 for n in nodes}
    free = {n: [v["cores"], v["memory"], v["gpus"]] for n, v in nodes.items()}
    running = {n: [] for n in nodes}
    schedule, todo = {}, [n for n in nodes if queue[n]]
    while todo:
        n = todo.pop()
        while queue[n] and not missing[queue[n][-1][1]]:
            t = queue[n].pop()[1]
            need = (tasks[t]["cores"], tasks[t]["memory"], tasks[t]["gpus"])
            start = max(clock[n], fetch_time(network, tasks[t]["inputs"], n))
            for u, x in preds[t]:
                start = max(start, schedule[u][2] + transfer_time(network, schedule[u][0], n, x))
            while running[n] and (running[n][0][0] <= start
                                  or any(f < d for f, d in zip(free[n], need))):
                end, _, freed = heapq.heappop(running[n])
                start = max(start, end)
                free[n] = [f + d for f, d in zip(free[n], freed)]
            free[n] = [f - d for f, d in zip(free[n], need)]
            finish = start + exec_time(tasks[t], nodes[n])
            heapq.heappush(running[n], (finish, t, need))
            clock[n] = start
            schedule[t] = (n, start, finish)
            for c in children[t]:
                missing[c] -= 1
                if not missing[c]:
                    todo.append(plan[c]["node"])
    if len(schedule) != len(tasks):
        raise Infeasible(f"deadlock: {len(tasks) - len(schedule)} tasks can never start in this order")
    return schedule


def makespan(schedule):
    return max(f for _, _, f in schedule.values())


def verify(graph, network, schedule, eps=1e-6):
    """Second, separate check of a finished schedule: completeness, durations, precedence,
    transfers, capacity, policy."""
    tasks = graph["tasks"]
    if set(schedule) != set(tasks):
        raise Infeasible("the schedule does not hold every task exactly once")
    for t, (n, start, finish) in schedule.items():
        if start < 0 or abs(finish - start - exec_time(tasks[t], network["nodes"][n])) > eps * max(1.0, finish):
            raise Infeasible(f"{t} does not run for its execution time")
    for a, b, x in graph["edges"]:
        arrival = schedule[a][2] + transfer_time(network, schedule[a][0], schedule[b][0], x)
        if schedule[b][1] < arrival - eps:
            raise Infeasible(f"{b} starts before its input from {a} arrives")
    per_node = {}
    for t, (n, start, finish) in schedule.items():
        if not allowed(tasks[t], network["nodes"][n]):
            raise Infeasible(f"{t} is on forbidden node {n}")
        if start < fetch_time(network, tasks[t]["inputs"], n) - eps:
            raise Infeasible(f"{t} starts before its external input arrives")
        per_node.setdefault(n, []).extend([(start, 1, t), (finish, 0, t)])
    for n, events in per_node.items():
        used = {"cores": 0, "memory": 0, "gpus": 0}
        for _, kind, t in sorted(events):
            for r in used:
                used[r] += tasks[t][r] if kind else -tasks[t][r]
                if used[r] > network["nodes"][n][r] * (1 + 1e-9) + eps:
                    raise Infeasible(f"{r} overcommitted on {n}")
    topological_order(graph)
