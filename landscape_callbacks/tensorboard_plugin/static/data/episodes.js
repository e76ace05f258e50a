// Verdict episodes: from when to when the diagnosis said what.

import { toNumber } from "../format.js";

/** What each verdict looks like: a CSS custom property for its colour, and a sign that does not rest on colour. */
export const VERDICTS = {
  progressing: { color: "--verdict-progressing", sign: "↘" },
  "noise floor": { color: "--verdict-noise-floor", sign: "≈" },
  "strict saddle": { color: "--verdict-strict-saddle", sign: "⋈" },
  "approximate second-order point": { color: "--verdict-second-order", sign: "∪" },
  flat: { color: "--verdict-flat", sign: "—" },
  "step too small": { color: "--verdict-step-too-small", sign: "·" },
  unstable: { color: "--verdict-unstable", sign: "⚡" },
  undetermined: { color: "--verdict-undetermined", sign: "?" },
};

export function verdictStyle(verdict) {
  return Object.hasOwn(VERDICTS, verdict) ? VERDICTS[verdict] : VERDICTS.undetermined;
}

/**
 * The episodes of a run in order: {start, end, verdict, record}. An episode is recorded when it begins and again while it
 * lasts; the latest record of each start counts. An episode without an end lasts until the next one, or `lastStep`.
 */
export function episodes(series, lastStep) {
  const byStart = new Map();
  for (const record of series?.loaded() ?? []) {
    const start = startOf(record);
    if (Number.isFinite(start)) byStart.set(start, record);
  }
  const starts = [...byStart.keys()].sort((a, b) => a - b);
  return starts.map((start, index) => {
    const record = byStart.get(start);
    const written = toNumber(record.info.episode_end);
    const end = Number.isFinite(written) ? written : (starts[index + 1] ?? Math.max(lastStep, start));
    return {
      start,
      end,
      ongoing: !Number.isFinite(written),
      verdict: String(record.info.verdict ?? "undetermined"),
      record,
    };
  });
}

/** The step that the episode of a verdict record began at. */
export function startOf(record) {
  return toNumber(record.info.episode_start ?? record.step);
}

/**
 * The step that the verdict of a record was measured at. A record written at the end of an episode repeats an earlier look;
 * where it does not say which, it is the last one of the episode before it.
 */
export function measuredAt(series, record) {
  const written = toNumber(record.info.measured_step);
  if (Number.isFinite(written)) return written;
  const isLook = (other) => startOf(other) === startOf(record) && !Number.isFinite(toNumber(other.info.episode_end));
  const looks = series.loaded().filter((other) => other.step <= record.step && isLook(other));
  return looks.at(-1)?.step ?? startOf(record);
}

/** The episode that a step lies in: the last one that began at or before it. */
export function episodeAt(list, step) {
  return list.filter((episode) => episode.start <= step).at(-1) ?? null;
}
