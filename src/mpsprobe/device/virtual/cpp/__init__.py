"""The C++ seams of the virtual device: PyTorch's guard, hooks and tensors, reached through ctypes."""
