"""Routes: what a run's evidence says of MPS, a hybrid, MLX and a cloud GPU, and which its owner should take."""
