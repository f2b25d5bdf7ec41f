// What the calculators share: a form's fields, and bytes for a reader.
import { element } from "./shared.mjs";

export const GIB = 2 ** 30;

/** `36,864 B`, `72.0 KiB`, `1.50 GiB`: three digits that matter. */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || number >= 100 ? 0 : number >= 10 ? 1 : 2;
  return `${number.toFixed(digits)} ${units[unit]}`;
}

export const labelled = (text, field) => element("label", {}, element("span", {}, text), field);

export function choice(options, value, change) {
  const nodes = options.map(([key, text]) =>
    element("option", { value: key, selected: key === value ? "" : null }, text),
  );
  return element("select", { onchange: (event) => change(event.target.value) }, ...nodes);
}

/** A number's field; what is no number within its bounds is marked, and changes nothing. */
export function number(bounds, value, change) {
  const field = element("input", {
    type: "number",
    ...bounds,
    value,
    oninput: () => {
      const good = field.value !== "" && field.validity.valid;
      field.setAttribute("aria-invalid", !good);
      if (good) change(Number(field.value));
    },
  });
  return field;
}

export function fact(name, value, why) {
  return element("div", {}, element("small", {}, name), element("b", {}, value), element("small", {}, why));
}
