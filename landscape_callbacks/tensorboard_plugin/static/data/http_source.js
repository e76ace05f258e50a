// Records from TensorBoard. All addresses are relative: they hold under any --path_prefix.

import { parsePart } from "./part.js";

export class HttpSource {
  live = true;

  /** [{run, series: [{kind, name, blocks, last_step, last_time}]}] */
  async runs() {
    const response = await request("runs", {});
    return (await response.json()).runs;
  }

  /** Steps of a series from a position on, with as many records as the budget (bytes) allows. */
  async records(run, kind, name, first, budget) {
    return parsePart(await (await request("records", { run, kind, name, first, budget })).text());
  }

  /** The same from one record of each block, which is there much sooner for a long series. */
  async preview(run, kind, name, budget) {
    return parsePart(await (await request("records", { run, kind, name, budget, preview: 1 })).text());
  }

  /** The line of one record. */
  async record(run, kind, name, position) {
    return (await request("record", { run, kind, name, position })).text();
  }

  /** {available: [tag], points: {tag: {steps, values}}} of the scalars of a run. */
  async metrics(run, tags) {
    return (await request("metrics", [["run", run], ...tags.map((tag) => ["tag", tag])])).json();
  }
}

async function request(path, query) {
  const address = new URL(path, document.baseURI);
  address.search = new URLSearchParams(query).toString();
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("TensorBoard does not answer. It may have been stopped.");
  }
  if (response.ok) return response;
  const text = await response.text();
  let sentence = `TensorBoard answered with status ${response.status}.`;
  try {
    sentence = JSON.parse(text).error ?? sentence;
  } catch {
    // A proxy's page instead of our JSON: the status says enough.
  }
  throw new Error(sentence);
}
