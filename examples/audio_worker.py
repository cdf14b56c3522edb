"""A worker for the queue `audio-analyzer`: measures the files that jobs name.

export REDIS_URL=redis://localhost:6379
export BULLPY_AUDIO_ROOT=/srv/music          # where the jobs' fileKey begins
bullpy worker examples/audio_worker.py
"""

import logging

from bullpy import Worker, run
from bullpy.audio import process_audio

log = logging.getLogger("audio")
worker = Worker("audio-analyzer")

worker.processor("process-audio")(process_audio)


@worker.on("completed")
def completed(job, result):
    log.info("%s: %s LUFS", result["metadata"]["fileName"], result["loudness"]["integrated"])


@worker.on("failed")
def failed(job, error):
    log.warning("job %s failed: %s", job.id, error)


if __name__ == "__main__":
    run(worker)
