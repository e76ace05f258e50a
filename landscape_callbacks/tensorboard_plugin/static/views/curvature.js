// Hessian eigenvalues over training with the optimizer's stability limit, and how close to the limit training runs.

import { element } from "../dom.js";
import { formatNumber, formatWithError, toNumber } from "../format.js";
import { band, dots, horizontalRule, line } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { extent, padded } from "../plot/scales.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { Section, entriesForGroups } from "./section.js";
import { timeAxis, timeHover, timeKey } from "./time_axis.js";

const KIND = "eigenvalues";

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
          create: (runs) => new CurvatureCard(runs, name, eigenvalueCurves, "curvature"),
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

/** A plot of curves over training; `curvesOf(series, run, alone)` -> [{label, color, dash, xs, ys, errors, rule}]. */
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
    const curves = groups.flat();
    const axis = timeAxis(model, this.runs);
    const kind = this.title === "ratio" ? "linear" : model.options.curvatureAxis;
    const rows = (step) =>
      curves.map((curve) => ({ color: curve.color, label: curve.label, value: valueAt(curve, step) }));
    this.plot.show({
      label: `${this.title} over training. At step ${model.step}: ${rows(model.step)
        .map((row) => `${row.label} ${row.value}`)
        .join(", ")}.`,
      key: timeKey(model, this.runs, [this.key], kind),
      x: axis.x,
      above: axis.above,
      y: { kind, domain: padded(curveExtent(curves, kind, this.title)), title: this.title },
      layers: [...axis.layers, ...edgeLayers(this.title), ...curves.flatMap(curveLayers)],
      marks: axis.marks,
      hover: (step) => timeHover(model, this.runs, step, rows),
      pick: axis.pick,
    });
    const entry = (curve) => ({
      color: curve.color,
      dashed: curve.dash.length > 0,
      label: curve.label,
      value: valueAt(curve, model.step),
    });
    this.readout.show(groups.map((group) => group.map(entry)));
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
      dash: [2, 3],
      xs,
      ys: limits,
      errors: null,
      rule: true,
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

function curveLayers(curve) {
  const layers = [];
  if (curve.errors) {
    const low = curve.ys.map((value, index) => value - curve.errors[index]);
    const high = curve.ys.map((value, index) => value + curve.errors[index]);
    layers.push(band(curve.xs, low, high, { color: curve.color }));
  }
  layers.push(line(curve.xs, curve.ys, { color: curve.color, dash: curve.dash }));
  if (curve.xs.length <= 60 && !curve.rule) layers.push(dots(curve.xs, curve.ys, { color: curve.color, radius: 2 }));
  return layers;
}

function edgeLayers(title) {
  return title === "ratio" ? [horizontalRule(1, { color: color("--limit"), dash: [2, 3] })] : [];
}

/** All values and errors. A limit far above everything would flatten the rest on a linear axis and is left out there. */
function curveExtent(curves, kind, title) {
  const values = curves.filter((curve) => !curve.rule);
  const bounds = values.flatMap((curve) => [curve.ys, ...(curve.errors ? errorEnds(curve) : [])]);
  const [low, highest] = extent([0], ...bounds);
  let high = highest;
  for (const curve of curves.filter((entry) => entry.rule)) {
    const [, top] = extent(curve.ys);
    if (kind !== "linear" || top < 5 * high) high = Math.max(high, top);
  }
  if (title === "ratio" && high > 0.3) high = Math.max(high, 1.05);
  return [low, high];
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
