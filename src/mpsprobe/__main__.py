"""Run the command line as `python -m mpsprobe`."""

from mpsprobe import launch

launch.forget_working_directory()

from mpsprobe.cli import main  # noqa: E402 - only now may anything be imported

main()
