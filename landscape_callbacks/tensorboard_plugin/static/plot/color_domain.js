// From values to shares of a colour scale: logarithmic when they are positive and span decades, and not ruled by outliers.

import { formatNumber } from "../format.js";

/**
 * {share(value) -> 0..1, low, high, logarithmic} for arrays of values; `cut` is the share left out at the top. A logarithmic
 * scale begins at `floor` times its highest value, if that is above the lowest. */
export function colorDomain(arrays, { logarithmic = null, cut = 0.01, floor = 0 } = {}) {
  const values = sample(arrays);
  if (!values.length) return { share: () => 0, low: NaN, high: NaN, logarithmic: false };
  const low = values[0];
  const high = values[Math.max(0, Math.ceil(values.length * (1 - cut)) - 1)];
  const useLog = logarithmic ?? (low > 0 && high / low > 30);
  if (useLog && high > 0) {
    const positive = Math.max(low > 0 ? low : (values.find((value) => value > 0) ?? high), high * floor);
    const [bottom, top] = [Math.log10(positive), Math.log10(high)];
    const share = (value) => (value > 0 ? (Math.log10(value) - bottom) / (top - bottom || 1) : 0);
    return { share, low: positive, high, logarithmic: true };
  }
  return { share: (value) => (value - low) / (high - low || 1), low, high, logarithmic: false };
}

/** In words, for the legend. */
export function describeDomain({ low, high, logarithmic }) {
  return { low: formatNumber(low, 3), high: formatNumber(high, 3), scale: logarithmic ? "log" : "linear" };
}

function sample(arrays) {
  const total = arrays.reduce((sum, array) => sum + array.length, 0);
  const stride = Math.max(1, Math.floor(total / 200000));
  const values = [];
  for (const array of arrays) {
    for (let index = 0; index < array.length; index += stride) {
      if (Number.isFinite(array[index])) values.push(array[index]);
    }
  }
  return Float64Array.from(values).sort();
}
