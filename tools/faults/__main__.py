"""`PYTHONPATH=tools python -m faults`: see the package."""

import sys

from faults.campaign import main

sys.exit(main())
