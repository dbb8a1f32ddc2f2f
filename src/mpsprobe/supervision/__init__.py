"""Running in a child process that may crash or hang, and bringing its report home."""
