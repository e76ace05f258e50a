// Records that are wanted now but were not loaded with their series. While the slider is dragged many are passed by: the
// latest wish goes first, and old ones are dropped.

const REQUESTS_AT_ONCE = 4;
const WISHES_KEPT = 24;

export class RecordQueue {
  /** `done(problem)` is called after each record, with a sentence when it could not be fetched. */
  constructor(source, done) {
    this.source = source;
    this.done = done;
    this.waiting = [];
    this.underway = new Set();
  }

  want(series, position) {
    const key = `${series.run}\n${series.kind}\n${series.name}\n${position}`;
    if (this.underway.has(key)) return;
    this.waiting = this.waiting.filter((wish) => wish.key !== key).slice(1 - WISHES_KEPT);
    this.waiting.push({ key, series, position });
    this.fetchNext();
  }

  async fetchNext() {
    if (this.underway.size >= REQUESTS_AT_ONCE || !this.waiting.length) return;
    const { key, series, position } = this.waiting.pop();
    this.underway.add(key);
    let problem = null;
    try {
      series.put(position, await this.source.record(series.run, series.kind, series.name, position));
    } catch (error) {
      series.records.set(position, null);
      problem = error.message;
    }
    this.underway.delete(key);
    this.done(problem);
    this.fetchNext();
  }
}
