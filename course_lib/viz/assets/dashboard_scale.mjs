// The dashboard's arithmetic: axes, numbers in words, and what became of a token. No drawing here.

/** The line's and the run's colours, as places among the theme's: of one run the lines differ, of two the runs. */
const LINE_COLORS = [0, 4, 2, 3];
const RUN_COLORS = [0, 4];

export const colorOf = (line, run, runs) => (runs > 1 ? RUN_COLORS[run % 2] : LINE_COLORS[line % 4]);

/** What the strip and the phases leave free beside their lanes, for the lanes' names. */
export const SIDES = { left: 96, right: 14 };

export const short = (name) => (name.length > 14 ? `${name.slice(0, 13)}…` : name);

/** Round numbers from `low` to `high`, about `most` of them. */
export function ticks(low, high, most = 4, least = 0) {
  const raw = (high - low) / most;
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(
    least,
    [1, 2, 2.5, 5, 10].map((times) => times * power).find((one) => one >= raw * 0.999),
  );
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, place) => Number(((first + place) * step).toPrecision(12)));
}

/** A number in three digits, a share in percent, `–` where nothing was measured. */
export function brief(value, share = false) {
  if (value === null || value === undefined) return "–";
  if (share) return `${Number((100 * value).toPrecision(3))} %`;
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : `${Number(value.toPrecision(3))}`;
}

export const signed = (value) =>
  value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${brief(value)}`;

/** Seconds as one would say them. */
export function duration(seconds) {
  if (seconds < 0.1) return `${brief(1000 * seconds)} ms`;
  return seconds < 100 ? `${brief(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** The least and the largest value of a chart in all runs, and what it shows at least; with some air around data. */
export function extent(chart, runs) {
  const values = runs.flatMap(({ columns }) => chart.lines.flatMap(({ key }) => columns[key] ?? []));
  const found = values.filter((value) => value !== null);
  let [low, high] = [Math.min(...chart.shown, ...found), Math.max(...chart.shown, ...found)];
  const air = 0.06 * (high - low) || (chart.percent ? 0.01 : 0.5);
  if (low < Math.min(...chart.shown) || low !== 0) low -= air;
  return [low, high + air];
}

/** An SVG path through points `[x, y]`; a null among them is a gap. */
export function trail(points) {
  let path = "";
  let pen = "M";
  for (const point of points) {
    if (point) path += `${pen}${tenth(point[0])} ${tenth(point[1])}`;
    pen = point ? "L" : "M";
  }
  return path;
}

export const tenth = (number) => Math.round(10 * number) / 10;

/** The place of the number nearest to `wanted` among ascending `numbers`. */
export function nearest(numbers, wanted) {
  let [low, high] = [0, numbers.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= wanted) low = middle;
    else high = middle;
  }
  return high >= 0 && Math.abs(numbers[high] - wanted) < Math.abs(numbers[low] - wanted) ? high : low;
}

/** What a token can be coloured by, where the colour is full (of advantages: the step's largest), and its two ends. */
export const TINTS = {
  advantage: { label: "advantage", low: "worse than its group", high: "better" },
  ratio: { label: "ratio after / before the update", full: Math.log(1.3), low: "less likely", high: "more likely" },
  mismatch: {
    label: "ratio trainer / sampler",
    full: Math.log(1.3),
    low: "trainer thinks less",
    high: "thinks more of it",
  },
};

/** What is known of a sample's token; null where the trainer did not see it. */
export function token(sample, place) {
  const { text, sampled, old, trained, clipped, truncated, masked, advantage } = sample.tokens;
  const [drew, before, after] = [sampled, old, trained].map((numbers) => numbers?.[place] ?? null);
  const between = (one, other) => (one === null || other === null ? null : Math.exp(one - other));
  return {
    text: text[place],
    sampled: drew,
    old: before,
    trained: after,
    ratio: between(after, before),
    mismatch: between(before, drew),
    advantage: advantage?.[place] ?? sample.advantage,
    seen: after !== null,
    clipped: Boolean(clipped?.[place]),
    truncated: Boolean(truncated?.[place]),
    masked: Boolean(masked?.[place]),
  };
}

/** How strongly a token is coloured by `kind`: -1 to 1, null where that is not known; `largest` is of advantages. */
export function heat(told, kind, largest = 1) {
  const value = told[kind];
  if (value === null || value === undefined) return null;
  if (kind !== "advantage") return Math.max(-1, Math.min(1, Math.log(value) / TINTS[kind].full));
  // A small one can be seen too: in a group with one right answer all the others share its opposite.
  return Math.sign(value) * (value && Math.min(1, Math.max(0.2, Math.abs(value) / largest)));
}

/** The largest advantage among groups of samples, as an absolute value. */
export function largestAdvantage(groups) {
  const all = groups.flatMap(({ samples }) => samples.flatMap((one) => one.tokens.advantage ?? [one.advantage]));
  return Math.max(1e-9, ...all.map(Math.abs));
}

/** The round share that a lane of KV use reaches up to: a small cache model fills little of what a machine has. */
export const roomFor = (peak) => [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((share) => share >= peak) ?? 1;

/** What the trainer did with a token, in words. */
export function fate({ seen, clipped, truncated, masked }, tokensKnown = true) {
  if (!tokensKnown) return "this run did not record its tokens";
  if (!seen) return "not trained on: all rewards of its group are equal";
  if (masked) return "masked: its sequence is left out, trainer and sampler disagree too much";
  const found = [];
  if (clipped) found.push("clipped: the ratio left its range, so no gradient");
  if (truncated) found.push("truncated: the correction for the sampler is cut off at its limit");
  return found.join("; ") || "trained on as it is";
}

/** A token's rows of a tooltip: name and value. */
export function provenance(sample, place, version) {
  const told = token(sample, place);
  const logprob = (value) => (value === null ? "–" : `${value.toFixed(3)}  (p = ${brief(Math.exp(value), true)})`);
  return [
    ["token", JSON.stringify(told.text)],
    ["weights that sampled it", version ?? "not recorded"],
    ["sampled logprob", logprob(told.sampled)],
    ["trainer's, same weights", logprob(told.old)],
    ["trainer's, at the last update", logprob(told.trained)],
    ["ratio after / before", brief(told.ratio)],
    ["ratio trainer / sampler", brief(told.mismatch)],
    ["advantage", signed(told.advantage)],
    ["what became of it", fate(told)],
  ];
}

/** The steps that a window of `size` shows when `place` of `count` is selected: first and last place. */
export function windowAround(place, count, size) {
  const first = Math.max(0, Math.min(place - Math.floor((size - 1) / 2), count - size));
  return [first, Math.min(count, first + size) - 1];
}

/**
 * A step's moments `[seconds, ...]`, those of each span `[phase, start, end]` together: between two generations the
 * cache is not looked at, and nothing is drawn there.
 */
export function stretches(moments, spans) {
  const found = new Map();
  for (const moment of moments) {
    const at = spans.findIndex(([, start, end]) => moment[0] >= start - 1e-3 && moment[0] <= end + 1e-3);
    found.set(at, [...(found.get(at) ?? []), moment]);
  }
  return [...found.values()];
}
