// What ran when in the steps around the selected one: a lane a phase, idle time hatched, and under them KV use.
import { element, ownerStyle, svg } from "./shared.mjs";
import { SIDES, brief, colorOf, duration, nearest, roomFor, short, stretches } from "./dashboard_scale.mjs";
import { tenth, ticks, trail, windowAround } from "./dashboard_scale.mjs";

const ROW = 19;
const KV = 56;
const WINDOWS = { "this step": 1, "5 steps": 5, "20 steps": 20, "whole run": Infinity };
let pictures = 0;

/** The phases of the view's runs. Returns their element and `draw()`. */
export function phasesOf(view) {
  const hatch = `idle-${(pictures += 1)}`;
  const node = svg("svg", { class: "phases", role: "img" });
  const note = element("small");
  const buttons = Object.entries(WINDOWS).map(([name, steps]) =>
    element("button", { type: "button", onclick: () => ((size = steps), draw()) }, name),
  );
  const head = element("div", { class: "head-line" }, element("h4", {}, "What ran when"), ...buttons, note);
  let size = 5;
  let spots = []; // boxes that can be pointed at, with their words and their step
  let [width, scale] = [0, (seconds) => seconds];

  function draw() {
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", Object.values(WINDOWS)[place] === size));
    width = node.clientWidth;
    if (!width) return;
    const shown = view.runs.map(steps);
    const whole = Math.max(1e-3, ...shown.map(({ start, end }) => end - start));
    spots = [];
    let top = 4;
    const lanes = shown.flatMap((one, place) => {
      scale = (seconds) => SIDES.left + ((width - SIDES.left - SIDES.right) * (seconds - one.start)) / whole;
      const [parts, height] = lanesOf(one, place, top);
      top += height;
      return parts;
    });
    const axis = ticks(0, whole, 8).map((seconds) => {
      const x = SIDES.left + ((width - SIDES.left - SIDES.right) * seconds) / whole;
      return svg("text", { class: "tick middle", x, y: top + 12 }, `${brief(seconds)} s`);
    });
    node.setAttribute("height", top + 18);
    node.replaceChildren(pattern(), ...lanes, ...axis);
    node.setAttribute("aria-label", shown.map(words).join("; "));
    note.textContent = view.runs.every(({ measured }) => measured)
      ? "Seconds from the first of these steps on. Hatched: nothing ran."
      : "A run here did not record when its phases ran: they are drawn one after the other, and idle time is not known.";
  }
  /** The steps of a run that are in the window. */
  function steps(run) {
    const many = Math.min(size, run.steps.length);
    const [from, to] = windowAround(nearest(run.steps, view.chosen), run.steps.length, many);
    const inside = run.steps
      .slice(from, to + 1)
      .map((step, at) => ({ step, spans: run.spans[from + at], kv: run.kv[from + at] }));
    const ran = inside.filter(({ spans }) => spans.length);
    return {
      run,
      inside: ran,
      start: ran[0]?.spans[0][1] ?? 0,
      end: Math.max(0, ...ran.map(({ spans }) => spans.at(-1)[2])),
    };
  }
  function lanesOf({ run, inside }, place, top) {
    const rows = view.data.phases.filter((phase) => run.spans.some((step) => step.some(([name]) => name === phase)));
    const lane = (name) => top + 18 + ROW * rows.indexOf(name);
    const bottom = top + 18 + ROW * rows.length;
    const end = bottom + (run.kv.some((points) => points.length) ? KV + 6 : 2);
    const many = view.runs.length > 1;
    const style = ownerStyle(colorOf(0, place, 2));
    const parts = [
      ...inside.flatMap((one) => stepOf(one, top, end)),
      ...(many
        ? [svg("text", { class: "lane-name run", x: SIDES.left - 8, y: top + 11, style }, short(run.name))]
        : []),
      ...rows.map((name) => svg("text", { class: "lane-name", x: SIDES.left - 8, y: lane(name) + 13 }, name)),
      ...inside.flatMap(({ step, spans }) => spans.map((span) => bar(span, step, lane(span[0])))),
      ...(end > bottom + 2 ? kvOf(inside, bottom + 4) : []),
    ];
    return [parts, end + 4 - top];
  }
  /** A step's number and its edge, and its ground where it is the selected one. */
  function stepOf({ step, spans }, top, end) {
    const [left, right] = [scale(spans[0][1]), scale(spans.at(-1)[2])].map(tenth);
    const room = right - left;
    const box = { class: "thumb", x: left, y: top, width: room, height: end - top, rx: 3 };
    return [
      ...(step === view.chosen ? [svg("rect", box)] : []),
      svg("path", { class: "grid", d: `M${left} ${top}V${end}` }),
      svg("text", { class: "tick", x: left + 4, y: top + 11 }, room > 46 ? `step ${step}` : room > 16 ? step : ""),
    ];
  }
  function bar([name, start, end], step, y) {
    const box = {
      x: tenth(scale(start)),
      y: y + 2,
      width: Math.max(1.2, tenth(scale(end) - scale(start))),
      height: ROW - 4,
    };
    const said = { took: duration(end - start), began: `${duration(start)} into the run`, step };
    spots.push({ ...box, step, words: [name, Object.entries(said)] });
    return svg("rect", { ...box, class: `span ${name}`, style: name === "idle" ? `fill: url(#${hatch})` : null });
  }
  function kvOf(inside, top) {
    const peak = Math.max(0, ...inside.flatMap(({ kv }) => kv.map(([, share]) => share)));
    const room = roomFor(Math.max(...view.runs.flatMap(({ kv }) => kv.flat().map(([, share]) => share))));
    const y = (share) => top + KV * (1 - share / room);
    const curves = inside.flatMap(({ step, spans, kv }) => {
      for (const [at, share, running, waiting] of kv) {
        const said = { "in use": brief(share, true), running, waiting, at: `${duration(at)} into the run`, step };
        spots.push({ x: scale(at) - 2, y: top, width: 4, height: KV, step, words: ["KV cache", Object.entries(said)] });
      }
      return stretches(kv, spans).flatMap((moments) => {
        const points = moments.map(([at, share]) => [scale(at), y(share)]);
        const ground = [points.at(-1)[0], points[0][0]].map((x) => [x, top + KV]);
        return [
          svg("path", { class: "kv area", d: `${trail([...points, ...ground])}Z` }),
          svg("path", { class: "kv line", d: trail(points) }),
        ];
      });
    });
    const ground = { class: "lane", x: SIDES.left, y: top, width: width - SIDES.left - SIDES.right, height: KV };
    return [
      svg("rect", ground),
      svg("text", { class: "lane-name", x: SIDES.left - 8, y: top + 12 }, "KV use"),
      svg("text", { class: "lane-name tick", x: SIDES.left - 8, y: top + 26 }, `peak ${brief(peak, true)}`),
      svg("text", { class: "lane-name tick", x: SIDES.left - 8, y: top + 40 }, `lane to ${brief(room, true)}`),
      ...curves,
    ];
  }
  function pattern() {
    const look = { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
    return svg("defs", {}, svg("pattern", look, svg("path", { class: "hatch", d: "M0 0V6" })));
  }
  function words({ run, inside }) {
    const sums = new Map();
    for (const [name, start, end] of inside.flatMap(({ spans }) => spans))
      sums.set(name, (sums.get(name) ?? 0) + end - start);
    const told = [...sums].map(([name, seconds]) => `${name} ${duration(seconds)}`);
    return `${run.name}, steps ${inside[0]?.step ?? "–"} to ${inside.at(-1)?.step ?? "–"}: ${told.join(", ")}`;
  }
  function spotAt({ clientX, clientY }) {
    const { left, top } = node.getBoundingClientRect();
    const [x, y] = [clientX - left, clientY - top];
    return spots.findLast(
      (box) => x >= box.x - 1 && x <= box.x + box.width + 1 && y >= box.y && y <= box.y + box.height,
    );
  }
  node.addEventListener("pointermove", (move) => {
    const spot = spotAt(move);
    if (spot) view.tip.show(move.clientX, move.clientY, ...spot.words);
    else view.tip.hide();
  });
  node.addEventListener("pointerleave", () => view.tip.hide());
  node.addEventListener("click", (press) => {
    const spot = spotAt(press);
    if (spot) view.select(spot.step);
  });
  return { node: element("section", { class: "wide" }, head, node), draw };
}
