"""`python -m mpsprobe`."""

from mpsprobe.cli import main

main()
