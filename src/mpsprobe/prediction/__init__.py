"""What a Mac would do with a model, from its code and config alone: no weights, no memory, no Mac.

The model is built on memoryless tensors (`device.virtual.memoryless`) and runs there; the op uses that reach the MPS
key are joined with the tables of a torch release. The result is a run like any other (`run.Run`), with `predicted`
set. docs/predict.md says what a prediction can know and what it cannot.
"""
