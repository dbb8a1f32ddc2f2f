"""What to change so that a target runs on the target Mac: the search, its trial runs and its checks."""
