// What the page knows and what is chosen: runs, their series, the step, the layout. Views read it and are told when it changed.

import { RecordQueue } from "./data/record_queue.js";
import { Series } from "./data/series.js";
import { episodeAt, episodes, measuredAt, startOf } from "./data/episodes.js";
import { metricOf, usualMetrics } from "./data/metric.js";

const RUN_COLORS = ["--run-0", "--run-1", "--run-2", "--run-3", "--run-4", "--run-5", "--run-6", "--run-7"];
const SELECTED_AT_FIRST = 3;
const REQUESTS_AT_ONCE = 4;
const LOAD_ORDER = ["verdict", "action", "eigenvalues", "slice", "density", "plane"];
// Blocks of 8 records from which on a series is previewed.
const LONG_SERIES = 64;
// Bytes of records to load at once. A plane is large and looked at one step at a time.
const BUDGET = new Map([
  ["plane", 0],
  ["verdict", 8e6],
  ["eigenvalues", 8e6],
  ["density", 2e6],
]);
const DEFAULT_BUDGET = 1e6;

export class Model {
  constructor(source) {
    this.source = source;
    this.runs = new Map();
    this.loaded = false;
    this.steps = [];
    this.step = 0;
    this.following = true;
    this.layout = "overlay";
    this.options = { lossAxis: "linear", lineAxis: "own", curvatureAxis: "linear", densityAxis: "linear", metricAxis: "linear" };
    this.metrics = null;
    this.version = 0;
    this.problem = null;
    this.listeners = [];
    this.queue = new RecordQueue(source, (problem) => this.fetched(problem));
    this.scheduled = false;
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  /** Tells the views at the next frame, once for all changes until then. */
  changed() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      for (const listener of this.listeners) listener(this);
    });
  }

  /** Asks the source what there is, and loads what is new of the selected runs. */
  async refresh() {
    let answer;
    try {
      answer = await this.source.runs();
    } catch (error) {
      this.problem = error.message;
      this.loaded = true;
      this.changed();
      return;
    }
    this.problem = null;
    this.takeRuns(answer);
    this.loaded = true;
    this.changed();
    await Promise.all(this.selected().flatMap((run) => [this.loadMetrics(run), this.loadRun(run)]));
  }

  takeRuns(answer) {
    const names = new Set(answer.map((entry) => entry.run));
    for (const name of [...this.runs.keys()]) if (!names.has(name)) this.runs.delete(name);
    for (const { run: name, series } of answer) {
      if (!this.runs.has(name)) {
        const color = RUN_COLORS[this.runs.size % RUN_COLORS.length];
        const empty = { series: new Map(), metricTags: [], metrics: new Map(), problem: null };
        this.runs.set(name, { name, color, selected: false, ...empty });
      }
      this.runs.get(name).summaries = series;
    }
    if (!this.selected().length) this.selectAtFirst();
  }

  /** A few runs are all shown; of many, the one that was written to last. */
  selectAtFirst() {
    const runs = [...this.runs.values()];
    const latest = (run) => Math.max(0, ...run.summaries.map((summary) => summary.last_time));
    const chosen =
      runs.length <= SELECTED_AT_FIRST ? runs : [...runs].sort((a, b) => latest(b) - latest(a)).slice(0, 1);
    for (const run of chosen) run.selected = true;
  }

  selected() {
    return [...this.runs.values()].filter((run) => run.selected);
  }

  async select(name, selected) {
    const run = this.runs.get(name);
    if (!run) return;
    run.selected = selected;
    this.dataChanged();
    if (selected) await Promise.all([this.loadRun(run), this.loadMetrics(run)]);
  }

  async loadRun(run) {
    const changed = run.summaries.filter((summary) => {
      const known = run.series.get(`${summary.kind}/${summary.name}`);
      return !known || known.lastTime !== summary.last_time;
    });
    const rank = ({ kind }) => (LOAD_ORDER.includes(kind) ? LOAD_ORDER.indexOf(kind) : LOAD_ORDER.length);
    changed.sort((a, b) => rank(a) - rank(b));
    const long = this.source.live ? changed.filter((summary) => this.isLong(run, summary)) : [];
    await inParallel(long, REQUESTS_AT_ONCE, (summary) => this.loadSeries(run, summary, true));
    await inParallel(changed, REQUESTS_AT_ONCE, (summary) => this.loadSeries(run, summary, false));
  }

  /** A long series that is not known yet is previewed first. */
  isLong(run, { kind, name, blocks }) {
    return blocks > LONG_SERIES && !run.series.has(`${kind}/${name}`);
  }

  async loadSeries(run, { kind, name, last_time: lastTime }, preview) {
    const key = `${kind}/${name}`;
    const budget = BUDGET.get(kind) ?? DEFAULT_BUDGET;
    const series = run.series.get(key) ?? new Series(run.name, kind, name);
    try {
      const part = preview
        ? await this.source.preview(run.name, kind, name, budget)
        : await this.source.records(run.name, kind, name, series.isPreview ? 0 : series.steps.length, budget);
      series.extend(part);
      series.lastTime = preview ? null : lastTime;
      run.series.set(key, series);
      run.problem = null;
    } catch (error) {
      run.problem = error.message;
    }
    this.dataChanged();
  }

  /** The scalars that are shown; the first run that has any decides which. */
  async loadMetrics(run) {
    try {
      const asked = this.metrics;
      let answer = await this.source.metrics(run.name, asked ?? []);
      if (asked === null && answer.available.length) {
        this.metrics ??= usualMetrics(answer.available);
        answer = await this.source.metrics(run.name, this.metrics);
      }
      run.metricTags = answer.available;
      run.metrics = new Map(
        Object.entries(answer.points).map(([tag, { steps, values }]) => [tag, metricOf(steps, values)]),
      );
    } catch (error) {
      run.problem = error.message;
    }
    this.dataChanged();
  }

  async showMetric(tag, shown) {
    this.metrics = (this.metrics ?? []).filter((other) => other !== tag).concat(shown ? [tag] : []);
    this.changed();
    if (shown) await Promise.all(this.selected().map((run) => this.loadMetrics(run)));
  }

  dataChanged() {
    this.version += 1;
    const steps = new Set();
    for (const run of this.selected()) {
      for (const series of run.series.values()) for (const position of series.live) steps.add(series.steps[position]);
      // A run goes on after its last measurement.
      if (run.series.size) for (const metric of run.metrics?.values() ?? []) addLast(metric, steps);
    }
    this.steps = Float64Array.from(steps).sort();
    if (this.steps.length && (this.following || !steps.has(this.step))) {
      this.step = this.following ? this.steps.at(-1) : this.steps[this.nearest(this.step)];
    }
    this.changed();
  }

  /** Index of the step nearest to a place on the time axis. */
  nearest(step) {
    let best = 0;
    for (let index = 1; index < this.steps.length; index += 1) {
      if (Math.abs(this.steps[index] - step) < Math.abs(this.steps[best] - step)) best = index;
    }
    return best;
  }

  /** Chooses a step by its index. At the last one the page follows the run as it grows. */
  goToIndex(index) {
    if (!this.steps.length) return;
    const bounded = Math.min(Math.max(Math.round(index), 0), this.steps.length - 1);
    this.step = this.steps[bounded];
    this.following = bounded === this.steps.length - 1;
    this.changed();
  }

  goToStep(step) {
    this.goToIndex(this.nearest(step));
  }

  index() {
    return this.steps.length ? this.nearest(this.step) : 0;
  }

  setLayout(layout) {
    this.layout = layout;
    this.changed();
  }

  setOption(key, value) {
    this.options[key] = value;
    this.changed();
  }

  /** The selected runs as they share a card: all in one, or each alone. */
  groups() {
    const selected = this.selected();
    if (!selected.length) return [];
    return this.layout === "overlay" ? [selected] : selected.map((run) => [run]);
  }

  /** Names of the series of a kind in the given runs, in the order of the first that has them. */
  names(kind, runs = this.selected()) {
    const names = new Set();
    for (const run of runs)
      for (const series of run.series.values()) if (series.kind === kind) names.add(series.name);
    return [...names];
  }

  /** The record that holds at the chosen step: the last one at or before it. What is not loaded is asked for. */
  recordAt(series, step = this.step) {
    if (!series) return null;
    const index = series.indexAt(step);
    if (index < 0) return null;
    const position = series.live[index];
    // Positions of a preview count blocks, not records.
    if (!series.records.has(position) && !series.isPreview) this.queue.want(series, position);
    return series.loadedAt(index);
  }

  fetched(problem) {
    if (problem) this.problem = problem;
    this.changed();
  }

  /** The verdict episodes of a run. */
  episodes(run) {
    const series = run.series.get("verdict/episode");
    if (!series) return [];
    if (run.episodesOf !== series.version || run.episodesTo !== this.steps.at(-1)) {
      run.episodeList = episodes(series, lastStep(run));
      run.episodesOf = series.version;
      run.episodesTo = this.steps.at(-1);
    }
    return run.episodeList;
  }

  /** The episode of a step of a run, its latest record up to that step, and when that was measured; null before the first. */
  verdictAt(run, step) {
    const episode = episodeAt(this.episodes(run), step);
    if (!episode) return null;
    const series = run.series.get("verdict/episode");
    const latest = this.recordAt(series, step);
    const record = latest && startOf(latest) === episode.start ? latest : episode.record;
    return { episode, record, measured: measuredAt(series, record) };
  }

  /** How many records of the selected runs could not be read. */
  broken(run) {
    return [...run.series.values()].reduce((sum, series) => sum + series.broken, 0);
  }
}

function addLast({ steps }, all) {
  if (steps.length) all.add(steps.at(-1));
}

function lastStep(run) {
  return Math.max(...[...run.series.values()].map((series) => series.steps[series.live.at(-1)] ?? 0));
}

async function inParallel(items, width, work) {
  const queue = [...items];
  const worker = async () => {
    while (queue.length) await work(queue.shift());
  };
  await Promise.all(Array.from({ length: Math.min(width, queue.length) }, worker));
}
