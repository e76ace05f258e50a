// A curve at each step, as a heat map over training: x the step, y the curve's own axis, colour its value.

import { element, replace } from "../dom.js";
import { formatNumber, formatStep } from "../format.js";
import { verticalRule, line } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { colorDomain, describeDomain } from "../plot/color_domain.js";
import { gradient, viridis } from "../plot/colormap.js";
import { heatColumns, interpolate } from "../plot/raster.js";
import { extent } from "../plot/scales.js";
import { color } from "../plot/theme.js";
import { swatch } from "./controls.js";
import { timeAxis, timeHover, timeKey } from "./time_axis.js";

/**
 * Options: `grid` and `values` name the arrays of a record; `gridTitle`, `valueTitle` the axes; `scale()` the colours;
 * `gridKind(model)` the axis; `curve(grid, values)` what is drawn between the points; `overlays(model)` curves
 * [{xs, ys, color, dash}] drawn on top, called `overlayName`.
 */
export class HeatMap {
  constructor(run, key, options) {
    this.run = run;
    this.key = key;
    this.options = {
      scale: () => viridis,
      gridKind: () => "linear",
      overlays: () => [],
      overlaid: [],
      curve: (xs, ys) => ({ xs, ys }),
      cut: 0.01,
      ...options,
    };
    this.plot = new Plot(190);
    this.caption = element("span", {});
    this.bar = element("span", { class: "color-bar" });
    this.overlayLegend = element("span", {});
    this.low = element("span", {});
    this.high = element("span", {});
    this.element = element(
      "figure",
      { class: "heat-map" },
      element(
        "figcaption",
        {},
        this.caption,
        element("span", { class: "legend" }, this.overlayLegend, this.low, this.bar, this.high),
      ),
      this.plot.element,
    );
    this.version = null;
  }

  update(model, named) {
    const series = this.run.series.get(this.key);
    const kind = this.options.gridKind(model);
    const key = timeKey(model, [this.run], [this.key, ...this.options.overlaid], kind);
    if (series?.version !== this.version) this.prepare(series, named);
    this.version = series?.version;
    const axis = timeAxis(model, [this.run]);
    const scale = this.options.scale();
    const [low, high] = this.domain;
    const overlays = this.options.overlays(model).filter(({ ys }) => ys.some((y) => y >= low && y <= high));
    this.plot.show({
      label: `${this.options.valueTitle} over training as a heat map, ${this.columns.length} records.`,
      key,
      x: axis.x,
      above: axis.above,
      y: { kind, domain: this.domain, title: this.options.gridTitle },
      layers: [
        heatColumns(this.columns, (value) => scale(this.colors.share(value))),
        ...overlays.map(({ xs, ys, ...style }) => line(xs, ys, style)),
      ],
      marks: [verticalRule(model.step, { color: color("--cursor-on-map"), width: 1.5 })],
      hover: (step, place) => this.hover(model, step, place),
      pick: axis.pick,
    });
    this.bar.style.setProperty("background", gradient(scale));
    replace(this.overlayLegend, overlays.length ? [swatch(overlays[0]), this.options.overlayName] : []);
  }

  prepare(series, named) {
    const { grid, values } = this.options;
    const usable = (series?.loaded() ?? []).filter((record) => {
      return record.arrays[grid]?.length > 1 && record.arrays[grid].length === record.arrays[values]?.length;
    });
    this.columns = usable.map((record, at) => {
      const next = usable[at + 1]?.step ?? record.step + (at > 0 ? record.step - usable[at - 1].step : 1);
      return {
        from: record.step,
        to: next,
        curve: () => this.options.curve(record.arrays[grid], record.arrays[values]),
      };
    });
    this.domain = extent(...usable.map((record) => record.arrays[grid]));
    this.colors = colorDomain(
      usable.map((record) => record.arrays[values]),
      { cut: this.options.cut, floor: this.options.floor, logarithmic: this.options.logarithmic },
    );
    const words = describeDomain(this.colors);
    this.caption.textContent = `${this.options.valueTitle} over training${named ? `: ${this.run.name}` : ""} (${words.scale} colours)${soFar(usable)}`;
    this.low.textContent = words.low;
    this.high.textContent = words.high;
  }

  hover(model, step, place) {
    const column = this.columns.findLast((entry) => entry.from <= step);
    const rows = () => [
      { label: this.options.gridTitle, value: formatNumber(place, 3) },
      { label: this.options.valueTitle, value: column ? readingOf(column, place) : "—" },
      ...(column ? [{ label: "measured at step", value: formatStep(column.from) }] : []),
    ];
    return timeHover(model, [this.run], step, rows);
  }
}

/** One column looks like none: it is said. */
function soFar(records) {
  if (records.length > 1) return "";
  if (!records.length) return ": nothing to draw yet";
  return `: one measurement so far, at step ${formatStep(records[0].step)}; the map grows with the next`;
}

function readingOf(column, place) {
  const { xs } = column.curve();
  return place < xs[0] || place > xs.at(-1) ? "not measured here" : formatNumber(valueIn(column, place));
}

function valueIn(column, place) {
  const { xs, ys } = column.curve();
  return interpolate(xs, ys, place);
}
