// The lines over all steps of a trace: who ran when, tokens against the budget, KV use, throughput, and a cursor.
import { count, percent, svg } from "./shared.mjs";
import { bars, throughput } from "./trace_data.mjs";

const LEFT = 82; // the lanes' names
const RIGHT = 96; // the values under the cursor
const GAP = 9;
const LANE = 38;

/**
 * The timeline of a view over `steps` steps. `most` are the lanes' largest values, so that two timelines can be compared;
 * `seek(step)` is called when a step is pointed at. Returns its element, `draw(width)` and `show(step)`.
 */
export function timeline(view, { short, states, budget }, steps, most, parting, seek) {
  const { prefill, decode, kv, preempted, finished, lives, seconds } = view.timeline;
  const total = prefill.map((tokens, step) => tokens + decode[step]);
  const rate = throughput(view.timeline);
  const rows = Math.max(...lives.map(([request]) => request), 0) + 1;
  const thick = Math.max(1.5, Math.min(9, 130 / rows));
  const people = rows * thick;
  const node = svg("svg", { class: "timeline", role: "img", "aria-label": words() });
  const values = {}; // text under the cursor, by lane
  let [edge, cursor] = [(step) => step, null];

  function draw(width) {
    if (!width) return;
    const inner = Math.max(50, width - LEFT - RIGHT);
    edge = (step) => LEFT + (inner * step) / steps;
    const right = width - RIGHT + 8;
    const tops = { marks: 0, people: 16 };
    tops.tokens = tops.people + people + GAP;
    tops.kv = tops.tokens + LANE + GAP;
    tops.rate = tops.kv + LANE + GAP;
    const height = tops.rate + LANE + 16;
    const ceiling = budget ?? most.tokens;
    const share = (numbers, whole) => numbers.map((number) => number / (whole || 1));
    const none = total.map(() => 0);
    node.setAttribute("height", height);
    node.replaceChildren(
      lane("requests", tops.people, people, ""),
      ...lives.map(life),
      lane("tokens", tops.tokens, LANE, `${budget ? "budget" : "most"} ${count(ceiling)}`),
      path("decode", bars(none, share(decode, ceiling), edge, tops.tokens, LANE)),
      path("prefill", bars(share(decode, ceiling), share(total, ceiling), edge, tops.tokens, LANE)),
      lane("KV use", tops.kv, LANE, "100 %"),
      path("kv", bars(none, kv, edge, tops.kv, LANE)),
      lane(seconds.length ? "tokens/s" : "output", tops.rate, LANE, most.rate ? count(Math.round(most.rate)) : ""),
      path("rate", bars(none, share(rate, most.rate), edge, tops.rate, LANE)),
      ...preempted.flatMap((many, step) => (many ? [sign("preemption", step, `M-4 2h8l-4 8z`, "preemption")] : [])),
      ...finished.flatMap((many, step) =>
        many ? [sign("finish", step, `M0 3a3 3 0 1 0 .01 0z`, "a request finished")] : [],
      ),
      ...(parting === null ? [] : [svg("path", { class: "parting", d: `M${edge(parting)} 0V${height - 16}` })]),
      ...[0, steps - 1].map((step, place) =>
        svg(
          "text",
          {
            x: (edge(step) + edge(step + 1)) / 2,
            y: height - 3,
            class: "tick-name",
            "text-anchor": place && steps > 1 ? "end" : "start",
          },
          `step ${step}`,
        ),
      ),
      (cursor = svg(
        "g",
        {},
        svg("rect", { class: "cursor", width: Math.max(2, edge(1) - edge(0)), y: 0, height: height - 15 }),
      )),
      ...["prefill", "decode"].map((name, place) =>
        svg("rect", { class: `series ${name}`, x: right, y: tops.tokens + 16 + 13 * place, width: 8, height: 8 }),
      ),
      value("tokens", 10),
      value("prefill", 24, "tokens", 12),
      value("decode", 37, "tokens", 12),
      value("kv", 15),
      value("rate", 15),
      value("unit", 29, "rate"),
      svg("text", { class: "more", x: right, y: 10 }, "▼ preempted"),
      svg("text", { class: "more", x: right, y: 23 }, "● finished"),
    );
    function value(name, down, at = name, inset = 0) {
      values[name] = svg("text", { class: name === at ? "value" : "more", x: right + inset, y: tops[at] + down });
      return values[name];
    }
    function lane(name, top, tall, most) {
      return svg(
        "g",
        {},
        svg("rect", { class: "lane", x: LEFT, y: top, width: inner, height: tall }),
        svg("text", { class: "lane-name", x: LEFT - 8, y: top + 11 }, name),
        svg("text", { class: "lane-name most", x: LEFT - 8, y: top + 24 }, most),
      );
    }
    function life([request, first, last, state]) {
      const y = tops.people + request * thick;
      const box = { x: edge(first), width: edge(last + 1) - edge(first), y, height: Math.max(1, thick - 1) };
      const look = {
        class: `life ${states[state]} ${thick < 5 ? "thin" : ""}`,
        style: `--owner: var(--owner-${request % 6})`,
      };
      return svg(
        "rect",
        { ...box, ...look },
        svg("title", {}, `${short[request]}: ${states[state]}, steps ${first} to ${last}`),
      );
    }
    function sign(name, step, d, text) {
      const x = (edge(step) + edge(step + 1)) / 2;
      return svg(
        "path",
        { class: name, d, transform: `translate(${x}, 2)` },
        svg("title", {}, `step ${step}: ${text}`),
      );
    }
  }
  const path = (name, d) => svg("path", { class: `series ${name}`, d });

  function show(step) {
    if (!cursor) return;
    cursor.setAttribute("transform", `translate(${edge(step)}, 0)`);
    const told = step < total.length ? at(step) : { tokens: "ended" };
    for (const [name, text] of Object.entries(values)) text.textContent = told[name] ?? "";
  }
  function at(step) {
    return {
      tokens: budget ? `${count(total[step])} of ${count(budget)}` : count(total[step]),
      prefill: `prefill ${count(prefill[step])}`,
      decode: `decode ${count(decode[step])}`,
      kv: percent(kv[step]),
      rate: count(Math.round(rate[step])),
      unit: seconds.length ? "output tokens/s" : "output tokens",
    };
  }
  function words() {
    const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
    const times = `${sum(preempted)} preemptions, ${sum(finished)} requests finished`;
    return `${view.source} over ${total.length} steps: ${sum(total)} tokens computed, ${times}, KV use up to ${percent(Math.max(...kv))}`;
  }
  function toStep({ clientX }) {
    const x = clientX - node.getBoundingClientRect().left;
    return Math.floor(((x - LEFT) * steps) / (edge(steps) - LEFT));
  }
  node.addEventListener("pointerdown", (press) => seek(toStep(press)));
  node.addEventListener("pointermove", (move) => move.buttons && seek(toStep(move)));
  return { node, draw, show };
}
