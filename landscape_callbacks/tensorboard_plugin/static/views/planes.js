// The loss over two directions: as a map with contour lines and the path of training, and as a surface to turn.

import { element } from "../dom.js";
import { formatNumber, formatStep, toNumber } from "../format.js";
import { colorDomain, describeDomain } from "../plot/color_domain.js";
import { gradient, viridis } from "../plot/colormap.js";
import { contours } from "../plot/contours.js";
import { dots, line } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { heatGrid, valueOnGrid } from "../plot/raster.js";
import { SurfacePlot } from "../plot/surface.js";
import { color } from "../plot/theme.js";
import { Readout } from "./controls.js";
import { Section, entriesForGroups } from "./section.js";

const KIND = "plane";
const LEVELS = 14;
const PIECES = 40;
const TITLES = new Map([
  ["random", "Random plane"],
  ["eigenvectors", "Plane of two eigenvectors"],
  ["trajectory", "Plane of the trajectory"],
  ["checkpoints", "Plane through checkpoints"],
]);

export function planesSection() {
  return new Section({
    id: "planes",
    title: "Planes",
    kind: KIND,
    wide: true,
    cards: (model) =>
      model.names(KIND).flatMap((name) =>
        entriesForGroups(model, {
          kind: KIND,
          name,
          title: TITLES.get(name) ?? `Plane: ${name}`,
          split: true,
          create: ([run]) => new PlaneCard(run, name),
        }),
      ),
  });
}

class PlaneCard {
  constructor(run, name) {
    this.run = run;
    this.key = `${KIND}/${name}`;
    this.map = new Plot(380);
    this.surface = new SurfacePlot(380);
    this.bar = element("span", { class: "color-bar", style: { background: gradient(viridis) } });
    this.low = element("span", {});
    this.high = element("span", {});
    this.readout = new Readout();
    this.message = element("p", { class: "missing" }, "No plane was measured up to this step: move on in time.");
    this.views = element(
      "div",
      { class: "plane" },
      element(
        "figure",
        {},
        element("figcaption", {}, "loss", element("span", { class: "legend" }, this.low, this.bar, this.high)),
        this.map.element,
      ),
      element("figure", {}, element("figcaption", {}, "drag to turn"), this.surface.element),
    );
    this.element = element("div", {}, this.message, this.views, this.readout.element);
    this.shown = null;
  }

  update(model) {
    const record = model.recordAt(this.run.series.get(this.key));
    const usable = record && isPlane(record);
    this.message.hidden = Boolean(usable);
    this.views.hidden = !usable;
    if (!usable) return this.readout.show([]);
    const { x, y, loss } = record.arrays;
    if (record !== this.shown) this.prepare(record);
    this.shown = record;
    const here = placeAt(record.arrays, model.step);
    const share = this.colors.share;
    this.map.show({
      label: `Map of the loss over two directions at step ${record.step}, from ${this.low.textContent} to ${this.high.textContent}.`,
      key: `${this.key} ${record.step} ${this.run.series.get(this.key).version}`,
      x: { kind: "linear", domain: [x[0], x.at(-1)], title: axisTitle(record, "x", 0) },
      y: { kind: "linear", domain: [y[0], y.at(-1)], title: axisTitle(record, "y", 1) },
      layers: [
        heatGrid(x, y, loss, (value) => viridis(share(value))),
        contours(x, y, loss, levelsOf(this.colors), { color: "rgba(255, 255, 255, 0.45)" }),
        ...pathLayers(record.arrays),
      ],
      marks: here ? [dots([here.x], [here.y], { color: color("--path"), radius: 6, outline: "#ffffff" })] : [],
      hover: (px, py) => ({
        title: `(${formatNumber(px, 3)}, ${formatNumber(py, 3)})`,
        rows: [{ label: "loss", value: formatNumber(valueOnGrid(x, y, loss, px, py)) }],
      }),
    });
    const surfaceOf = `${record.step} ${here?.step} ${this.run.series.get(this.key).version}`;
    if (this.surfaceOf !== surfaceOf) {
      this.surfaceOf = surfaceOf;
      this.surface.show({
        label: `Surface of the loss over two directions at step ${record.step}.`,
        xs: x,
        ys: y,
        values: loss,
        share,
        height: heightAxis(this.colors),
        path: pathOnSurface(record.arrays),
        marks: marksOnSurface(record.arrays, here),
        labels: { x: String(record.info.x_label ?? "x"), y: String(record.info.y_label ?? "y") },
      });
    }
    this.readout.show([planeReadout(record, here, model.step)]);
  }

  prepare(record) {
    this.colors = colorDomain([record.arrays.loss], { cut: 0.02 });
    const words = describeDomain(this.colors);
    this.low.textContent = words.low;
    this.high.textContent = `${words.high} (${words.scale})`;
  }
}

function isPlane({ arrays: { x, y, loss } }) {
  return x?.length > 1 && y?.length > 1 && loss?.length === x.length * y.length;
}

function axisTitle({ info }, axis, index) {
  const explained = toNumber(info.variance_explained?.[index]);
  const share = Number.isFinite(explained) ? ` (${formatNumber(100 * explained, 3)} % of variance)` : "";
  return `${String(info[`${axis}_label`] ?? axis)}${share}`;
}

function levelsOf({ low, high, logarithmic }) {
  const shares = Array.from({ length: LEVELS }, (_, index) => (index + 0.5) / LEVELS);
  return logarithmic
    ? shares.map((share) => low * (high / low) ** share)
    : shares.map((share) => low + (high - low) * share);
}

function pathLayers({ trajectory_x: xs, trajectory_y: ys }) {
  const center = dots([0], [0], { color: "#ffffff", radius: 2.5 });
  if (!xs?.length || xs.length !== ys?.length) return [center];
  const shade = color("--path");
  return [
    line(xs, ys, { color: shade, width: 2 }),
    ...(xs.length <= 80 ? [dots(xs, ys, { color: shade, radius: 2 })] : []),
    dots([xs[0]], [ys[0]], { color: "#ffffff", radius: 4, outline: shade }),
    center,
  ];
}

/** The path with long pieces cut into short ones, which follow the surface. */
function pathOnSurface({ trajectory_x: xs, trajectory_y: ys, x, y, loss }) {
  const places = [];
  for (let index = 0; index < (xs?.length ?? 0); index += 1) {
    const before = Math.max(index - 1, 0);
    const [dx, dy] = [xs[index] - xs[before], ys[index] - ys[before]];
    const share = Math.hypot(dx / (x.at(-1) - x[0]), dy / (y.at(-1) - y[0]));
    const pieces = Math.min(Math.max(Math.ceil(share * PIECES), 1), PIECES) || 1;
    for (let piece = 1; piece <= pieces; piece += 1) {
      places.push([xs[before] + (dx * piece) / pieces, ys[before] + (dy * piece) / pieces]);
    }
  }
  return places.map(([px, py]) => ({ x: px, y: py, value: valueOnGrid(x, y, loss, px, py) }));
}

function heightAxis({ low, high, logarithmic }) {
  return { kind: logarithmic ? "log" : "linear", domain: [low, high], title: logarithmic ? "loss (log)" : "loss" };
}

/** The start of the path, hollow, and where training was at the chosen step; without a path, the weights of the record. */
function marksOnSurface({ trajectory_x: xs, trajectory_y: ys, x, y, loss }, here) {
  const now = here ?? { x: 0, y: 0 };
  const places = xs?.length ? [{ x: xs[0], y: ys[0], hollow: true }, now] : [now];
  return places.map((at) => ({ x: at.x, y: at.y, hollow: at.hollow, value: valueOnGrid(x, y, loss, at.x, at.y) }));
}

/** Where training was at a step, on its projected path. */
function placeAt({ trajectory_x: xs, trajectory_y: ys, trajectory_step: steps, trajectory_loss: losses }, step) {
  if (!steps?.length) return null;
  let at = 0;
  for (let index = 0; index < steps.length; index += 1) if (steps[index] <= step) at = index;
  return { x: xs[at], y: ys[at], step: steps[at], loss: losses?.[at] };
}

function placeText({ x, y, loss }) {
  const place = `(${formatNumber(x, 3)}, ${formatNumber(y, 3)})`;
  return Number.isFinite(loss) ? `${place}, loss ${formatNumber(loss)}` : place;
}

function planeReadout(record, here, step) {
  const entries = [];
  const shade = color("--path");
  if (here) {
    const start = record.arrays.trajectory_step[0];
    entries.push({ color: shade, label: "path of training", value: "" });
    entries.push({ color: shade, shape: "ring", label: "from step", value: formatStep(start) });
    const label = `training at step ${formatStep(here.step)}`;
    entries.push({ color: shade, shape: "dot", label, value: placeText(here) });
  } else {
    entries.push({ color: shade, shape: "dot", label: "weights at step", value: formatStep(record.step) });
  }
  if (record.info.nonfinite > 0)
    entries.push({ label: "points that are not finite", value: formatNumber(record.info.nonfinite) });
  if (record.step !== step) entries.push({ label: "measured at step", value: formatStep(record.step) });
  return entries;
}
