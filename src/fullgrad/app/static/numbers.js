/** Writes numbers as people read them: three or four digits, a real minus. */

const minus = (text) => text.replaceAll("-", "−");

/** Write a number of a map or a logit. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return minus(String(Number(value.toPrecision(4))));
  return minus(value.toExponential(2).replace("e+", "e"));
}

/** Write a number with its sign, a plus too. */
export function signed(value) {
  return (value > 0 ? "+" : "") + number(value);
}

/** Write a probability, from 0 to 1, in percent. */
export function probability(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  if (value < 1 && value > 0.999) return "> 99.9 %";
  return `${(100 * value).toFixed(1)} %`;
}

/** Write a share of the logit in percent, with its sign; it can exceed 100. */
export function share(value) {
  if (value === null || !Number.isFinite(value)) return "";
  const percent = 100 * value;
  const text = percent !== 0 && Math.abs(percent) < 0.05 ? percent.toPrecision(1) : percent.toFixed(1);
  return `${value > 0 ? "+" : ""}${minus(text)} %`;
}

/** Write a rounding error. */
export function tiny(value) {
  return value === 0 ? "0" : (value > 0 ? "+" : "") + minus(value.toExponential(1));
}

/** Write a number of bytes in MB. */
export function megabytes(bytes) {
  const mb = bytes / 1e6;
  return `${mb >= 10 ? Math.round(mb) : Number(mb.toPrecision(2))} MB`;
}

/** Write a number of pixels in megapixels. */
export function megapixels(pixels) {
  const mp = pixels / 1e6;
  return `${mp >= 10 ? Math.round(mp) : Number(mp.toPrecision(2))} megapixels`;
}

/** Shorten a text to up to `most` characters. */
export function shortened(text, most = 60) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** Name a class, by its number where it has no name. */
export function className(target) {
  return target.name || `class ${target.index}`;
}

/** Name what is explained: a class, or a class rather than another. */
export function subject(target) {
  const other = target.rather_than;
  return other ? `${className(target)} rather than ${className(other)}` : className(target);
}

/** Name the number that is explained: a logit, or the difference of two. */
export function numberName(target) {
  return target.rather_than ? "margin" : "logit";
}

/** Say what the two ends of a signed scale speak for. */
export function sides(target) {
  const other = target.rather_than;
  if (!other) return ["lowers the logit", "raises it"];
  return [`for ${shortened(className(other), 40)}`, `for ${shortened(className(target), 40)}`];
}
