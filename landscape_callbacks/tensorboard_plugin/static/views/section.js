// A section of the page: a heading, its controls, and cards that come and go with runs and series.

import { element, replace } from "../dom.js";
import { color } from "../plot/theme.js";
import { emptyState } from "./empty_state.js";
import { runChips } from "./controls.js";

/**
 * `cards(model)` lists [{key, title, subtitle, runs, create}]; `create()` makes {element, update(model)}, once a key.
 * `controls` are {element, update(model)} in the heading, there only with cards unless `keepControls`. Without cards the section tells which monitor to add.
 */
export class Section {
  constructor({ id, title, kind, cards, controls = [], keepControls = false, wide = false }) {
    this.kind = kind;
    this.listCards = cards;
    this.controls = controls;
    this.keepControls = keepControls;
    this.cards = new Map();
    this.grid = element("div", { class: wide ? "cards wide" : "cards" });
    this.element = element(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      element(
        "div",
        { class: "section-head" },
        element("h2", { id: `${id}-title` }, title),
        controls.map((control) => control.element),
      ),
      this.grid,
    );
  }

  update(model) {
    const listed = this.listCards(model);
    const sideBySide = model.layout === "side" && model.selected().length > 1;
    this.grid.classList.toggle("side-by-side", sideBySide);
    this.grid.classList.toggle("even", [1, 2, 4].includes(listed.length));
    this.grid.style.setProperty("--columns", model.selected().length);
    const nodes = listed.map((entry) => this.card(entry));
    const order = nodes.map(({ node }) => node);
    if (!listed.length) replace(this.grid, emptyState(this.kind));
    else if (
      order.length !== this.grid.children.length ||
      order.some((node, at) => node !== this.grid.children[at])
    ) {
      replace(this.grid, order);
    }
    for (const key of [...this.cards.keys()]) if (!listed.some((entry) => entry.key === key)) this.cards.delete(key);
    for (const { content, node } of nodes) if (content) updateSafely(content, model, node);
    for (const control of this.controls) {
      control.element.hidden = !listed.length && !this.keepControls;
      control.update(model);
    }
  }

  card({ key, title, subtitle, runs, create }) {
    if (!this.cards.has(key)) {
      const content = create ? create() : null;
      const heading = element(
        "div",
        { class: "card-head" },
        element("h3", {}, title, subtitle ? element("span", { class: "subtitle" }, subtitle) : null),
        element("div", { class: "chips" }, runChips(runs, color)),
      );
      const body = content ? content.element : element("p", { class: "missing" }, "Not recorded in this run.");
      this.cards.set(key, { content, node: element("article", { class: "card", "data-card": key }, heading, body) });
    }
    return this.cards.get(key);
  }
}

/** A record that no monitor would write must not take the rest of the page with it. */
function updateSafely(content, model, node) {
  try {
    content.update(model);
    node.querySelector(":scope > .undrawable")?.remove();
  } catch (error) {
    if (node.querySelector(":scope > .undrawable")) return;
    node.append(
      element("p", { class: "undrawable missing" }, `What was recorded here cannot be drawn: ${error.message}.`),
    );
  }
}

/** One entry a group of runs; `create` is left out where none of the runs has the series. */
export function entriesForGroups(model, { kind, name, title, subtitle, create, split = false }) {
  const groups = split ? model.selected().map((run) => [run]) : model.groups();
  return groups.flatMap((runs) => {
    const holding = runs.filter((run) => run.series.has(`${kind}/${name}`));
    if (!holding.length && model.layout !== "side") return [];
    const key = JSON.stringify([
      kind,
      name,
      title,
      (holding.length ? holding : runs).map((run) => run.name),
      holding.length > 0,
    ]);
    return [
      {
        key,
        title,
        subtitle,
        runs: holding.length ? holding : runs,
        create: holding.length ? () => create(holding) : null,
      },
    ];
  });
}
