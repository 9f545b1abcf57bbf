/** Numbers as people read them: three or four digits, a real minus. */

const minus = (text) => text.replaceAll("-", "−");

/** A number of a map or a logit. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return minus(String(Number(value.toPrecision(4))));
  return minus(value.toExponential(2).replace("e+", "e"));
}

/** The same, with a plus where it is positive. */
export function signed(value) {
  return (value > 0 ? "+" : "") + number(value);
}

/** A probability, from 0 to 1, in percent. */
export function probability(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  if (value < 1 && value > 0.999) return "> 99.9 %";
  return `${(100 * value).toFixed(1)} %`;
}

/** A share of the logit in percent, with its sign; it can exceed 100. */
export function share(value) {
  if (value === null || !Number.isFinite(value)) return "";
  const percent = 100 * value;
  const text = percent !== 0 && Math.abs(percent) < 0.05 ? percent.toPrecision(1) : percent.toFixed(1);
  return `${value > 0 ? "+" : ""}${minus(text)} %`;
}

/** A rounding error. */
export function tiny(value) {
  return value === 0 ? "0" : (value > 0 ? "+" : "") + minus(value.toExponential(1));
}

/** A size in bytes, in MB. */
export function megabytes(bytes) {
  const mb = bytes / 1e6;
  return `${mb >= 10 ? Math.round(mb) : Number(mb.toPrecision(2))} MB`;
}

/** A number of pixels, in megapixels. */
export function megapixels(pixels) {
  const mp = pixels / 1e6;
  return `${mp >= 10 ? Math.round(mp) : Number(mp.toPrecision(2))} megapixels`;
}

/** A text of at most so many characters. */
export function shortened(text, most = 60) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** A class by its name and number. */
export function className(target) {
  return target.name || `class ${target.index}`;
}
