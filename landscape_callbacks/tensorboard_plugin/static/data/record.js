// One record from its line of JSON: the mirror of landscape_callbacks/records.py.

/** {kind, name, step, arrays, shapes, info}, or null when the line is no record. */
export function decodeRecord(line) {
  try {
    const content = JSON.parse(line);
    if (!content || typeof content.kind !== "string" || typeof content.name !== "string") return null;
    if (!Number.isFinite(content.step)) return null;
    // Without a prototype: a key such as "__proto__" is a key like any other.
    const arrays = Object.create(null);
    const shapes = Object.create(null);
    for (const [key, value] of Object.entries(content.arrays)) {
      arrays[key] = decodeFloats(value.float64);
      shapes[key] = value.shape;
      if (value.shape.reduce((product, size) => product * size, 1) !== arrays[key].length) return null;
    }
    const info = content.info && typeof content.info === "object" ? content.info : {};
    return { kind: content.kind, name: content.name, step: content.step, arrays, shapes, info };
  } catch {
    return null;
  }
}

/** Little-endian float64 from base64. */
function decodeFloats(base64) {
  if (Uint8Array.fromBase64) return new Float64Array(Uint8Array.fromBase64(base64).buffer);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return new Float64Array(bytes.buffer);
}
