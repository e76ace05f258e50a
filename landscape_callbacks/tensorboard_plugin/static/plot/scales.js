// Maps between numbers and the unit interval, and the ticks that go with them.

import { formatTick } from "../format.js";

/** Values from `low` to `high` at even distances. */
export function linearScale([low, high]) {
  const span = high - low || 1;
  return {
    domain: [low, high],
    forward: (value) => (value - low) / span,
    inverse: (share) => low + share * span,
    ticks: (count) => linearTicks(low, high, count),
  };
}

/** Positive values at even distances of their logarithms; what is not positive lies below the axis. */
export function logScale([low, high]) {
  const [bottom, top] = [Math.log10(low), Math.log10(high)];
  const span = top - bottom || 1;
  return {
    domain: [low, high],
    forward: (value) => (value > 0 ? (Math.log10(value) - bottom) / span : -1),
    inverse: (share) => 10 ** (bottom + share * span),
    ticks: (count) => logTicks(bottom, top, count),
  };
}

/** Linear up to `threshold` around zero and logarithmic beyond, for values of both signs that span decades. */
export function symlogScale([low, high], threshold) {
  const bend = (value) => Math.sign(value) * Math.log10(1 + Math.abs(value) / threshold);
  const unbend = (bent) => Math.sign(bent) * threshold * (10 ** Math.abs(bent) - 1);
  const [bottom, top] = [bend(low), bend(high)];
  const span = top - bottom || 1;
  return {
    domain: [low, high],
    forward: (value) => (bend(value) - bottom) / span,
    inverse: (share) => unbend(bottom + share * span),
    ticks: (count) => symlogTicks(low, high, threshold, bend, count / span),
  };
}

/** The scale of a kind, after the domain has been made fit for it. */
export function makeScale(kind, domain, positiveLow) {
  let [low, high] = domain;
  if (!Number.isFinite(low) || !Number.isFinite(high)) [low, high] = [0, 1];
  if (kind === "log" && high > 0) {
    const bottom = low > 0 ? low : Math.min(positiveLow > 0 ? positiveLow : high / 1e3, high);
    return logScale(bottom === high ? [bottom / 2, high * 2] : [bottom, high]);
  }
  if (low === high) [low, high] = [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  if (kind === "symlog") return symlogScale([low, high], Math.max(Math.abs(low), Math.abs(high)) / 300);
  return linearScale([low, high]);
}

/** The domain with a margin on both sides, as a share of its length. */
export function padded([low, high], share = 0.05) {
  const margin = (high - low || Math.abs(high) || 1) * share;
  return [low - margin, high + margin];
}

/** [lowest, highest] of the finite numbers of several arrays; [Infinity, -Infinity] when there are none. */
export function extent(...arrays) {
  let [low, high] = [Infinity, -Infinity];
  for (const array of arrays) {
    for (const value of array) {
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) {
    ticks.push({ value: index * step, label: formatTick(index * step, step) });
  }
  return ticks;
}

function logTicks(bottom, top, count) {
  const decades = top - bottom;
  const factors = decades < 1.2 ? [1, 2, 3, 5, 7] : decades < 2.5 ? [1, 3] : [1];
  const stride = Math.max(1, Math.ceil(decades / Math.max(count, 1)));
  const ticks = [];
  for (let exponent = Math.floor(bottom); exponent <= Math.ceil(top); exponent += 1) {
    if (((exponent % stride) + stride) % stride !== 0) continue;
    for (const factor of factors) {
      const value = factor * 10 ** exponent;
      const place = Math.log10(value);
      if (place >= bottom - 1e-9 && place <= top + 1e-9) ticks.push({ value, label: formatTick(value) });
    }
  }
  return ticks;
}

function symlogTicks(low, high, threshold, bend, ticksPerUnit) {
  const ticks = [{ value: 0, label: "0" }];
  const first = Math.ceil(Math.log10(threshold));
  for (const sign of [1, -1]) {
    let previous = 0;
    for (let exponent = first; exponent < first + 12; exponent += 1) {
      const value = sign * 10 ** exponent;
      if (value > high || value < low) continue;
      if (Math.abs(bend(value) - previous) * ticksPerUnit < 0.8) continue;
      previous = bend(value);
      ticks.push({ value, label: formatTick(value) });
    }
  }
  return ticks.filter(({ value }) => value >= low && value <= high);
}
