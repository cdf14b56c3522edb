"""`bullpy doctor`: why a queue is not consumed, with proof and fix.

```python
diagnosis = await diagnose(["audio-analyzer"])
print(diagnosis.level.word, [verdict.code for verdict in diagnosis.verdicts])
```
"""

from __future__ import annotations

from bullpy.doctor.diagnose import Diagnosis, check_project, diagnose
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict

__all__ = [
    "CHECKS",
    "Cause",
    "Certainty",
    "Diagnosis",
    "Level",
    "Proof",
    "Verdict",
    "check_project",
    "diagnose",
]
