"""The fault campaign: what mpsprobe promises when its input, its target or its surroundings are at fault.

Each case is one call of the real command line, in a folder of its own, whose end is judged from outside: the exit
code, what was printed, the report, and what is left over. `PYTHONPATH=tools python -m faults` runs them all and
prints a table; `make faults` does that, and CI runs the cases marked `short`.

A group is a module of this package with a sentence `PROMISE`, a function `cases()`, and, where its cases share
something such as a server, a context manager `surroundings()` that yields the environment variables they need:

    PROMISE = "A hub that is not there, slow or hostile ends as one line."

    def cases() -> Iterator[Case]:
        yield Case("no-such-host", ("run", "owner/model"), exits={1}, says="cannot be reached")

Modules are listed in `campaign.GROUPS`. What holds for every case is in `judge.py` and need not be repeated.
"""
