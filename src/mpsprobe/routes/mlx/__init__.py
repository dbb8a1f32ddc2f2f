"""The MLX route: which parts of a target exist in MLX's libraries, what is to be written, and whether it agrees."""
