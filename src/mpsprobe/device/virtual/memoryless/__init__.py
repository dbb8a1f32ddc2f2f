"""The memoryless engine: tensors at full size without memory, for predictions."""
