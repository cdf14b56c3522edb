"""Types of the parts of upstream's `bullmq` that bullpy uses; the package ships none."""

from bullmq.flow_producer import FlowProducer as FlowProducer
from bullmq.job import Job as Job
from bullmq.queue import Queue as Queue
from bullmq.queue_events import QueueEvents as QueueEvents
from bullmq.worker import Worker as Worker
