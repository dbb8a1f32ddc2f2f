"""Will this model run on that Mac, how well, and what should its owner do?"""

__version__ = "0.1.0"
