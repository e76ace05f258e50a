// The loss along one direction: at the chosen step with ghosts of earlier ones, and as a heat map over training.

import { element } from "../dom.js";
import { formatNumber, formatStep, formatWithError, toNumber } from "../format.js";
import { band, dots, line, verticalRule } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { interpolate } from "../plot/raster.js";
import { extent, padded } from "../plot/scales.js";
import { splineCurve } from "../plot/spline.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { HeatMap } from "./heat_map.js";
import { Section, entriesForGroups } from "./section.js";

const KIND = "slice";
const GHOSTS = 8;
const ORDER = ["gradient", "update", "largest_eigenvector", "smallest_eigenvector", "random", "initial", "checkpoint"];
const TITLES = new Map([
  ["gradient", "Along the gradient"],
  ["update", "Along the last update"],
  ["largest_eigenvector", "Along the sharpest direction"],
  ["smallest_eigenvector", "Along the lowest curvature"],
  ["random", "Along a random direction"],
  ["initial", "From the start to now"],
  ["checkpoint", "From the last checkpoint to now"],
]);

export function slicesSection() {
  return new Section({
    id: "slices",
    title: "Slices",
    kind: KIND,
    controls: [axisControl("Loss axis", "lossAxis", [["linear", "linear loss"], ["log", "log loss"]])],
    cards: (model) =>
      inOrder(model.names(KIND)).flatMap((name) =>
        entriesForGroups(model, {
          kind: KIND,
          name,
          title: titleOf(name),
          subtitle: TITLES.has(name) ? name : null,
          create: (runs) => new SliceCard(runs, name),
        }),
      ),
  });
}

class SliceCard {
  constructor(runs, name) {
    this.runs = runs;
    this.key = `${KIND}/${name}`;
    this.plot = new Plot(250);
    this.readout = new Readout();
    this.heatMaps = runs.map((run) => new HeatMap(run, this.key, { grid: "alpha", values: "loss", gridTitle: "α", valueTitle: "loss", curve: splineCurve }));
    this.element = element("div", {}, this.plot.element, this.readout.element, this.heatMaps.map((map) => map.element));
  }

  update(model) {
    const shown = this.runs.map((run) => this.shownOf(model, run)).filter(({ record }) => record && isSlice(record));
    const unit = shown[0]?.record.info.unit;
    const kind = model.options.lossAxis;
    const curves = shown.flatMap(({ record: { arrays } }) => [arrays.loss, arrays.validation_loss ?? []]);
    const [low, high] = lossDomain(curves, shown.flatMap(({ ghosts }) => ghosts.map((ghost) => ghost.arrays.loss)));
    this.plot.show({
      label: sliceLabel(shown),
      x: { kind: "linear", domain: extent(...shown.map(({ record }) => record.arrays.alpha)), title: unit ? `α (${unit})` : "α" },
      y: { kind, domain: kind === "log" ? [low, high] : padded([low, high]), positiveLow: positiveLow(curves), title: "loss" },
      layers: shown.flatMap((entry) => sliceLayers(entry, this.runs.length === 1)),
      hover: (alpha) => sliceHover(shown, alpha, this.runs.length === 1),
    });
    this.readout.show(shown.map((entry) => sliceReadout(entry, this.runs.length === 1, model.step)));
    for (const map of this.heatMaps) map.update(model, this.runs.length > 1);
  }

  shownOf(model, run) {
    const series = run.series.get(this.key);
    const record = model.recordAt(series);
    const index = series.indexAt(model.step);
    const stride = Math.max(1, Math.round(series.live.length / 40));
    return { run, record, ghosts: record ? series.before(index, stride, this.runs.length === 1 ? GHOSTS : 3).filter(isSlice) : [] };
  }
}

/** The curves of now in full; ghosts may stretch the axis by its own length, since the loss falls by orders while training. */
function lossDomain(curves, ghosts) {
  const [low, high] = extent(...curves);
  const [lowest, highest] = extent(...curves, ...ghosts);
  const room = high - low || Math.abs(high) || 1;
  return [Math.max(lowest, low - room), Math.min(highest, high + room)];
}

function isSlice({ arrays: { alpha, loss } }) {
  return alpha?.length > 1 && alpha.length === loss?.length;
}

function sliceLayers({ run, record, ghosts }, alone) {
  const shade = alone ? color("--curve") : color(run.color);
  const { alpha, loss, loss_error: error, validation_loss: validation, regularized_loss: regularized } = record.arrays;
  const layers = ghosts
    .map((ghost, age) => curve(ghost.arrays.alpha, ghost.arrays.loss, { color: shade, width: 1, opacity: 0.34 * (1 - age / (ghosts.length + 1)) }))
    .reverse();
  if (error) {
    layers.push(band(alpha, loss.map((value, at) => value - error[at]), loss.map((value, at) => value + error[at]), { color: shade }));
  }
  const parabola = parabolaOf(record);
  if (parabola) layers.push(line(parabola.xs, parabola.ys, { color: alone ? color("--parabola") : shade, width: 1.3, dash: [2, 3] }));
  if (validation) layers.push(curve(alpha, validation, { color: alone ? color("--validation") : shade, dash: [6, 3] }));
  if (regularized) layers.push(curve(alpha, regularized, { color: shade, dash: [1, 3], width: 1.2 }));
  layers.push(curve(alpha, loss, { color: shade, width: 2.2 }));
  if (alpha.length <= 25) layers.push(dots(alpha, loss, { color: shade, radius: 2.2 }));
  const here = interpolate(alpha, loss, 0);
  if (Number.isFinite(here)) layers.push(dots([0], [here], { color: shade, radius: 4, outline: color("--card") }));
  const best = toNumber(record.info.best_step);
  if (Number.isFinite(best)) layers.push(verticalRule(best, { color: alone ? color("--best-step") : shade, dash: [4, 4] }));
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

function valueOf(alpha, values, place) {
  const { xs, ys } = splineCurve(alpha, values);
  return interpolate(xs, ys, place);
}

/**
 * Indices of the grid points next to 0 on both sides, one of them 0 itself at the end of the grid. Points closer than 2 % of
 * the slice are passed over: between them rounding shows.
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

function sliceReadout({ run, record }, alone, step) {
  const { info, arrays } = record;
  const shade = alone ? color("--curve") : color(run.color);
  const entries = [{ color: shade, label: alone ? "loss at α = 0" : `${run.name}: loss at α = 0`, value: formatNumber(interpolate(arrays.alpha, arrays.loss, 0)) }];
  const add = (label, value, more = {}) => {
    if (Number.isFinite(toNumber(value))) entries.push({ label, value: formatNumber(value), ...more });
  };
  if (arrays.validation_loss) {
    const value = interpolate(arrays.alpha, arrays.validation_loss, 0);
    add("validation", value, { color: alone ? color("--validation") : shade, dashed: true });
  }
  add("curvature", info.curvature, { color: alone ? color("--parabola") : shade, dashed: true, value: formatWithError(info.curvature, info.curvature_error) });
  add("best step", info.best_step, { color: alone ? color("--best-step") : shade, dashed: true, value: formatWithError(info.best_step, info.best_step_error) });
  add("barrier", info.barrier);
  add("convexity violation", info.convexity_violation);
  add("interpolation error up to", info.error);
  if (info.nonfinite > 0) add("points that are not finite", info.nonfinite);
  if (record.step !== step) entries.push({ label: "measured at step", value: formatStep(record.step) });
  return entries;
}

function sliceHover(shown, alpha, alone) {
  const rows = shown.flatMap(({ run, record }) => {
    const { alpha: grid, loss, validation_loss: validation } = record.arrays;
    const shade = alone ? color("--curve") : color(run.color);
    const value = valueOf(grid, loss, alpha);
    const rows = [{ color: shade, label: alone ? "loss" : run.name, value: formatNumber(value) }];
    if (validation) rows.push({ color: alone ? color("--validation") : shade, label: "validation", value: formatNumber(valueOf(grid, validation, alpha)) });
    return rows;
  });
  return { title: `α = ${formatNumber(alpha, 3)}`, rows, mark: { x: alpha } };
}

function sliceLabel(shown) {
  const words = shown.map(({ run, record }) => {
    const here = formatNumber(interpolate(record.arrays.alpha, record.arrays.loss, 0));
    return `run ${run.name} at step ${record.step}: loss ${here} at α = 0, curvature ${formatNumber(record.info.curvature)}`;
  });
  return `Loss along one direction. ${words.join("; ")}.`;
}

function positiveLow(curves) {
  let low = Infinity;
  for (const curve of curves) for (const value of curve) if (value > 0 && value < low) low = value;
  return low;
}

function titleOf(name) {
  const [, number] = /^random_(\d+)$/.exec(name) ?? [];
  return TITLES.get(name) ?? (number ? `Along random direction ${number}` : `Along ${name}`);
}

function inOrder(names) {
  const rank = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return [...names].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}
