// Small controls shared by views.

import { element, replace } from "../dom.js";

/** A choice of one among few, as buttons. `choose(value)` is called; call `.show(value)` to mark the chosen one. */
export function segmented(label, choices, choose) {
  const buttons = choices.map(([value, text]) =>
    element("button", { type: "button", "data-value": value, on: { click: () => choose(value) } }, text),
  );
  const node = element("div", { class: "segmented", role: "group", "aria-label": label }, buttons);
  node.show = (value) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === value));
  };
  return node;
}

/** The choice of an axis' scale, kept in the model's options under a key; choices are names, or [name, text]. */
export function axisControl(label, key, choices) {
  let shown = null;
  const pairs = choices.map((choice) => (Array.isArray(choice) ? choice : [choice, choice]));
  const buttons = segmented(label, pairs, (value) => shown.setOption(key, value));
  const update = (model) => {
    shown = model;
    buttons.show(model.options[key]);
  };
  return { element: buttons, update };
}

/**
 * Values at the chosen step under a plot, and its legend: groups of entries {color, dash, shape, label, value}, with the look
 * of a swatch. A group begins a new line; there is one a run.
 */
export class Readout {
  constructor() {
    this.element = element("div", { class: "readouts" });
    this.shown = "";
  }

  show(groups) {
    const content = JSON.stringify(groups);
    if (content === this.shown) return;
    this.shown = content;
    replace(
      this.element,
      groups.map((entries) => element("dl", { class: "readout" }, entries.map(readoutEntry))),
    );
  }
}

function readoutEntry({ label, value, ...look }) {
  return element("div", {}, element("dt", {}, look.color ? swatch(look) : null, label), element("dd", {}, value));
}

/** A piece of a curve as the plot draws it, or by `shape` an "upright" line, a "dot", a "ring". `dash` is as on a canvas. */
export function swatch({ color, dash = [], shape = "" }) {
  const style = { "--swatch": dash.length ? dashes(color, dash, shape === "upright" ? "bottom" : "right") : color };
  return element("span", { class: `swatch ${shape}`.trim(), style });
}

function dashes(color, dash, side) {
  let at = 0;
  const stops = dash.map((length, index) => `${index % 2 ? "transparent" : color} ${at}px ${(at += length)}px`);
  return `repeating-linear-gradient(to ${side}, ${stops.join(", ")})`;
}

/** The runs that a card shows. */
export function runChips(runs, colorOf) {
  return runs.map((run) =>
    element(
      "span",
      { class: "chip", title: run.name },
      element("span", { class: "dot", style: { background: colorOf(run.color) } }),
      element("span", { class: "chip-name" }, run.name),
    ),
  );
}
