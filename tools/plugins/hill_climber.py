#!/usr/bin/env python3
"""A plugin of autoresearch, as small as one can be: steps on one axis from the best trial so far.

    search: {strategy: "exec:python3 tools/plugins/hill_climber.py"}

One JSON request per line on stdin, one JSON answer per line on stdout (search/README.md, "Plugins"); what is printed
to stderr is kept in a log beside the journal. Standard library only.
"""
import json
import sys


def neighbours(axes, params):
    """Every configuration one step away: next values of an ordered axis, all others of one that is not."""
    for axis in axes:
        values, now = axis["values"], params[axis["name"]]
        at = values.index(now)
        near = values[max(0, at - 1):at + 2] if axis["ordered"] else values
        for value in near:
            if value != now:
                yield {**params, axis["name"]: value}, f"{axis['name']} {now} -> {value}, from the best so far"


def propose(request, proposed):
    """At most n steps that this process has not proposed before; the driver checks constraints and repeats itself."""
    known = proposed + [trial["params"] for trial in request["best"] + request["last"]]
    start = (request["best"] or [request["default"]])[0]
    answer = []
    for params, why in neighbours(request["space"]["axes"], start["params"]):
        if params not in known and len(answer) < request["n"]:
            known.append(params)
            answer.append({"params": params, "rationale": why})
    return answer


def main():
    proposed = []
    for line in sys.stdin:
        request = json.loads(line)
        answer = propose(request, proposed)
        proposed += [proposal["params"] for proposal in answer]
        trouble = {} if answer else {"error": "no untried step is left around the best trial"}
        print(json.dumps({"proposals": answer, **trouble}), flush=True)


main()
