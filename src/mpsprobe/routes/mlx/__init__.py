"""The MLX route: which parts of a target MLX's libraries have, what must be written, and whether results agree."""
