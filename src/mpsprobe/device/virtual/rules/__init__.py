"""The rules of one torch release on one macOS: refusals, limits, messages, memory and dispatch."""
