"""Routes: what a run's evidence says about MPS, a hybrid, MLX and a cloud GPU, and which of them to take."""
