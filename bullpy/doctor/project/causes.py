"""The causes that a project's files tell of; those of the table of 49 stand in `checks.urls`."""

from __future__ import annotations

from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level


def _cause(
    code: str,
    level: Level,
    *,
    title: str,
    symptom: str,
    why: str,
    fix: str,
    certainty: Certainty = Certainty.STATED,
) -> Cause:
    cause = Cause(code, 0, level, title, symptom, why, fix, certainty)
    CHECKS.declare(cause)
    return cause


ONE_PROCESS = _cause(
    "one-process-started",
    Level.WARNING,
    title="The platform starts one process, and the worker is another one",
    symptom="The API adds jobs, no worker ever connects, and nothing in the logs is wrong.",
    why=(
        "Railway and Nixpacks start one command per service: `startCommand`, or the `web` line of "
        "the Procfile. Further lines, such as `worker`, are not started. Whether another service "
        "starts the worker is not seen from the files."
    ),
    fix=(
        "Give the worker a service of its own with its own start command, or start both with a "
        "supervisor that ends when one of them ends."
    ),
    certainty=Certainty.PROBABLE,
)

NO_START = _cause(
    "worker-not-started",
    Level.WARNING,
    title="No start command reaches the worker",
    symptom="Jobs pile up after a deployment although the worker runs on every laptop.",
    why=(
        "The code has a worker, and none of the commands that the platform's files name starts "
        "the file that it stands in, or one that imports it."
    ),
    fix="Add a process or a service for the worker to the platform's files.",
    certainty=Certainty.PROBABLE,
)

BACKGROUND = _cause(
    "start-in-background",
    Level.WARNING,
    title="A start command puts a process into the background",
    symptom="The service is up, and the worker has been gone for days.",
    why=(
        "A shell does not watch what it starts with `&`: when that process dies nobody restarts "
        "it, and SIGTERM of the platform never reaches it."
    ),
    fix="Start each process as a service of its own, or use a supervisor.",
)

ORPHANS = _cause(
    "children-orphaned",
    Level.WARNING,
    title="A start script does not pass SIGTERM on to its children",
    symptom="After a deployment old and new workers run side by side, or jobs stall at each one.",
    why=(
        "Platforms stop a service with SIGTERM to its first process. A script that starts children "
        "and has no handler for it dies at once; its children go on without a parent, or are "
        "killed in the middle of their jobs."
    ),
    fix="Handle SIGTERM and SIGINT: pass the signal to every child, wait for them, then exit.",
)

EXIT_ZERO = _cause(
    "exit-code-lost",
    Level.WARNING,
    title="A killed child ends the start script with exit code 0",
    symptom="The worker was killed, out of memory, and the platform does not restart the service.",
    why=(
        "Node gives the exit handler of a child `(code, signal)`, and `code` is null when a signal "
        "killed it. `process.exit(null)` and `process.exit()` end with code 0, which a restart "
        "policy of `on failure` takes for success."
    ),
    fix="Write child.on('exit', (code, signal) => process.exit(code ?? 1)).",
)

GIVES_UP = _cause(
    "restart-gives-up",
    Level.WARNING,
    title="The platform stops restarting after a few failures",
    symptom="After a short outage of Redis the worker stays down until somebody looks.",
    why=(
        "A worker that cannot reach what it needs may end several times in a minute. With few "
        "retries, or with none, the platform then leaves the service down; jobs pile up."
    ),
    fix="Restart always, or raise the number of retries to at least 10, and alert on the last one.",
)

HEALTH_ONCE = _cause(
    "health-checked-once",
    Level.OK,
    title="The platform asks for health at deployments only",
    symptom="The worker hangs, and the health check of the platform does not notice.",
    why=(
        "Railway calls `healthcheckPath` until a deployment is live and not after that; Fly does "
        "not restart a machine whose check fails."
    ),
    fix="Let the process end by itself, with a code other than 0, when it cannot do its work.",
)

KEYS = _cause(
    "keys-in-health-check",
    Level.WARNING,
    title="A health check runs KEYS",
    symptom="Redis answers slowly every few seconds, in step with the health check.",
    why=(
        "KEYS goes through every key of the server in one piece and lets nobody else do anything "
        "meanwhile: 51 ms with 200,000 keys."
    ),
    fix="Ask for what is meant: LLEN or ZCARD of a key, or queue.getJobCounts(); never KEYS.",
)

MAX_RETRIES = _cause(
    "retries-per-request",
    Level.BLOCKED,
    title="The client of a worker gives up commands after some retries",
    symptom="BullMQ: Your redis options maxRetriesPerRequest must be null.",
    why=(
        "A worker waits in blocking commands for as long as it takes. ioredis gives a command up "
        "after 20 reconnects unless told otherwise, so BullMQ refuses a client of a worker or of "
        "QueueEvents whose `maxRetriesPerRequest` is not null. Options in place of a client are "
        "corrected by BullMQ itself."
    ),
    fix="Make the client with maxRetriesPerRequest: null, or pass the options in its place.",
)

OFFLINE_QUEUE = _cause(
    "offline-queue-off",
    Level.WARNING,
    title="The client of a worker refuses commands while it reconnects",
    symptom="Stream isn't writeable and enableOfflineQueue options is false, after each outage.",
    why=(
        "With `enableOfflineQueue: false` ioredis refuses commands while it is not connected. That "
        "is meant for producers, which are to fail fast. A worker that finishes a job meanwhile "
        "cannot store its result, and the job runs again."
    ),
    fix="Leave the option out for workers and for QueueEvents.",
)

KEY_PREFIX = _cause(
    "ioredis-key-prefix",
    Level.BLOCKED,
    title="ioredis' keyPrefix is set on a connection of BullMQ",
    symptom="ioredis does not support ioredis prefixes, or jobs are added and never found.",
    why=(
        "ioredis puts its prefix before the keys that it sees, and the scripts of BullMQ make "
        "further keys inside Redis, without it. BullMQ refuses clients with a `keyPrefix`; given "
        "as an option it splits the queue."
    ),
    fix="Use the option prefix of Queue and Worker instead, the same on both.",
)

NESTED = _cause(
    "nested-settings",
    Level.WARNING,
    title="Options of the worker stand in settings, where BullMQ does not look",
    symptom="Stalled jobs come back after 30 s, whatever the options say.",
    why=(
        "Bull had `settings: {stalledInterval, maxStalledCount, lockDuration}`. BullMQ takes them "
        "at the top of the options and ignores them in `settings` without a word."
    ),
    fix="Move them out of settings, to the top of the worker's options.",
)

STALLED_ID = _cause(
    "stalled-handler-wants-a-job",
    Level.WARNING,
    title="The handler of stalled takes the job, and gets an id",
    symptom="Cannot read properties of undefined, or Cannot destructure, whenever a job stalls.",
    why="BullMQ's workers emit `stalled` with the job's id, as text. Bull gave the job itself.",
    fix="Write worker.on('stalled', (jobId) => ...), and fetch the job where it is needed.",
)

NO_STATE = _cause(
    "no-such-job-state",
    Level.WARNING,
    title="Jobs are asked for by a state that does not exist",
    symptom="The recovery of stalled jobs always finds 0 jobs.",
    why=(
        "`stalled` is an event and no state: a stalled job is in `active` until a worker's stalled "
        "check puts it back into `wait`. `getJobs(['stalled'])` gives an empty list."
    ),
    fix="Remove it: workers recover stalled jobs themselves. Count them with the event stalled.",
)

NAMES = _cause(
    "queue-names-differ",
    Level.WARNING,
    title="Queue and worker have names that are nearly the same",
    symptom="Jobs wait, the worker is idle, and both look right.",
    why=(
        "A queue is found by its exact name. The producer's has no worker here, the worker's no "
        "producer, and they differ by case, spelling or the suffix of an environment. Names of "
        "jobs do not matter."
    ),
    fix="Take the name from one constant on both sides.",
    certainty=Certainty.PROBABLE,
)

PREFIXES = _cause(
    "prefixes-differ",
    Level.WARNING,
    title="Queue and worker of one name have different prefixes",
    symptom="Jobs wait, the worker is idle, and the names are equal.",
    why="Keys are `prefix:queue:...`; another prefix is another queue. The default is bull.",
    fix="Give both the same prefix, or neither.",
)

REMOVED = _cause(
    "failures-removed",
    Level.WARNING,
    title="Failed jobs are removed at once",
    symptom="Jobs vanish: not completed, not failed, nowhere.",
    why="With `removeOnFail: true` a failed job and its reason are gone when it fails.",
    fix="Keep some: removeOnFail: { count: 1000 }, or { age: 7 * 24 * 3600 }.",
)

NOT_RUN = _cause(
    "worker-never-run",
    Level.WARNING,
    title="A worker is made with autorun: false, and nothing runs it",
    symptom="The worker is connected and never takes a job.",
    why="With `autorun: false` a worker fetches nothing until its `run()` is called.",
    fix="Call worker.run(), or leave autorun out.",
)

BULL_MIX = _cause(
    "bull-and-bullmq",
    Level.BLOCKED,
    title="Bull and BullMQ are used on one queue name",
    symptom="Missing process handler for job type, or jobs that only one side sees.",
    why=(
        "Bull 4 and BullMQ keep different things under the same keys, `bull:<name>:...`. A worker "
        "of one takes jobs of the other and fails them."
    ),
    fix="Give the queues of the two libraries different names, or move all to BullMQ.",
)

MAJOR_OPEN = _cause(
    "major-not-pinned",
    Level.WARNING,
    title="The version of a queue library may change its major by itself",
    symptom="It worked yesterday, and nobody changed the code.",
    why=(
        "Majors of BullMQ keep paused, prioritized and waiting jobs in different places, and "
        "redis-py 8 ends connections that redis-py 7 kept. The range allows several majors and no "
        "lock file stands beside it, so an installation takes the newest."
    ),
    fix='Pin the major, such as "bullmq": "^5.61.2", and commit the lock file.',
)

MAJORS = _cause(
    "majors-differ",
    Level.WARNING,
    title="Parts of the project use different majors of BullMQ",
    symptom="Jobs that are added while the queue is paused are lost when it is resumed.",
    why=(
        "BullMQ 5 moves a paused queue's jobs to `paused`, BullMQ 6 leaves them in `wait`. Version "
        "5 loses at `resume` what version 6 has added meanwhile. Workers before 4 do not see "
        "prioritized jobs, and workers before 5 wake late."
    ),
    fix="Use one major everywhere, or resume with the newer one only.",
)

SOCKET_TIMEOUT = _cause(
    "socket-timeout-below-block",
    Level.BLOCKED,
    title="The socket of a Python worker times out before its wait ends",
    symptom="The Python worker is up, logs nothing wrong, and takes jobs late or never.",
    why=(
        "An idle worker waits 5 s in one command, and up to 10 s with delayed jobs. With a shorter "
        "or equal `socket_timeout` redis-py closes the connection each time and waits before it "
        "connects again. redis-py 8 has 5 s unless told otherwise."
    ),
    fix="Use bullpy's Worker, which owns its time-outs, or give the connection socket_timeout: 30.",
)

URLS_DIFFER = _cause(
    "redis-urls-differ",
    Level.WARNING,
    title="Parts of the project name different Redis servers or databases",
    symptom="The API adds jobs, the worker waits, and each is healthy on its own.",
    why=(
        "Files of the same environment give different addresses. Compared are host, port, "
        "database, user, password and TLS; no value is shown. Two addresses with one number lead "
        "to the same place."
    ),
    fix="Let one variable, from one place, give the address to every part.",
    certainty=Certainty.PROBABLE,
)

URL_MISSING = _cause(
    "redis-url-missing",
    Level.WARNING,
    title="One part of the project is not told where Redis is",
    symptom="One service works, and the other says ECONNREFUSED 127.0.0.1:6379, or nothing.",
    why="Its code reads the variable, its neighbours' env files have it, and its own has not.",
    fix="Add the variable to the service that lacks it.",
    certainty=Certainty.PROBABLE,
)

SHARED = _cause(
    "environments-share-redis",
    Level.WARNING,
    title="Development and production use the same Redis and database",
    symptom="Some of production's jobs are done by somebody's laptop.",
    why="Every worker of one queue takes its jobs, wherever it runs.",
    fix="Give each environment a server or a database of its own.",
)
