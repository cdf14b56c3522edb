from bullmq.backends.redis_backend import RedisBackend as RedisBackend
