"""The words of a run (status, evidence, check, op use) and the one JSON document it leaves behind.

Every report is drawn from `Run` alone. Its types are also the source of `run.schema.json`.
"""

from mpsprobe.run.document import EXIT_CODES, SCHEMA_VERSION, Run, exit_code, json_schema, worst
from mpsprobe.run.outlook import (
    Component,
    Fit,
    Forecast,
    Memory,
    MemoryPart,
    Outlook,
    Range,
    Recommendation,
    Route,
    TimePart,
    Timing,
    Viability,
)
from mpsprobe.run.records import (
    Check,
    DeviceChoice,
    Host,
    Interruption,
    Mac,
    Measurement,
    OpUse,
    Table,
    Target,
    TensorMeta,
)
from mpsprobe.run.words import DEVICES, Evidence, OpVerdict, Phase, Status

__all__ = [
    "DEVICES",
    "EXIT_CODES",
    "SCHEMA_VERSION",
    "Check",
    "Component",
    "DeviceChoice",
    "Evidence",
    "Fit",
    "Forecast",
    "Host",
    "Interruption",
    "Mac",
    "Measurement",
    "Memory",
    "MemoryPart",
    "OpUse",
    "OpVerdict",
    "Outlook",
    "Phase",
    "Range",
    "Recommendation",
    "Route",
    "Run",
    "Status",
    "Table",
    "Target",
    "TensorMeta",
    "TimePart",
    "Timing",
    "Viability",
    "exit_code",
    "json_schema",
    "worst",
]
