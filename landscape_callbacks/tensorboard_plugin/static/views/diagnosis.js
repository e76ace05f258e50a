// "What is going on": the verdict at the chosen step in one sentence, its evidence, and what to do.

import { element, replace } from "../dom.js";
import { formatNumber, formatStep } from "../format.js";
import { verdictStyle } from "../data/episodes.js";
import { actionList } from "./actions.js";
import { evidenceRows } from "./time_axis.js";
import { Section } from "./section.js";

export function diagnosisSection() {
  return new Section({
    id: "diagnosis",
    title: "What is going on",
    kind: "verdict",
    wide: true,
    cards: (model) => {
      const entries = model.selected().map((run) => {
        const diagnosed = run.series.has("verdict/episode") || run.series.has("action/learning_rate");
        const key = `${run.name} ${diagnosed}`;
        return { key, title: "Diagnosis", runs: [run], create: diagnosed ? () => new DiagnosisCard(run) : null };
      });
      const any = entries.some((entry) => entry.create);
      return any ? entries.filter((entry) => entry.create || model.layout === "side") : [];
    },
  });
}

class DiagnosisCard {
  constructor(run) {
    this.run = run;
    this.element = element("div", { class: "diagnosis", "aria-live": "polite" });
    this.shown = null;
  }

  update(model) {
    const found = model.verdictAt(this.run, model.step);
    const actions = actionList(this.run, model.step);
    const shown = JSON.stringify([
      found?.episode.start,
      found?.episode.end,
      found?.record.step,
      actions?.textContent,
    ]);
    if (shown === this.shown) return;
    this.shown = shown;
    const verdict = found ? this.content(found) : nothingYet();
    replace(this.element, verdict, actions && [element("h4", {}, "Learning rate"), actions]);
  }

  content({ episode, record, measured }) {
    const { color, sign } = verdictStyle(episode.verdict);
    const { sentence, suggestion, evidence, warning, edge } = record.info;
    const until = episode.ongoing ? "and still lasts" : `to step ${formatStep(episode.end)}`;
    return [
      element(
        "div",
        { class: "verdict", style: { "--verdict": `var(${color})` } },
        element("span", { class: "verdict-sign", "aria-hidden": "true" }, sign),
        element("strong", {}, episode.verdict),
        warning === true ? element("span", { class: "warning" }, "warning") : null,
        edge === true ? element("span", { class: "flag" }, "at the edge of stability") : null,
        element("span", { class: "when" }, `from step ${formatStep(episode.start)} ${until}`),
      ),
      element("p", { class: "sentence" }, String(sentence ?? "")),
      suggestion
        ? element("p", { class: "suggestion" }, element("span", {}, "What to do: "), String(suggestion))
        : null,
      element("dl", { class: "evidence" }, evidenceRows(evidence).map(evidenceEntry)),
      element("p", { class: "cost" }, `Measured at step ${formatStep(measured)}. ${costOf(record.info)}`),
    ];
  }
}

/** What the diagnosis cost, so that a person can judge whether it was worth it. */
function costOf({ samples, cost, samples_a_step: each }) {
  if (!Number.isFinite(samples)) return "";
  const looked = `The diagnosis looked at ${formatStep(samples)} samples`;
  if (!Number.isFinite(cost)) return `${looked}.`;
  const rounded = (count) => (count < 10 ? formatNumber(count, 2) : formatStep(Math.round(count)));
  const work = each > 0 ? `${rounded(cost / each)} training steps` : `${rounded(cost)} samples of training`;
  return `${looked}, as much work as ${work}.`;
}

function evidenceEntry({ label, value }) {
  return element("div", {}, element("dt", {}, label), element("dd", {}, value));
}

function nothingYet() {
  return [element("p", { class: "sentence" }, "Nothing was diagnosed up to this step.")];
}
