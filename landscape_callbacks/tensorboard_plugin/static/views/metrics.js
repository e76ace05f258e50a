// Scalars that the run logged, on the time axis of everything else.

import { element, replace } from "../dom.js";
import { formatNumber } from "../format.js";
import { lastAt } from "../data/metric.js";
import { line } from "../plot/layers.js";
import { Plot } from "../plot/plot.js";
import { extent, padded } from "../plot/scales.js";
import { color } from "../plot/theme.js";
import { Readout, axisControl } from "./controls.js";
import { Section } from "./section.js";
import { timeAxis, timeHover } from "./time_axis.js";

export function metricsSection() {
  return new Section({
    id: "metrics",
    title: "Logged metrics",
    kind: "metric",
    controls: [axisControl("Metric axis", "metricAxis", ["linear", "log"]), new MetricChoice()],
    keepControls: true,
    cards: (model) =>
      (model.metrics ?? []).flatMap((tag) =>
        model.groups().flatMap((runs) => {
          const holding = runs.filter((run) => run.metrics.has(tag));
          if (!holding.length && model.layout !== "side") return [];
          const shown = holding.length ? holding : runs;
          const key = JSON.stringify([tag, shown.map((run) => run.name), holding.length > 0]);
          return [
            { key, title: tag, runs: shown, create: holding.length ? () => new MetricCard(holding, tag) : null },
          ];
        }),
      ),
  });
}

class MetricCard {
  constructor(runs, tag) {
    this.runs = runs;
    this.tag = tag;
    this.plot = new Plot(190);
    this.readout = new Readout();
    this.element = element("div", {}, this.plot.element, this.readout.element);
  }

  update(model) {
    const kind = model.options.metricAxis;
    const alone = this.runs.length === 1;
    const curves = this.runs.map((run) => ({
      label: alone ? this.tag : run.name,
      color: alone ? color("--curve") : color(run.color),
      ...run.metrics.get(this.tag),
    }));
    const domain = extent(...curves.map((curve) => curve.values));
    const axis = timeAxis(model, this.runs);
    const rows = (step) =>
      curves.map((curve) => ({ color: curve.color, label: curve.label, value: valueAt(curve, step) }));
    this.plot.show({
      label: `${this.tag} over training. At step ${model.step}: ${rows(model.step)
        .map((row) => row.value)
        .join(", ")}.`,
      x: axis.x,
      above: axis.above,
      y: { kind, domain: kind === "log" ? domain : padded(domain), positiveLow: positiveLow(curves), title: "" },
      layers: [...axis.layers, ...curves.map((curve) => line(curve.steps, curve.values, { color: curve.color }))],
      marks: axis.marks,
      hover: (step) => timeHover(model, this.runs, step, rows),
      pick: axis.pick,
    });
    this.readout.show(rows(model.step).map((row) => [row]));
  }
}

/** A menu of what else was logged; a shown metric is chosen again to take it away. */
class MetricChoice {
  constructor() {
    this.element = element("select", { "aria-label": "Add or remove a metric", on: { change: () => this.choose() } });
    this.shown = "";
  }

  update(model) {
    this.model = model;
    const available = [...new Set(model.selected().flatMap((run) => run.metricTags))].sort();
    const content = JSON.stringify([available, model.metrics]);
    if (content === this.shown) return;
    this.shown = content;
    const options = available.map((tag) => {
      const mark = model.metrics?.includes(tag) ? "✓ " : "";
      return element("option", { value: tag }, `${mark}${tag}`);
    });
    replace(this.element, element("option", { value: "", selected: true }, "add or remove …"), options);
  }

  choose() {
    const tag = this.element.value;
    if (tag) this.model.showMetric(tag, !this.model.metrics?.includes(tag));
    this.element.value = "";
  }
}

function valueAt({ steps, values }, step) {
  const at = lastAt(steps, step);
  return at < 0 ? "—" : formatNumber(values[at]);
}

function positiveLow(curves) {
  return extent(...curves.map(({ values }) => values.filter((value) => value > 0)))[0];
}
