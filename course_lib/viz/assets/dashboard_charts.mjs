// The dashboard's charts over the steps, with the cursor that they share.
import { element, ownerStyle, svg } from "./shared.mjs";
import { brief, colorOf, extent, nearest, tenth, ticks, trail } from "./dashboard_scale.mjs";

const EDGE = { left: 46, right: 10, top: 8, bottom: 20, height: 158 };

/** A chart of the view's runs. Returns its element, `draw()` and `point()`, which moves the cursor to its step. */
export function chartOf(chart, view) {
  const node = svg("svg", { class: "plot", role: "img", height: EDGE.height });
  const legend = element("div", { class: "readout" });
  const heading = element(
    "h4",
    { tabindex: 0, "aria-description": chart.about },
    chart.title,
    element("small", {}, chart.unit),
  );
  const section = element("section", { class: "chart" }, heading, node, legend);
  const drawn = chart.lines.filter(({ look }) => look !== "low" && look !== "high");
  const bounds = ["low", "high"].map((look) => chart.lines.find((line) => line.look === look)?.key);
  let [x, y, cursor, values] = [(step) => step, (value) => value, null, []];

  function draw() {
    const width = node.clientWidth;
    if (!width) return;
    const { runs, first, last } = view;
    const [low, high] = extent(chart, runs);
    const [inner, tall] = [width - EDGE.left - EDGE.right, EDGE.height - EDGE.top - EDGE.bottom];
    x = (step) => EDGE.left + (inner * (step - first)) / Math.max(1, last - first);
    y = (value) => EDGE.top + tall - (tall * (value - low)) / (high - low);
    const right = EDGE.left + inner;
    cursor = svg("g", { class: "cursor" });
    node.replaceChildren(
      ...ticks(low, high).flatMap((value) => [
        svg("path", { class: "grid", d: `M${EDGE.left} ${tenth(y(value))}H${right}` }),
        svg("text", { class: "tick end", x: EDGE.left - 6, y: y(value) + 3.5 }, brief(value, chart.percent)),
      ]),
      ...ticks(first, last, 5, 1).map((step) =>
        svg("text", { class: "tick middle", x: x(step), y: EDGE.height - 5 }, step),
      ),
      ...chart.guides.map((value) => svg("path", { class: "guide", d: `M${EDGE.left} ${tenth(y(value))}H${right}` })),
      ...runs.flatMap((run, place) => [
        ...band(run, place),
        ...drawn.flatMap((line, at) => lineOf(line, at, run, place)),
      ]),
      cursor,
    );
    node.setAttribute("aria-label", words());
    write();
    point();
  }
  function points(run, key) {
    return (run.columns[key] ?? []).map((value, place) => (value === null ? null : [x(run.steps[place]), y(value)]));
  }
  function band(run, place) {
    const [low, high] = bounds.map((key) => (key ? points(run, key) : []));
    const there = low.flatMap((point, at) => (point && high[at] ? [at] : []));
    if (!there.length) return [];
    const outline = [...there.map((at) => high[at]), ...there.reverse().map((at) => low[at])];
    return [svg("path", { class: "band", style: look(0, place), d: `${trail(outline)}Z` })];
  }
  function lineOf(line, at, run, place) {
    const shared = { style: look(at, place) };
    const dots = points(run, line.key).filter(Boolean);
    const dash = dashOf(line, at, place);
    if (line.look === "points") {
      return [
        svg("path", { ...shared, class: "line thin dash-1", d: trail(dots) }),
        ...dots.map(([px, py]) =>
          svg("path", {
            ...shared,
            class: `diamond run-${place}`,
            d: `M${tenth(px)} ${tenth(py - 4.5)}l4.5 4.5l-4.5 4.5l-4.5 -4.5Z`,
          }),
        ),
      ];
    }
    const smooth = line.look === "smoothed";
    const all = smooth ? points(run, `${line.key}~`) : points(run, line.key);
    // A step that was not trained on has no such numbers: a thin line leads over it, and a number alone gets a dot.
    const lonely = smooth ? dots : all.filter((point, step) => point && !all[step - 1] && !all[step + 1]);
    return [
      ...lonely.map(([px, py]) =>
        svg("circle", { ...shared, class: smooth ? "dot faint" : "dot", cx: tenth(px), cy: tenth(py), r: 2 }),
      ),
      svg("path", { ...shared, class: "line bridge", d: trail(all.filter(Boolean)) }),
      svg("path", { ...shared, class: `line ${dash}`, d: trail(all) }),
    ];
  }
  /** Lines of a run differ by dash; where there is only one, runs do. */
  function dashOf({ look: kind }, at, run) {
    if (kind === "limit") return "limit";
    if (kind === "points") return "dash-1 thin";
    return `dash-${drawn.length > 1 ? at : run}`;
  }
  const look = (line, run) => ownerStyle(colorOf(line, run, view.runs.length));

  /** The legend, with a place for each value under the cursor. */
  function write() {
    values = [];
    const many = view.runs.length > 1;
    const rows = (chart.lines.some(({ look: kind }) => kind === "low") ? chart.lines : drawn).map((line) => {
      const at = Math.max(0, drawn.indexOf(line));
      const mine = view.runs.map((run, place) => {
        const value = element("b", many ? { class: `of-run-${place}` } : {});
        values.push([value, run, line.key]);
        return value;
      });
      const keyed = drawn.includes(line) && !(many && drawn.length === 1);
      return element("span", { class: "entry" }, ...(keyed ? [keyOf(line, at, many)] : []), `${line.name} `, ...mine);
    });
    legend.replaceChildren(...rows);
  }
  function keyOf(line, at, many) {
    const diamond = line.look === "points" ? [svg("path", { class: "diamond", d: "M9 0l4 4l-4 4l-4 -4Z" })] : [];
    const path = svg("path", { class: `line ${dashOf(line, at, 0)}`, d: "M0 4H18" });
    return svg("svg", { class: "key", width: 18, height: 8, style: many ? null : look(at, 0) }, path, ...diamond);
  }
  function point() {
    if (!cursor) return;
    const marks = [];
    for (const [node, run, key] of values) {
      const value = run.columns[key]?.[nearest(run.steps, view.step)] ?? null;
      node.textContent = brief(value, chart.percent);
    }
    view.runs.forEach((run, place) => {
      const at = nearest(run.steps, view.step);
      drawn.forEach((line, number) => {
        const value = run.columns[line.key]?.[at] ?? null;
        if (value !== null)
          marks.push(
            svg("circle", { class: "here", style: look(number, place), cx: x(run.steps[at]), cy: y(value), r: 3.5 }),
          );
      });
    });
    cursor.replaceChildren(
      svg("path", { d: `M${tenth(x(view.step))} ${EDGE.top}V${EDGE.height - EDGE.bottom}` }),
      ...marks,
    );
  }
  function words() {
    const ends = drawn.map((line) => {
      const there = (view.runs[0]?.columns[line.key] ?? []).filter((value) => value !== null);
      return `${line.name} from ${brief(there[0], chart.percent)} to ${brief(there.at(-1), chart.percent)}`;
    });
    return `${chart.title} (${chart.unit}): ${ends.join(", ")}`;
  }
  function stepAt({ clientX }) {
    const share =
      (clientX - node.getBoundingClientRect().left - EDGE.left) / (node.clientWidth - EDGE.left - EDGE.right);
    return Math.round(view.first + Math.max(0, Math.min(1, share)) * (view.last - view.first));
  }
  function tell(move) {
    view.hover(stepAt(move));
    const rows = view.runs.flatMap((run) =>
      chart.lines.map(({ key, name }) => [
        view.runs.length > 1 ? `${run.name}: ${name}` : name,
        brief(run.columns[key]?.[nearest(run.steps, view.step)] ?? null, chart.percent),
      ]),
    );
    view.tip.show(move.clientX, move.clientY, `step ${view.step}`, rows);
  }
  const hush = () => {
    view.hover(null);
    view.tip.hide();
  };
  node.addEventListener("pointermove", tell);
  node.addEventListener("pointerleave", hush);
  node.addEventListener("click", (press) => view.select(stepAt(press)));
  view.tip.explains(heading, chart.title, chart.about);
  return { node: section, draw, point };
}
