// Part of a series as text: a header line {first, steps, positions}, then one record a line.

export function parsePart(text) {
  const [header, ...lines] = text.split("\n");
  return { ...JSON.parse(header), lines };
}
