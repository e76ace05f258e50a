// Hessian eigenvalues over training with the optimizer's stability limit, and how close to the limit training runs.

import { element } from "../dom.js";
import { formatNumber, formatWithError, toNumber } from "../format.js";
import { band, dots, line, note } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { extent, padded } from "../plot/scales.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { GAP_DASH, longGaps, withBreaks } from "./gaps.js";
import { Section, entriesForGroups } from "./section.js";
import { timeAxis, timeHover, timeKey } from "./time_axis.js";

const KIND = "eigenvalues";
const LIMIT_DASH = [2, 3];
// A limit up to so many times above everything else is drawn; one farther up would flatten the rest, and is named at the edge.
const LIMIT_ROOM = 1.5;
const EDGE_ROOM = 3.5;
const NOTE_ROOM = 0.12;

export function curvatureSection() {
  return new Section({
    id: "curvature",
    title: "Curvature and stability",
    kind: KIND,
    controls: [axisControl("Curvature axis", "curvatureAxis", ["linear", "symlog"])],
    cards: (model) =>
      model.names(KIND).flatMap((name) => [
        ...entriesForGroups(model, {
          kind: KIND,
          name,
          title: name === "hessian" ? "Hessian eigenvalues" : `Eigenvalues: ${name}`,
          create: (runs) => new CurvatureCard(runs, name, eigenvalueCurves, "curvature (loss per squared weight)"),
        }),
        ...(hasRatio(model, name)
          ? entriesForGroups(model, {
              kind: KIND,
              name,
              title: "Stability ratio",
              subtitle: "1 is the edge",
              create: (runs) => new CurvatureCard(runs, name, ratioCurves, "ratio"),
            })
          : []),
      ]),
  });
}

/**
 * A plot of curves over training; `curvesOf(series, run, alone)` -> [{label, color, dash, xs, ys, errors, room}]. A curve with
 * `room` is a limit.
 */
class CurvatureCard {
  constructor(runs, name, curvesOf, title) {
    this.runs = runs;
    this.key = `${KIND}/${name}`;
    this.curvesOf = curvesOf;
    this.title = title;
    this.plot = new Plot(270);
    this.readout = new Readout();
    this.element = element("div", {}, this.plot.element, this.readout.element);
  }

  update(model) {
    const alone = this.runs.length === 1;
    const groups = this.runs.map((run) => this.curvesOf(run.series.get(this.key), run, alone));
    const shared = this.title === "ratio" ? [edgeCurve(model.steps)] : [];
    const curves = [...groups.flat(), ...shared];
    const axis = timeAxis(model, this.runs);
    const kind = this.title === "ratio" ? "linear" : model.options.curvatureAxis;
    const { domain, outside } = curveDomain(curves, kind);
    const rows = (step) =>
      curves.map((curve) => ({ color: curve.color, label: curve.label, value: valueAt(curve, step) }));
    this.plot.show({
      label: `${this.title} over training. At step ${model.step}: ${rows(model.step)
        .map((row) => `${row.label} ${row.value}`)
        .join(", ")}.${outside.map(({ label }) => ` The ${label} lies above the diagram.`).join("")}`,
      key: timeKey(model, this.runs, [this.key], kind),
      x: axis.x,
      above: axis.above,
      y: { kind, domain, title: this.title },
      layers: [...axis.layers, ...curves.flatMap(curveLayers)],
      marks: [...axis.marks, ...outside.map((curve, row) => noteAbove(curve, row, model.step))],
      hover: (step) => timeHover(model, this.runs, step, rows),
      pick: axis.pick,
    });
    const entry = (curve) => ({
      color: curve.color,
      dash: curve.dash,
      label: curve.label,
      value: valueAt(curve, model.step),
    });
    const common = shared.map(entry);
    if (curves.some((curve) => !curve.room && longGaps(curve.xs).length)) {
      common.push({ color: color("--text-muted"), dash: GAP_DASH, label: "long between measurements", value: "" });
    }
    const entries = groups.map((group) => group.map(entry));
    this.readout.show(alone ? [[...entries[0], ...common]] : common.length ? [...entries, common] : entries);
  }
}

function eigenvalueCurves(series, run, alone) {
  const records = series.loaded();
  const prefix = alone ? "" : `${run.name}: `;
  const own = color(run.color);
  const column = (key, index) => Float64Array.from(records, (record) => record.arrays[key]?.[index] ?? NaN);
  const xs = Float64Array.from(records, (record) => record.step);
  const count = (key) => records.reduce((most, record) => Math.max(most, record.arrays[key]?.length ?? 0), 0);
  const curves = [];
  for (let index = 0; index < (alone ? count("largest") : Math.min(count("largest"), 1)); index += 1) {
    const label = index === 0 ? "largest" : `largest ${index + 1}`;
    const shade = alone ? color(`--eigenvalue-${Math.min(index, 3)}`) : own;
    curves.push({
      label: prefix + label,
      color: shade,
      dash: [],
      xs,
      ys: column("largest", index),
      errors: column("largest_error", index),
    });
  }
  const smallest = count("smallest");
  for (let index = 0; index < smallest; index += 1) {
    const last = index === smallest - 1;
    if (!alone && !last) continue;
    const label = last ? "smallest" : `smallest ${smallest - index}`;
    const shade = alone ? color("--eigenvalue-smallest") : own;
    curves.push({
      label: prefix + label,
      color: shade,
      dash: [5, 3],
      xs,
      ys: column("smallest", index),
      errors: column("smallest_error", index),
    });
  }
  // For Adam the limit bounds the preconditioned Hessian: beside plain eigenvalues it would mislead.
  const limits = Float64Array.from(records, (record) =>
    record.info.preconditioned === true ? NaN : toNumber(record.info.limit),
  );
  if (limits.some(Number.isFinite)) {
    curves.push({
      label: `${prefix}stability limit`,
      color: alone ? color("--limit") : own,
      dash: LIMIT_DASH,
      xs,
      ys: limits,
      errors: null,
      room: LIMIT_ROOM,
    });
  }
  return curves;
}

function ratioCurves(series, run, alone) {
  const records = series.loaded();
  const xs = Float64Array.from(records, (record) => record.step);
  const ys = Float64Array.from(records, (record) => toNumber(record.info.ratio));
  const preconditioned = records.some((record) => record.info.preconditioned === true);
  const errors = Float64Array.from(records, (record) =>
    record.info.preconditioned === true
      ? NaN
      : (record.arrays.largest_error?.[0] ?? NaN) / toNumber(record.info.limit),
  );
  const label = alone ? (preconditioned ? "preconditioned ratio" : "ratio") : run.name;
  return [{ label, color: alone ? color("--eigenvalue-0") : color(run.color), dash: [], xs, ys, errors }];
}

function edgeCurve(steps) {
  const look = { label: "edge of stability", color: color("--limit"), dash: LIMIT_DASH };
  return { ...look, xs: [steps[0], steps.at(-1)], ys: [1, 1], errors: null, room: EDGE_ROOM };
}

function curveLayers(curve) {
  const layers = [];
  const gaps = curve.room ? [] : longGaps(curve.xs);
  const [xs, ys] = [withBreaks(curve.xs, gaps), withBreaks(curve.ys, gaps)];
  if (curve.errors) {
    const low = curve.ys.map((value, index) => value - curve.errors[index]);
    const high = curve.ys.map((value, index) => value + curve.errors[index]);
    layers.push(band(xs, withBreaks(low, gaps), withBreaks(high, gaps), { color: curve.color }));
  }
  layers.push(line(xs, ys, { color: curve.color, dash: curve.dash }));
  for (const at of gaps) {
    const ends = [curve.xs, curve.ys].map((values) => values.slice(at, at + 2));
    layers.push(line(...ends, { color: curve.color, dash: GAP_DASH, width: 1.5 }));
  }
  if (curve.xs.length <= 60 && !curve.room) layers.push(dots(curve.xs, curve.ys, { color: curve.color, radius: 2 }));
  return layers;
}

/** {domain, outside}: the axis fits all values and errors; limits far above those are outside, with room for a word on them. */
function curveDomain(curves, kind) {
  const values = curves.filter((curve) => !curve.room);
  const bounds = values.flatMap((curve) => [curve.ys, ...(curve.errors ? errorEnds(curve) : [])]);
  const [low, top] = extent([0], ...bounds);
  const limits = curves.filter((curve) => curve.room && curve.ys.some(Number.isFinite));
  const isOutside = (curve) => kind === "linear" && extent(curve.ys)[0] > curve.room * top;
  const inside = limits.filter((curve) => !isOutside(curve) && (kind !== "linear" || extent(curve.ys)[1] < 5 * top));
  const high = extent([top], ...inside.map((curve) => curve.ys))[1];
  const outside = limits.filter(isOutside);
  const [bottom, end] = padded([low, high]);
  return { domain: [bottom, end + NOTE_ROOM * outside.length * (end - bottom)], outside };
}

function noteAbove(curve, row, step) {
  const value = valueAt(curve, step);
  const style = { color: curve.color, paper: color("--card") };
  return note(`↑ ${curve.label}${value === "—" ? "" : ` ${value}`}, above`, row, style);
}

function errorEnds(curve) {
  return [
    curve.ys.map((value, at) => value - curve.errors[at]),
    curve.ys.map((value, at) => value + curve.errors[at]),
  ];
}

function valueAt(curve, step) {
  let at = -1;
  for (let index = 0; index < curve.xs.length && curve.xs[index] <= step; index += 1) at = index;
  if (at < 0) return "—";
  if (!Number.isFinite(curve.ys[at])) return Number.isNaN(curve.ys[at]) ? "—" : formatNumber(curve.ys[at]);
  return curve.errors ? formatWithError(curve.ys[at], curve.errors[at]) : formatNumber(curve.ys[at]);
}

function hasRatio(model, name) {
  return model.selected().some((run) =>
    run.series
      .get(`${KIND}/${name}`)
      ?.loaded()
      .some((record) => Number.isFinite(toNumber(record.info.ratio))),
  );
}
