"""The fault campaign: the promises of mpsprobe when its input, its target or its surroundings are at fault.

Each case is one call of the real command line in its own folder, judged from outside: the exit code, the output,
the report, and what remains. `PYTHONPATH=tools python -m faults` runs them all and prints a table; `make faults`
does that, and CI runs the cases marked `short`.

A group is a module of this package with a sentence `PROMISE`, a function `cases()`, and, where its cases share
something such as a server, a context manager `surroundings()` that yields the environment variables that they need:

    PROMISE = "A hub that is not there, slow or hostile ends as one line."

    def cases() -> Iterator[Case]:
        yield Case("no-such-host", ("run", "owner/model"), exits={1}, says="cannot be reached")

`campaign.GROUPS` lists the modules. `judge.py` checks what holds for every case.
"""
