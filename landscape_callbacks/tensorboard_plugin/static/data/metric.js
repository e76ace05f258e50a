// Scalars that a run logged, such as its loss.

import { toNumber } from "../format.js";

const USUAL = [/^(train[_/])?loss(_step)?$/, /train.*loss|loss.*train/i, /val.*loss|loss.*val/i, /^gradient\/norm$/];

/** {steps, values} as arrays of numbers. */
export function metricOf(steps, values) {
  return { steps: Float64Array.from(steps), values: Float64Array.from(values, toNumber) };
}

/** What to show before anybody chose: training loss, validation loss, gradient norm, as far as they were logged. */
export function usualMetrics(available) {
  const chosen = USUAL.map((pattern) => available.find((tag) => pattern.test(tag))).filter(
    (tag) => tag !== undefined,
  );
  const unique = [...new Set(chosen)];
  return unique.length ? unique : available.filter((tag) => /loss/i.test(tag)).slice(0, 2);
}

/** Index of the last point at or before a step; -1 before the first. */
export function lastAt(steps, step) {
  let [low, high] = [0, steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
