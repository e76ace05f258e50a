// The numbers under a slice, which are its legend: each beside a piece of its curve.

import { formatNumber, formatStep, formatWithError, toNumber } from "../format.js";
import { interpolate } from "../plot/raster.js";
import { lowestPlace, sliceStyles } from "./slice_curves.js";

/** Entries of a readout for one run at a step. */
export function sliceReadout({ run, record, ghosts }, alone, step) {
  const { info, arrays } = record;
  const styles = sliceStyles(run, alone);
  const entries = [];
  const add = (label, value, look = {}, error = NaN) => {
    if (Number.isFinite(toNumber(value))) entries.push({ ...look, label, value: formatWithError(value, error) });
  };
  const here = (values) => (values ? interpolate(arrays.alpha, values, 0) : NaN);
  entries.push({
    ...styles.loss,
    label: alone ? "loss at α = 0" : `${run.name}: loss at α = 0`,
    value: formatWithError(here(arrays.loss), here(arrays.loss_error)),
  });
  add("validation", here(arrays.validation_loss), styles.validation);
  add("with weight decay", here(arrays.regularized_loss), styles.regularized);
  add("curvature", info.curvature, styles.parabola, info.curvature_error);
  // What is logged as slice/…/curvature is per unit length, to compare with eigenvalues.
  const square = toNumber(info.direction_norm) ** 2;
  if (Math.abs(square - 1) > 1e-3) add("per unit length", toNumber(info.curvature) / square);
  const lowest = lowestPlace(record);
  if (lowest.isEnd) entries.push({ label: "lowest", value: `at the end of the line (α ${formatNumber(lowest.at)})` });
  else add("lowest at α", lowest.at, { ...styles.best, shape: "upright" }, info.best_step_error);
  add("barrier", info.barrier);
  add("convexity violation", info.convexity_violation);
  add("interpolation error up to", info.error);
  if (info.nonfinite > 0) add("points that are not finite", info.nonfinite);
  if (ghosts.length) {
    entries.push({ ...styles.earlier, label: "earlier, back to step", value: formatStep(ghosts.at(-1).step) });
  }
  if (record.step !== step) entries.push({ label: "measured at step", value: formatStep(record.step) });
  return entries;
}
