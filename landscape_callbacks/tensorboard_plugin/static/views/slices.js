// The loss along one direction: at the chosen step with ghosts of earlier ones, and as a heat map over training.

import { element } from "../dom.js";
import { formatNumber } from "../format.js";
import { Plot } from "../plot/plot.js";
import { interpolate } from "../plot/raster.js";
import { extent, padded } from "../plot/scales.js";
import { splineCurve } from "../plot/spline.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { HeatMap } from "./heat_map.js";
import { Section, entriesForGroups } from "./section.js";
import { lineAxis, lineControl, over } from "./slice_axis.js";
import { isSlice, lossDomain, sliceLayers, valueOf } from "./slice_curves.js";
import { sliceReadout } from "./slice_readout.js";

const KIND = "slice";
const GHOSTS = 8;
const ORDER = [
  "gradient",
  "update",
  "largest_eigenvector",
  "smallest_eigenvector",
  "random",
  "initial",
  "checkpoint",
];
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
    controls: [
      axisControl("Loss axis", "lossAxis", [
        ["linear", "linear loss"],
        ["log", "log loss"],
      ]),
      lineControl(),
    ],
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
    this.note = element("p", { class: "note" });
    this.readout = new Readout();
    this.heatMaps = runs.map(
      (run) =>
        new HeatMap(run, this.key, {
          grid: "alpha",
          values: "loss",
          gridTitle: "α",
          valueTitle: "loss",
          curve: splineCurve,
        }),
    );
    this.element = element(
      "div",
      {},
      this.plot.element,
      this.note,
      this.readout.element,
      this.heatMaps.map((map) => map.element),
    );
  }

  update(model) {
    const shown = this.runs.map((run) => this.shownOf(model, run)).filter(({ record }) => record && isSlice(record));
    const alone = this.runs.length === 1;
    const axis = lineAxis(shown, model.options.lineAxis);
    const kind = model.options.lossAxis;
    const curves = shown.flatMap(({ record: { arrays } }) => [arrays.loss, arrays.validation_loss ?? []]);
    const ghosts = shown.flatMap((entry) => entry.ghosts.map((ghost) => ghost.arrays.loss));
    const [low, high] = lossDomain(curves, ghosts);
    this.plot.show({
      label: sliceLabel(shown),
      x: { kind: "linear", domain: axis.domain, title: axis.title },
      y: {
        kind,
        domain: kind === "log" ? [low, high] : padded([low, high]),
        positiveLow: positiveLow(curves),
        title: "loss",
      },
      layers: shown.flatMap((entry, index) =>
        sliceLayers(entry, alone).map((layer) => over(axis.lengths[index], layer)),
      ),
      hover: (place) => sliceHover(shown, place, axis.lengths, alone),
    });
    this.note.textContent = axis.note;
    this.note.hidden = !axis.note;
    this.readout.show(shown.map((entry) => sliceReadout(entry, alone, model.step)));
    for (const map of this.heatMaps) map.update(model, this.runs.length > 1);
  }

  shownOf(model, run) {
    const series = run.series.get(this.key);
    const record = model.recordAt(series);
    const index = series.indexAt(model.step);
    const stride = Math.max(1, Math.round(series.live.length / 40));
    return {
      run,
      record,
      ghosts: record ? series.before(index, stride, this.runs.length === 1 ? GHOSTS : 3).filter(isSlice) : [],
    };
  }
}

function sliceHover(shown, place, lengths, alone) {
  const same = lengths.every((length) => length === lengths[0]);
  const rows = shown.flatMap(({ run, record: { arrays } }, index) => {
    const shade = alone ? color("--curve") : color(run.color);
    const alpha = place * lengths[index];
    const where = same ? "" : ` at α = ${formatNumber(alpha, 3)}`;
    const value = (losses) => formatNumber(valueOf(arrays.alpha, losses, alpha));
    const own = { color: shade, label: alone ? "loss" : `${run.name}${where}`, value: value(arrays.loss) };
    if (!arrays.validation_loss) return [own];
    const validation = alone ? color("--validation") : shade;
    return [own, { color: validation, label: "validation", value: value(arrays.validation_loss) }];
  });
  const title = `${same ? "α" : "share of the reach"} = ${formatNumber(place, 3)}`;
  return { title, rows, mark: { x: place } };
}

function sliceLabel(shown) {
  const words = shown.map(({ run, record }) => {
    const here = formatNumber(interpolate(record.arrays.alpha, record.arrays.loss, 0));
    const curvature = formatNumber(record.info.curvature);
    return `run ${run.name} at step ${record.step}: loss ${here} at α = 0, curvature ${curvature}`;
  });
  return `Loss along one direction. ${words.join("; ")}.`;
}

function positiveLow(curves) {
  return extent(...curves.map((values) => values.filter((value) => value > 0)))[0];
}

function titleOf(name) {
  const [, number] = /^random_(\d+)$/.exec(name) ?? [];
  return TITLES.get(name) ?? (number ? `Along random direction ${number}` : `Along ${name}`);
}

function inOrder(names) {
  const rank = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return [...names].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}
