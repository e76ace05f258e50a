// What all plots over training share: the step axis, verdict episodes as shaded spans, the chosen step, and hover.

import { formatStep, formatWithError } from "../format.js";
import { verdictStyle } from "../data/episodes.js";
import { verticalRule } from "../plot/layers.js";
import { STRIP } from "../plot/plot.js";
import { color, faded } from "../plot/theme.js";

/** Parts of a plot's spec: {x, above, layers, marks, pick}. */
export function timeAxis(model, runs) {
  const [first, last] = model.steps.length ? [model.steps[0], model.steps.at(-1)] : [0, 1];
  return {
    x: { kind: "linear", domain: first === last ? [first - 1, last + 1] : [first, last], title: "step" },
    above: runs.map((run, row) => stripLayer(model.episodes(run), runs.length - row)),
    layers: runs.length === 1 ? [shadeLayer(model.episodes(runs[0]))] : [],
    marks: [verticalRule(model.step, { color: color("--cursor"), width: 1.5 })],
    pick: (step) => model.goToStep(step),
  };
}

/** Changes whenever the layers of a plot over training, made of some series, have to be drawn anew. */
export function timeKey(model, runs, keys, ...more) {
  const version = (run, key) => run.series.get(key)?.version ?? 0;
  const versions = runs.map((run) => [run.name, ["verdict/episode", ...keys].map((key) => version(run, key))]);
  return JSON.stringify([versions, model.steps[0], model.steps.at(-1), model.layout, ...more]);
}

/** The verdict under the pointer and its evidence, as rows and text of a tooltip. */
function verdictHover(model, runs, step) {
  const found = runs.map((run) => ({ run, ...model.verdictAt(run, step) })).filter(({ episode }) => episode);
  const rows = found.flatMap(({ run, episode, record, measured }) => {
    const head = {
      color: color(verdictStyle(episode.verdict).color),
      label: runs.length > 1 ? `verdict (${run.name})` : "verdict",
      value: episode.verdict,
    };
    const rows = measured === step ? [head] : [head, { label: "measured at step", value: formatStep(measured) }];
    return runs.length === 1 ? [...rows, ...evidenceRows(record.info.evidence)] : rows;
  });
  return { rows, text: found.length === 1 ? String(found[0].record.info.sentence ?? "") : "" };
}

/** {label, value} for each piece of evidence. The unit "1" is that of a ratio. */
export function evidenceRows(evidence) {
  return (Array.isArray(evidence) ? evidence : []).map((piece) => {
    const unit = piece?.unit && piece.unit !== "1" ? ` ${piece.unit}` : "";
    return { label: String(piece?.name ?? ""), value: formatWithError(piece?.value, piece?.error) + unit };
  });
}

/** A tooltip over training: the values of the nearest records, then the episode. */
export function timeHover(model, runs, step, valueRows) {
  const nearest = model.steps[model.nearest(step)];
  const episode = verdictHover(model, runs, nearest);
  return {
    title: `step ${formatStep(nearest)}`,
    rows: [...valueRows(nearest), ...episode.rows],
    text: episode.text,
    mark: { x: nearest },
  };
}

/** The episodes as a solid strip above the axes. */
function stripLayer(list, row) {
  return (context, frame) => {
    for (const { left, width, shade } of placed(list, frame)) {
      context.fillStyle = shade;
      context.fillRect(left, frame.top - row * STRIP - 1, width, STRIP - 2);
    }
  };
}

/** The episodes as light shades behind the curves. */
function shadeLayer(list) {
  return (context, frame) => {
    for (const { left, width, shade } of placed(list, frame)) {
      context.fillStyle = faded(shade, 0.1);
      context.fillRect(left, frame.top, width, frame.height);
    }
  };
}

function placed(list, frame) {
  return list.map((episode) => {
    const left = Math.max(frame.x(episode.start), frame.left);
    const right = Math.min(frame.x(episode.end), frame.left + frame.width);
    return { left, width: Math.max(right - left, 1.5), shade: color(verdictStyle(episode.verdict).color) };
  });
}
