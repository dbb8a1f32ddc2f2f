"""Models without their weights: built from a config, with random values or none, and run on made-up inputs."""
