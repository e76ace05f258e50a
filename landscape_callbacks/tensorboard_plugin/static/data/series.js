// The records of one monitor under one name in one run: all steps are known, not all records need be loaded.

import { decodeRecord } from "./record.js";

export class Series {
  constructor(run, kind, name) {
    this.run = run;
    this.kind = kind;
    this.name = name;
    this.clear();
  }

  clear() {
    this.steps = [];
    this.records = new Map();
    this.broken = 0;
    this.live = [];
    this.isPreview = false;
    this.version = (this.version ?? 0) + 1;
    this.sorted = null;
  }

  /** Takes in an answer of the source: the steps from `first` on, and the records at some positions. */
  extend({ first, steps, positions, lines, preview = false }) {
    if (first !== this.steps.length || this.isPreview) this.clear();
    this.isPreview = preview;
    for (const step of steps) this.append(step);
    positions.forEach((position, index) => this.put(position, lines[index]));
    this.version += 1;
    this.sorted = null;
  }

  /** Takes in one record. */
  put(position, line) {
    const record = decodeRecord(line);
    if (record === null) this.broken += 1;
    this.records.set(position, record);
    this.sorted = null;
    this.version += 1;
  }

  /** A run that was resumed from a checkpoint repeats steps: what lay after the checkpoint is superseded. */
  append(step) {
    while (this.live.length && this.steps[this.live[this.live.length - 1]] > step) this.live.pop();
    this.live.push(this.steps.length);
    this.steps.push(step);
  }

  /** Index into `live` of the last record at or before a step; -1 before the first. */
  indexAt(step) {
    let [low, high] = [0, this.live.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[this.live[middle]] <= step) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Loaded records in the order of their steps. */
  loaded() {
    this.sorted ??= this.live.map((position) => this.records.get(position)).filter((record) => record);
    return this.sorted;
  }

  /** The loaded records at every `stride`-th place before an index, latest first. */
  before(index, stride, count) {
    const found = [];
    for (let place = index - stride; place >= 0 && found.length < count; place -= stride) {
      const record = this.loadedAt(place, place - stride);
      if (record && record !== found[found.length - 1]) found.push(record);
    }
    return found;
  }

  /** The loaded record at an index, or the nearest one before it, down to `lowest`. */
  loadedAt(index, lowest = -1) {
    for (let place = index; place > lowest && place >= 0; place -= 1) {
      const record = this.records.get(this.live[place]);
      if (record) return record;
    }
    return null;
  }
}
