"""What a Mac would do with a model, from its code and config alone: no weights, no memory, no Mac.

The model is built on ghosts (`device.virtual.predict`) and runs there; the op uses that reach the MPS key are
joined with the tables of a torch release. docs/predict.md says what that can know and what not.
"""

from mpsprobe.prediction.document import Prediction
from mpsprobe.prediction.predict import predict, predict_releases

__all__ = ["Prediction", "predict", "predict_releases"]
