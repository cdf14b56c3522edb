"""The checks, each with the causes that it can name; importing this package declares all."""

from bullpy.doctor.checks import (
    absence,
    access,
    active,
    failures,
    ignored,
    limits,
    lost,
    pauses,
    places,
    reconnects,
    sharing,
    stalls,
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
    "active",
    "failures",
    "ignored",
    "limits",
    "lost",
    "pauses",
    "places",
    "reconnects",
    "sharing",
    "stalls",
    "stuck",
    "urls",
    "versions",
    "waiting",
]
