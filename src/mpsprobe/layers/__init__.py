"""Layer by layer: where a target's numbers leave those of a reference, and which module makes the error."""
