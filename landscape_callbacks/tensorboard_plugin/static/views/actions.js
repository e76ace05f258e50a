// What was done to the learning rate, when, and why: the records of PlateauLearningRateAdjuster.

import { element, replace } from "../dom.js";
import { formatNumber, formatStep } from "../format.js";

const SHOWN = 5;

/** The latest actions of a run up to a step, or null when it has none. */
export function actionList(run, step) {
  const records = run.series.get("action/learning_rate")?.loaded() ?? [];
  const done = records.filter((record) => record.step <= step);
  if (!done.length) return null;
  const earlier = done.length > SHOWN ? element("li", {}, `${done.length - SHOWN} earlier`) : null;
  const list = element("ol", { class: "actions" });
  return replace(list, done.slice(-SHOWN).reverse().map(entry), earlier);
}

function entry({ step, info }) {
  const rates = Array.isArray(info.learning_rates)
    ? info.learning_rates.map((rate) => formatNumber(rate)).join(", ")
    : "";
  return element(
    "li",
    {},
    element("strong", {}, `step ${formatStep(step)}: ${String(info.action ?? "changed")}`),
    rates ? ` to ${rates}. ` : ". ",
    String(info.reason ?? ""),
  );
}
