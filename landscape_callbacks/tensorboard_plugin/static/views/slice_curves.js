// What is drawn of a slice: the curve with its error, ghosts of earlier ones, the parabola of its curvature, validation.

import { toNumber } from "../format.js";
import { band, dots, line, verticalRule } from "../plot/layers.js";
import { interpolate } from "../plot/raster.js";
import { extent } from "../plot/scales.js";
import { splineCurve } from "../plot/spline.js";
import { color, faded } from "../plot/theme.js";

/** Whether a record has what a slice needs. */
export function isSlice({ arrays: { alpha, loss } }) {
  return alpha?.length > 1 && alpha.length === loss?.length;
}

/** The value of a slice's spline at a place. */
export function valueOf(alpha, values, place) {
  const { xs, ys } = splineCurve(alpha, values);
  return interpolate(xs, ys, place);
}

/** The curves of now in full; ghosts may stretch the axis by its own length, since the loss falls by orders. */
export function lossDomain(curves, ghosts) {
  const [low, high] = extent(...curves);
  const [lowest, highest] = extent(...curves, ...ghosts);
  const room = high - low || Math.abs(high) || 1;
  return [Math.max(lowest, low - room), Math.min(highest, high + room)];
}

/** How each curve looks, in the plot and in its legend; `alone` when a run has the plot for itself: colours of their own. */
export function sliceStyles(run, alone) {
  const shade = alone ? color("--curve") : color(run.color);
  const own = (name) => (alone ? color(name) : shade);
  return {
    loss: { color: shade, width: 2.2 },
    earlier: { color: faded(shade, 0.34), width: 1 },
    validation: { color: own("--validation"), dash: [6, 3] },
    regularized: { color: shade, dash: [8, 3, 2, 3], width: 1.2 },
    parabola: { color: own("--parabola"), dash: [2, 3], width: 1.3 },
    best: { color: own("--best-step"), dash: [4, 4] },
  };
}

/** Where the loss is lowest on a line, and whether that is only where the line ends: the loss may fall on beyond it. */
export function lowestPlace({ arrays: { alpha }, info }) {
  const at = toNumber(info.best_step);
  const near = 1e-6 * (alpha.at(-1) - alpha[0]);
  return { at, isEnd: at <= alpha[0] + near || at >= alpha.at(-1) - near };
}

/** The layers of one run. */
export function sliceLayers({ run, record, ghosts }, alone) {
  const styles = sliceStyles(run, alone);
  const shade = styles.loss.color;
  const {
    alpha,
    loss,
    loss_error: error,
    validation_loss: validation,
    regularized_loss: regularized,
  } = record.arrays;
  const fading = (age) => ({ ...styles.earlier, opacity: 1 - age / (ghosts.length + 1) });
  const layers = ghosts.map(({ arrays }, age) => curve(arrays.alpha, arrays.loss, fading(age))).reverse();
  if (error) {
    const ends = [-1, 1].map((sign) => loss.map((value, at) => value + sign * error[at]));
    layers.push(band(alpha, ...ends, { color: shade }));
  }
  const parabola = parabolaOf(record);
  if (parabola) layers.push(line(parabola.xs, parabola.ys, styles.parabola));
  if (validation) layers.push(curve(alpha, validation, styles.validation));
  if (regularized) layers.push(curve(alpha, regularized, styles.regularized));
  layers.push(curve(alpha, loss, styles.loss));
  if (alpha.length <= 25) layers.push(dots(alpha, loss, { color: shade, radius: 2.2 }));
  const here = interpolate(alpha, loss, 0);
  if (Number.isFinite(here)) layers.push(dots([0], [here], { color: shade, radius: 4, outline: color("--card") }));
  const lowest = lowestPlace(record);
  if (Number.isFinite(lowest.at) && !lowest.isEnd) layers.push(verticalRule(lowest.at, styles.best));
  return layers;
}

/** L(0) + sα + ½κα² with the recorded curvature κ and the slope s of the curve at 0; null where either is unknown. */
function parabolaOf(record) {
  const { alpha, loss } = record.arrays;
  const curvature = toNumber(record.info.curvature);
  const [below, above] = neighbours(alpha);
  const here = interpolate(alpha, loss, 0);
  if (!Number.isFinite(curvature) || !Number.isFinite(here) || below === above) return null;
  // The secant over [a, b] has slope s + ½κ(a + b) on a parabola.
  const secant = (loss[above] - loss[below]) / (alpha[above] - alpha[below]);
  const slope = secant - 0.5 * curvature * (alpha[above] + alpha[below]);
  const { xs } = splineCurve(alpha, loss);
  return { xs, ys: xs.map((place) => here + slope * place + 0.5 * curvature * place * place) };
}

/** The spline through a slice's points. */
function curve(alpha, values, style) {
  const { xs, ys } = splineCurve(alpha, values);
  return line(xs, ys, style);
}

/**
 * Indices of the grid points next to 0 on both sides, one of them 0 itself at the end of the grid. Points closer than
 * 2 % of the slice are passed over: between them rounding shows.
 */
function neighbours(alpha) {
  const reach = 0.02 * (alpha.at(-1) - alpha[0]);
  let [below, above] = [0, alpha.length - 1];
  for (let index = 0; index < alpha.length; index += 1) {
    if (alpha[index] < -reach) below = index;
    if (alpha[index] > reach) {
      above = index;
      break;
    }
  }
  return [below, above];
}
