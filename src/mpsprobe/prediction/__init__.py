"""Predict what a Mac would do with a model from its code and config only: no weights, no memory, no Mac.

The model is built on memoryless tensors (`device.virtual.memoryless`) and runs there. The op uses that reach the
MPS dispatch key are joined with the tables of a torch release. The result is a run like any other (`run.Run`), with
`predicted` set. docs/predict.md says what a prediction can and cannot know.
"""
