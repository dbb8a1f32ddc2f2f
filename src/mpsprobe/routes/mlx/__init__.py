"""The MLX route: which parts of a target exist in mlx-lm or mlx-vlm, what is to be written, and whether it agrees."""
