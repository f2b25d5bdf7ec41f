// An engine's metrics over time, drawn again whenever more of them have come.
import { caption, count, element, onWidth, ownerStyle, plural, svg } from "./shared.mjs";

const LEFT = 92; // the lanes' names
const RIGHT = 132; // their last values
const LANE = 58;
const GAP = 12;

/** The lanes: name, what the axis ends at and its unit, lines [name, numbers, owner's colour, last value], one more line of text. */
export function lanes({ running, waiting, kv, hits, speed, wait, preempted, tokens }) {
  const last = (numbers) => numbers.at(-1) ?? 0;
  const whole = (number) => count(Math.round(number));
  const most = (...all) => Math.max(1, ...all.flat());
  const lost = preempted.reduce((sum, more) => sum + more, 0);
  return [
    {
      name: "requests",
      top: most(running, waiting),
      unit: "",
      lines: [
        ["running", running, 0, count(last(running))],
        ["waiting", waiting, 1, count(last(waiting))],
      ],
    },
    {
      name: "KV cache",
      top: 100,
      unit: " %",
      lines: [
        ["% in use", kv, 0, whole(last(kv))],
        ["% prefix hits", hits, 2, whole(last(hits))],
      ],
      more: `▼ ${plural(lost, "preemption")}`,
    },
    {
      name: "speed",
      top: most(speed),
      unit: "/s",
      lines: [["tokens/s", speed, 0, whole(last(speed))]],
      more: `${plural(last(tokens), "token")} so far`,
    },
    { name: "a step", top: most(wait), unit: " ms", lines: [["ms", wait, 0, last(wait).toFixed(1)]] },
  ];
}

/** A stair's path: each value holds from the moment before it to its own. `box` is the lane's place. */
export function stairs(seconds, numbers, top, { left, width, y, height }) {
  const whole = seconds.at(-1) || 1;
  let path = `M${left} ${round(y + height - (height * (numbers[0] ?? 0)) / top)}`;
  seconds.forEach((moment, place) => {
    path += `V${round(y + height - (height * numbers[place]) / top)}H${round(left + (width * moment) / whole)}`;
  });
  return path;
}

const round = (number) => Math.round(10 * number) / 10;

function render({ model, el }) {
  const node = svg("svg", { role: "img", height: 4 * (LANE + GAP) + 26 });
  el.replaceChildren(element("figure", { class: "course-picture live" }, ...caption(model.get("payload").title), node));

  // Many updates a second come while the engine works, so that only the lines are drawn anew.
  function draw(width) {
    if (!width) return;
    const { lines } = model.get("payload");
    const { seconds, preempted } = lines;
    const inner = Math.max(60, width - LEFT - RIGHT);
    const all = lanes(lines);
    const bottom = all.length * (LANE + GAP) + 18;
    node.setAttribute("aria-label", words(all));
    node.replaceChildren(
      ...all.flatMap((lane, place) =>
        drawn(lane, seconds, { left: LEFT, width: inner, y: 8 + place * (LANE + GAP), height: LANE }),
      ),
      ...seconds.flatMap((moment, place) => (preempted[place] ? [mark(moment / seconds.at(-1), inner)] : [])),
      text("axis", LEFT, bottom, "0 s"),
      text("axis last", LEFT + inner, bottom, seconds.length ? `${seconds.at(-1).toFixed(1)} s` : "not started"),
    );
  }
  const redraw = () => draw(node.clientWidth);
  model.on("change:payload", redraw);
  const stop = onWidth(node, draw);
  redraw(); // at once where the page has room for it already
  return () => {
    model.off("change:payload", redraw);
    stop();
  };
}

/** A lane's elements. */
function drawn({ name, top, unit, lines, more }, seconds, box) {
  const right = box.left + box.width + 10;
  return [
    svg("rect", { class: "lane", x: box.left, y: box.y, width: box.width, height: box.height }),
    text("name", box.left - 8, box.y + 12, name),
    text("most", box.left - 8, box.y + 26, `${count(Math.round(top))}${unit}`),
    ...lines.flatMap(([label, numbers, owner, value], place) => {
      const path = stairs(seconds, numbers, top, box);
      const look = (name) => ({ class: `${name} ${place ? "dashed" : ""}`, style: ownerStyle(owner) });
      const y = box.y + 12 + 17 * place;
      return [
        ...(place ? [] : [svg("path", { ...look("area"), d: `${path}V${box.y + box.height}H${box.left}Z` })]),
        svg("path", { ...look("line"), d: path }),
        svg("path", { ...look("key"), d: `M${right} ${y - 4}h16` }),
        svg("text", { x: right + 22, y }, svg("tspan", { class: "value" }, value), ` ${label}`),
      ];
    }),
    ...(more ? [text("", right, box.y + 12 + 17 * lines.length, more)] : []),
  ];
}

/** A sign at the top of the KV cache's lane. */
function mark(share, inner) {
  const place = `translate(${LEFT + inner * share}, ${8 + LANE + GAP})`;
  return svg("path", { class: "preemption", d: "M-4 -4h8l-4 7z", transform: place }, svg("title", {}, "preemption"));
}

const text = (kind, x, y, said) => svg("text", { class: kind, x, y }, said);

const words = (all) =>
  all.flatMap(({ lines, more }) => [...lines.map(([name, , , value]) => `${value} ${name}`), more ?? []]).join(", ");

export default { render };
