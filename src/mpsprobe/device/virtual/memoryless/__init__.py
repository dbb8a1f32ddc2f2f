"""The memoryless engine: tensors of full size without memory, for predictions."""
