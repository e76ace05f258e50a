// Colour scales: viridis for losses (Smith & van der Walt 2015, CC0), paper to ink for densities.

import { channels } from "./theme.js";

const VIRIDIS = [
  "#440154",
  "#482878",
  "#3e4989",
  "#31688e",
  "#26828e",
  "#1f9e89",
  "#35b779",
  "#6ece58",
  "#b5de2b",
  "#fde725",
].map(channels);

/** [red, green, blue] at a share from 0 to 1. */
export function viridis(share) {
  return between(VIRIDIS, share);
}

/** A colour scale from one colour through others to the last. */
export function ramp(...hexes) {
  const stops = hexes.map(channels);
  return (share) => between(stops, share);
}

/** The scale as the value of a CSS background. */
export function gradient(scale) {
  const stops = Array.from(
    { length: 11 },
    (_, index) =>
      `rgb(${scale(index / 10)
        .map(Math.round)
        .join(" ")})`,
  );
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

function between(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  const weight = place - index;
  return stops[index].map((value, channel) => value + (stops[index + 1][channel] - value) * weight);
}
