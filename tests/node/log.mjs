// What happened, in order, and a way to wait for it. Entries are kept, so that what
// happened before a test asks is not missed.

export class EventLog {
  entries = [];
  #waiting = new Set();

  push(entry) {
    const stored = { index: this.entries.length, at: Date.now(), ...entry };
    this.entries.push(stored);
    for (const waiter of [...this.#waiting]) waiter(stored);
  }

  /** The entries from index `after` on, optionally of one event or job only. */
  list({ after = 0, event, jobId } = {}) {
    return this.entries.slice(after).filter((entry) => matches(entry, event, jobId));
  }

  /** The `count`-th matching entry from index `after` on, waiting up to `timeout` ms. */
  async waitFor({ event, jobId, after = 0, count = 1, timeout = 10_000 }) {
    const found = this.list({ after, event, jobId });
    if (found.length >= count) return found[count - 1];
    let missing = count - found.length;
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        this.#waiting.delete(waiter);
        settle(value);
      };
      const waiter = (entry) => {
        if (!matches(entry, event, jobId)) return;
        missing -= 1;
        if (missing === 0) finish(resolve, entry);
      };
      const timer = setTimeout(() => {
        const seen = this.entries.slice(-20).map((entry) => `${entry.event}:${entry.jobId ?? ''}`);
        const wanted = `${event}${jobId === undefined ? '' : ` of job ${jobId}`} (${count})`;
        finish(reject, new Error(`no ${wanted} within ${timeout} ms; the last: ${seen.join(' ')}`));
      }, timeout);
      this.#waiting.add(waiter);
    });
  }
}

function matches(entry, event, jobId) {
  return (
    (event === undefined || entry.event === event) &&
    (jobId === undefined || entry.jobId === jobId)
  );
}
