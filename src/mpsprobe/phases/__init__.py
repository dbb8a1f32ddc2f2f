"""The six phases: each measures and returns checks. Nothing here depends on pytest."""
