"""The phases of a run: each makes its link of the chain and states checks on it. Nothing here depends on pytest."""
