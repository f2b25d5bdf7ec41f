// What the trace viewer shows of a step: blocks, progress, and lines over the steps. No drawing here.
import { plural } from "./shared.mjs";

/** What to draw for each block, as `cells` of trace_frames.py. */
export function cells(frame, blocks, blockSize) {
  const [who, filled, cached] = [new Map(), new Map(), new Set(frame.cached)];
  frame.running.forEach(({ request, computed }, row) =>
    frame.tables[row].forEach((block, logical) => {
      const tokens = Math.max(0, Math.min(blockSize, computed - logical * blockSize));
      who.set(block, [...(who.get(block) ?? []), request]);
      filled.set(block, Math.max(filled.get(block) ?? 0, tokens));
    }),
  );
  return blocks.map((block) => {
    const holders = who.get(block) ?? [];
    const state = holders.length > 1 ? "shared" : holders.length ? "held" : cached.has(block) ? "cached" : "free";
    return { state, who: holders, filled: filled.get(block) ?? 0, mark: frame.marks[block] ?? "" };
  });
}

export const MARKS = { taken: "+", hit: "✓", evicted: "✕", freed: "○" };

const HAPPENED = {
  taken: "; newly taken in this step",
  hit: "; found in the prefix cache in this step",
  evicted: "; what the prefix cache knew of it was evicted in this step",
  freed: "; given back since the step before",
};

/** A block in words. */
export function cellWords(cell, block, blockSize, names) {
  const held = {
    held: () => `held by ${names[cell.who[0]]}, ${cell.filled} of ${plural(blockSize, "slot")} computed`,
    shared: () => `shared by ${cell.who.map((request) => names[request]).join(", ")}`,
    cached: () => "free, and in the prefix cache: a request with this prefix can have it back",
    free: () => "free",
  }[cell.state]();
  return `block ${block}: ${held}${HAPPENED[cell.mark] ?? ""}`;
}

/** A running request's parts, each [kind, tokens]: `cached`, `old`, `now` (this step's) and `left`. */
export function progress({ known, computed, tokens, cached }) {
  const spared = cached ?? 0;
  return [
    ["cached", spared],
    ["old", computed - tokens - spared],
    ["now", tokens],
    ["left", Math.max(0, known - computed)],
  ].filter(([, count]) => count > 0);
}

/** A running request in words. */
export function rowWords(row, name) {
  const { prompt, known, computed, tokens, state, cached, sampled } = row;
  const does = tokens ? `${state} of ${plural(tokens, "token")}` : "no token in this step";
  const spared = cached === null ? "" : `; admitted in this step with ${plural(cached, "token")} from the prefix cache`;
  const output = `${prompt} of prompt and ${known - prompt} of output`;
  return `${name}: ${does}; ${computed} of ${plural(known, "token")} in the KV cache (${output})${spared}${sampled ? "; a token came of it" : ""}`;
}

/** The first place after `from` whose value is not 0, round the end; -1 if there is none. */
export function nextMark(values, from) {
  for (let ahead = 1; ahead <= values.length; ahead += 1) {
    const place = (from + ahead) % values.length;
    if (values[place]) return place;
  }
  return -1;
}

/** Output tokens a second in each step, or a step where seconds are not known. */
export function throughput({ output, seconds }) {
  if (!seconds.length) return output;
  return output.map((tokens, step) => (seconds[step] ? tokens / seconds[step] : 0));
}

/** A path of bars between two heights: `low` and `high` are shares of the lane, `x(step)` is a bar's left edge. */
export function bars(low, high, x, top, height) {
  let path = "";
  high.forEach((share, step) => {
    if (share <= low[step]) return;
    const [left, right] = [x(step), x(step + 1)].map((place) => place.toFixed(2));
    const [upper, lower] = [share, low[step]].map((part) => (top + height * (1 - part)).toFixed(2));
    path += `M${left} ${upper}H${right}V${lower}H${left}Z`;
  });
  return path;
}
