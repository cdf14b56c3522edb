"""The checks, each with the causes that it can name; importing this package declares all."""

from bullpy.doctor.checks import (
    absence,
    access,
    limits,
    pauses,
    places,
    reconnects,
    sharing,
    stuck,
    urls,
    versions,
    waiting,
)
from bullpy.doctor.verdicts import CHECKS

__all__ = [
    "CHECKS",
    "absence",
    "access",
    "limits",
    "pauses",
    "places",
    "reconnects",
    "sharing",
    "stuck",
    "urls",
    "versions",
    "waiting",
]
