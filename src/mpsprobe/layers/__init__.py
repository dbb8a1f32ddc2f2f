"""Compare layer by layer: where a target's values diverge from a reference, and which module makes the error."""
