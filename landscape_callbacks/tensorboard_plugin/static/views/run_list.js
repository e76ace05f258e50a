// Which runs are shown: check boxes with a filter.

import { element, replace } from "../dom.js";
import { segmented } from "./controls.js";

export class RunList {
  constructor(model) {
    this.model = model;
    this.filter = element("input", {
      type: "search",
      placeholder: "Filter runs",
      "aria-label": "Filter runs",
      on: { input: () => this.update(model) },
    });
    this.layout = segmented(
      "Several runs",
      [
        ["overlay", "overlay"],
        ["side", "side by side"],
      ],
      (value) => model.setLayout(value),
    );
    this.list = element("ul", { class: "run-list" });
    this.element = element(
      "aside",
      { class: "runs", "aria-label": "Runs" },
      element("div", { class: "runs-inner" }, element("h2", {}, "Runs"), this.filter, this.list, this.layout),
    );
    this.shown = "";
  }

  update(model) {
    const wanted = this.filter.value.trim().toLowerCase();
    const runs = [...model.runs.values()].filter((run) => run.name.toLowerCase().includes(wanted));
    this.filter.hidden = model.runs.size < 6;
    this.layout.hidden = model.selected().length < 2;
    this.layout.show(model.layout);
    const content = JSON.stringify(runs.map((run) => [run.name, run.selected]));
    if (content === this.shown) return;
    this.shown = content;
    const focused = document.activeElement?.closest?.(".run-list li")?.dataset.run;
    replace(
      this.list,
      runs.map((run) => this.entry(run)),
    );
    const again = [...this.list.children].find((entry) => entry.dataset.run === focused);
    again?.querySelector("input").focus();
  }

  entry(run) {
    const box = element("input", {
      type: "checkbox",
      on: { change: () => this.model.select(run.name, box.checked) },
    });
    box.checked = run.selected;
    const dot = element("span", { class: "dot", style: { background: `var(${run.color})` } });
    const name = element(
      "span",
      { class: "run-name", title: run.name },
      run.name === "." ? ". (the log directory itself)" : run.name,
    );
    return element("li", { "data-run": run.name }, element("label", {}, box, dot, name));
  }
}
