// Colours come from the style sheet's custom properties, so that light and dark are decided in one place.

const cache = new Map();
const listeners = new Set();

/** The value of a custom property such as "--text". */
export function color(property) {
  if (!cache.has(property)) {
    cache.set(property, getComputedStyle(document.documentElement).getPropertyValue(property).trim() || "#888888");
  }
  return cache.get(property);
}

/** [red, green, blue] from 0 to 255 of a colour written as #rrggbb. */
export function channels(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

/** The colour with an opacity. */
export function faded(hex, opacity) {
  return `rgba(${channels(hex).join(", ")}, ${opacity})`;
}

/** Calls back when the colours change: the browser went dark or light, or the style sheet has arrived. */
export function onThemeChange(listener) {
  listeners.add(listener);
}

export function refreshTheme() {
  cache.clear();
  for (const listener of listeners) listener();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refreshTheme);
