"""The recorder of op uses, and the flight recorder that survives a crash."""
