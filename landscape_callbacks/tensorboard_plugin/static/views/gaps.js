// Measurements far apart: a full line between them would say more than was seen.

const MANY = 3;
const FEWEST = 4;
export const GAP_DASH = [1, 4];

/** Indices after which nothing was measured for more than three times the median interval. */
export function longGaps(xs) {
  const intervals = Array.from({ length: Math.max(xs.length - 1, 0) }, (_, index) => xs[index + 1] - xs[index]);
  if (intervals.length < FEWEST) return [];
  const median = [...intervals].sort((a, b) => a - b)[intervals.length >> 1];
  return intervals.flatMap((interval, index) => (interval > MANY * median ? [index] : []));
}

/** The values with a NaN after each of some indices: a line through them breaks there. */
export function withBreaks(values, gaps) {
  const after = new Set(gaps);
  return Array.from(values).flatMap((value, index) => (after.has(index) ? [value, NaN] : [value]));
}
