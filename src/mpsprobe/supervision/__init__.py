"""Run something in a child process that may crash or hang, and return its report."""
