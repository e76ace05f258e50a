// The spectral density of the Hessian: at the chosen step, and over training.

import { element } from "../dom.js";
import { formatNumber, formatStep, formatWithError, toNumber } from "../format.js";
import { band, line, verticalRule } from "../plot/layers.js";
import { ramp } from "../plot/colormap.js";
import { Plot } from "../plot/plot.js";
import { interpolate } from "../plot/raster.js";
import { extent } from "../plot/scales.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { HeatMap } from "./heat_map.js";
import { Section, entriesForGroups } from "./section.js";

const KIND = "density";
// Below this share of the highest density nothing is told from the estimate's own smoothing.
const FLOOR = 1e-5;
const LIMIT_DASH = [2, 3];

export function densitySection() {
  return new Section({
    id: "density",
    title: "Spectral density",
    kind: KIND,
    controls: [axisControl("Eigenvalue axis", "densityAxis", ["linear", "symlog"])],
    cards: (model) =>
      model.names(KIND).flatMap((name) => [
        ...entriesForGroups(model, {
          kind: KIND,
          name,
          title: "At this step",
          subtitle: name,
          create: (runs) => new DensityCard(runs, name),
        }),
        ...entriesForGroups(model, {
          kind: KIND,
          name,
          title: "Over training",
          subtitle: name,
          create: (runs) => new DensityMapCard(runs, name),
        }),
      ]),
  });
}

class DensityCard {
  constructor(runs, name) {
    this.runs = runs;
    this.key = `${KIND}/${name}`;
    this.plot = new Plot(250);
    this.readout = new Readout();
    this.element = element("div", {}, this.plot.element, this.readout.element);
  }

  update(model) {
    const shown = this.runs
      .map((run) => ({ run, record: model.recordAt(run.series.get(this.key)), limit: limitAt(model, run) }))
      .filter(({ record }) => record);
    const top = extent(...shown.map(({ record }) => record.arrays.density))[1];
    const floor = top * FLOOR;
    const alone = this.runs.length === 1;
    const shade = (run) => (alone ? color("--curve") : color(run.color));
    this.plot.show({
      label: `Spectral density. ${shown.map(({ run, record }) => `Run ${run.name} at step ${record.step}`).join("; ")}.`,
      x: {
        kind: model.options.densityAxis,
        domain: extent(...shown.map(({ record }) => record.arrays.grid)),
        title: "eigenvalue",
      },
      y: { kind: "log", domain: [floor, top * 2], title: "density" },
      layers: shown.flatMap(({ run, record, limit }) => {
        const ys = record.arrays.density.map((value) => Math.max(value, floor));
        return [
          band(
            record.arrays.grid,
            ys.map(() => floor),
            ys,
            { color: shade(run), opacity: alone ? 0.25 : 0.1 },
          ),
          line(record.arrays.grid, ys, { color: shade(run), width: 1.8 }),
          ...(Number.isFinite(limit)
            ? [verticalRule(limit, { color: alone ? color("--limit") : shade(run), dash: LIMIT_DASH })]
            : []),
        ];
      }),
      hover: (place) => ({
        title: `eigenvalue ${formatNumber(place, 3)}`,
        rows: shown.map(({ run, record }) => ({
          color: shade(run),
          label: alone ? "density" : run.name,
          value: formatNumber(interpolate(record.arrays.grid, record.arrays.density, place)),
        })),
        mark: { x: place },
      }),
    });
    this.readout.show(shown.map((entry) => densityReadout(entry, alone, shade(entry.run), model.step)));
  }
}

class DensityMapCard {
  constructor(runs, name) {
    const key = `${KIND}/${name}`;
    this.maps = runs.map(
      (run) =>
        new HeatMap(run, key, {
          grid: "grid",
          values: "density",
          gridTitle: "eigenvalue",
          valueTitle: "density",
          logarithmic: true,
          cut: 0,
          floor: FLOOR,
          scale: () => ramp(color("--card"), color("--density-1"), color("--density-2"), color("--density-3")),
          gridKind: (model) => model.options.densityAxis,
          overlays: () => limitCurve(run),
          overlayName: "stability limit",
          overlaid: ["eigenvalues/hessian"],
        }),
    );
    this.element = element(
      "div",
      {},
      this.maps.map((map) => map.element),
    );
  }

  update(model) {
    for (const map of this.maps) map.update(model, this.maps.length > 1);
  }
}

function densityReadout({ run, record, limit }, alone, shade, step) {
  const trace = toNumber(record.info.trace);
  const entries = [{ color: shade, label: alone ? "density" : run.name, value: "" }];
  if (Number.isFinite(trace))
    entries.push({ label: "trace", value: formatWithError(trace, record.info.trace_error) });
  if (Number.isFinite(limit))
    entries.push({
      color: alone ? color("--limit") : shade,
      dash: LIMIT_DASH,
      shape: "upright",
      label: "stability limit",
      value: formatNumber(limit),
    });
  if (record.step !== step) entries.push({ label: "measured at step", value: formatStep(record.step) });
  return entries;
}

/** The optimizer's limit on plain curvature; NaN when it bounds the preconditioned Hessian, or is unknown. */
function limitAt(model, run) {
  const record = model.recordAt(run.series.get("eigenvalues/hessian"));
  return record && record.info.preconditioned !== true ? toNumber(record.info.limit) : NaN;
}

function limitCurve(run) {
  const records = (run.series.get("eigenvalues/hessian")?.loaded() ?? []).filter(
    (record) => record.info.preconditioned !== true,
  );
  if (!records.length) return [];
  return [
    {
      xs: records.map((record) => record.step),
      ys: records.map((record) => toNumber(record.info.limit)),
      color: color("--limit"),
      dash: LIMIT_DASH,
    },
  ];
}
