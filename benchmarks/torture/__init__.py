"""The torture test: workers, producers, and a controller that breaks what is between them.

| Module | What |
|---|---|
| `plan` | which jobs are added when and by whom, and what each demands; drawn from the seed |
| `producer`, `tests/node/torture_producer.mjs` | add them, and say which were acknowledged |
| `program`, `work` | the worker process, and its processors |
| `ledger` | the file in which each run of a job leaves its start and its end |
| `crew` | the worker processes: started, watched, started again |
| `faults` | what is broken when; drawn from the seed; and the record of what was done |
| `saboteur` | does it |
| `state`, `sockets` | what Redis holds at the end; how many connections a process has |
| `evidence` | all of these together, and the history of a job |
| `causes` | why a job ran again |
| `verdict` | what must hold |
| `controller` | one whole run |
| `report` | its result as an object and as text |
"""
