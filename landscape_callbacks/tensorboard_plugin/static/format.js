// Numbers as people read them.

const MINUS = "\u2212";

/** A number of a record: JSON has no NaN and no infinities, so they come as words. Anything else that is no number is NaN. */
export function toNumber(value) {
  if (typeof value === "number") return value;
  if (value === "Infinity") return Infinity;
  if (value === "-Infinity") return -Infinity;
  return NaN;
}

/** Four significant digits, such as 0.01234, 12.34, 1.234e+7. */
export function formatNumber(value, digits = 4) {
  const number = toNumber(value);
  if (Number.isNaN(number)) return "not a number";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : `${MINUS}∞`;
  if (number === 0) return "0";
  const size = Math.abs(number);
  let text;
  if (size >= 1e6 || size < 1e-4) text = number.toExponential(digits - 1).replace(/\.?0+e/, "e");
  else if (Number.isInteger(number)) text = String(number);
  else text = Number(number.toPrecision(digits)).toString();
  return text.replace("-", MINUS).replace(`e${MINUS}`, "e-");
}

/** A value with its error, the value rounded to where the error begins: 12.34 ± 0.05. */
export function formatWithError(value, error) {
  const [number, spread] = [toNumber(value), Math.abs(toNumber(error))];
  if (!Number.isFinite(number) || !Number.isFinite(spread) || spread === 0) return formatNumber(number);
  const digits = Math.ceil(Math.log10(Math.abs(number) / spread || 1)) + 2;
  return `${formatNumber(number, Math.min(Math.max(digits, 2), 6))} ± ${formatNumber(spread, 2)}`;
}

/** A tick of an axis: short, exponents only where they save room. */
export function formatTick(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3)
    return value
      .toExponential(2)
      .replace(/\.?0+e\+?/, "e")
      .replace(/^-/, MINUS);
  const decimals = step ? Math.min(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), 6) : 6;
  const text = step ? value.toFixed(decimals) : Number(value.toPrecision(3)).toString();
  return text.replace(/^-/, MINUS);
}

/** A step with thin spaces between thousands. */
export function formatStep(step) {
  return String(step).replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}
