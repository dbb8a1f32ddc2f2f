"""Op uses of a target, one by one: what becomes of each on a Mac."""
