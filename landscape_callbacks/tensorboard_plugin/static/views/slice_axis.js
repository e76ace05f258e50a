// The axis that the lines of several runs share: α itself, or each line over its own length where those differ by far.

import { formatNumber } from "../format.js";
import { extent } from "../plot/scales.js";
import { axisControl } from "./controls.js";

const FAR = 10;

/** The choice of the axis, there only where several lines share one. */
export function lineControl() {
  const { element, update } = axisControl("Line axis", "lineAxis", [
    ["own", "own α"],
    ["same", "same α"],
  ]);
  return {
    element,
    update: (model) => {
      update(model);
      if (model.layout !== "overlay" || model.selected().length < 2) element.hidden = true;
    },
  };
}

/**
 * {lengths, domain, title, note} for entries {run, record}: what is drawn at x lies at α = x · length. With "own" α, lines that
 * differ more than tenfold get a length each, so that none shrinks to a dot.
 */
export function lineAxis(shown, choice) {
  const reaches = shown.map(({ record }) => reachOf(record.arrays.alpha));
  const differ = Math.max(...reaches) > FAR * Math.min(...reaches);
  const own = differ && choice === "own";
  const lengths = reaches.map((reach) => (own ? reach : 1));
  const unit = shown[0]?.record.info.unit;
  const inUnit = unit ? `α (${unit})` : "α";
  return {
    lengths,
    domain: extent(...shown.map(({ record }, index) => record.arrays.alpha.map((place) => place / lengths[index]))),
    title: own ? `${inUnit}, as a share of each run's own reach` : inUnit,
    note: differ ? noteOn(shown, reaches, own) : "",
  };
}

/** A layer in α, drawn on an axis of shares of a length. */
export function over(length, layer) {
  return (context, frame) => layer(context, { ...frame, x: (place) => frame.x(place / length) });
}

function reachOf(alpha) {
  return Math.max(Math.abs(alpha[0]), Math.abs(alpha.at(-1))) || 1;
}

function noteOn(shown, reaches, own) {
  if (!own) return "The lines differ more than tenfold in length; “own α” shows each in full.";
  const words = shown.map(({ run }, index) => `${run.name} ±${formatNumber(reaches[index], 3)}`);
  return `The lines differ more than tenfold in length, so 1 is another α for each: ${words.join(", ")}.`;
}
