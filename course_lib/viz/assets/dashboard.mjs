// The dashboard of a run, or of two over each other: figures, receipts, curves, what ran when, and samples.
// A live run's payload is replaced as it grows; what the reader has picked stays picked.
import { caption, element, onWidth, ownerStyle, unpack } from "./shared.mjs";
import { chartOf } from "./dashboard_charts.mjs";
import { colorOf } from "./dashboard_scale.mjs";
import { phasesOf } from "./dashboard_phases.mjs";
import { samplesOf } from "./dashboard_samples.mjs";
import { stripOf } from "./dashboard_strip.mjs";

function render({ model, el }) {
  const root = element("figure", { class: "course-picture dashboard" });
  const head = element("div", { class: "heading-of" });
  const empty = element("p", { class: "empty" }, "Nothing has run yet.");
  const grid = element("div", { class: "charts" });
  const view = { data: null, runs: [], first: 0, last: 0, step: 0, chosen: 0, select, hover, tip: tipOf(root) };
  const [strip, phases, samples] = [stripOf(view), phasesOf(view), samplesOf(view)];
  const newest = element(
    "button",
    { type: "button", class: "newest", onclick: () => pick(-1) },
    "follow the newest step",
  );
  const main = element("div", {}, strip.node, newest, grid, phases.node, samples.node);
  let [charts, titles, turn, gone] = [[], "", 0, false];
  el.replaceChildren(root);
  root.append(head, empty, main, view.tip.node);

  async function load() {
    const mine = (turn += 1);
    const data = await unpack(model.get("payload").packed);
    if (gone || mine !== turn) return; // a newer one is under way
    view.data = data;
    view.runs = data.runs.filter(({ steps }) => steps.length);
    const steps = view.runs.flatMap((run) => run.steps);
    [view.first, view.last] = steps.length ? [Math.min(...steps), Math.max(...steps)] : [0, 0];
    empty.hidden = Boolean(steps.length);
    main.hidden = !steps.length;
    const wanted = JSON.stringify(data.charts);
    if (wanted !== titles) {
      titles = wanted;
      charts = data.charts.map((chart) => chartOf(chart, view));
      grid.replaceChildren(...charts.map(({ node }) => node));
    }
    title();
    follow();
    draw();
  }
  function title() {
    const now = model.get("now");
    const labels = [...new Set(view.runs.flatMap(({ facts }) => facts.map(([label]) => label)))];
    const many = view.runs.length > 1;
    const values = (label) =>
      view.runs.map((run, place) => {
        const [, value, mood] = run.facts.find(([name]) => name === label) ?? ["", "–", ""];
        return element("dd", { class: `${mood} ${many ? `of-run-${place}` : ""}` }, mood ? `✗ ${value}` : value);
      });
    const about = (run, place) => {
      const swatch = element("i", { class: `swatch run-${place}`, style: ownerStyle(colorOf(0, place, 2)) });
      const rest = run.left_out ? ` (${run.left_out} steps of a long run are not drawn)` : "";
      return element(
        "p",
        { class: "about" },
        ...(many ? [swatch, element("b", {}, run.name), " "] : []),
        run.about + rest,
      );
    };
    head.replaceChildren(
      ...caption(model.get("payload").title),
      ...(now ? [element("p", { class: "at-work", role: "status" }, now)] : []),
      ...view.runs.map(about),
      element(
        "dl",
        { class: "figures" },
        ...labels.map((label) => element("div", {}, element("dt", {}, label), ...values(label))),
      ),
    );
  }
  function draw() {
    if (main.hidden) return;
    for (const part of [strip, ...charts, phases, samples]) part.draw();
  }
  function point() {
    for (const part of [strip, ...charts]) part.point();
  }
  /** The step that is picked, or the newest one. */
  function follow() {
    const frame = model.get("frame") ?? -1;
    newest.hidden = frame < 0 || !model.get("now");
    view.chosen = frame < 0 ? view.last : Math.max(view.first, Math.min(view.last, frame));
    view.step = view.chosen;
  }
  function pick(frame) {
    model.set("frame", frame);
    model.save_changes();
    picked();
  }
  function picked() {
    if (!view.data) return;
    follow();
    point();
    phases.draw();
    samples.draw();
  }
  function select(step) {
    pick(Math.max(view.first, Math.min(view.last, step)));
  }
  /** Move the cursor for as long as the pointer stands there; null brings it back to the step that is picked. */
  function hover(step) {
    const wanted = step ?? view.chosen;
    if (wanted === view.step) return;
    view.step = wanted;
    point();
  }
  model.on("change:payload", load);
  model.on("change:now", title);
  model.on("change:frame", picked);
  const unwatch = onWidth(root, draw);
  load();
  return () => {
    gone = true;
    model.off("change:payload", load);
    model.off("change:now", title);
    model.off("change:frame", picked);
    unwatch();
  };
}

/** The one tooltip: a heading, and rows of name and value, or a sentence. */
function tipOf(root) {
  const node = element("div", { class: "tip", role: "tooltip" });
  node.hidden = true;
  /** Show it at a point of the window, or under a box that reaches up to `top`. */
  function show(clientX, clientY, heading, rows, top = clientY) {
    const lines =
      typeof rows === "string"
        ? [element("p", {}, rows)]
        : rows.map(([name, value]) =>
            element("div", { class: "row-of" }, element("span", {}, name), element("b", {}, value)),
          );
    node.replaceChildren(...(heading ? [element("p", { class: "tip-head" }, heading)] : []), ...lines);
    node.hidden = false;
    const box = root.getBoundingClientRect();
    const left = Math.max(4, Math.min(clientX - box.left + 14, root.clientWidth - node.offsetWidth - 8));
    // Over the pointer where there is no room under it in the window.
    const over = clientY + 18 + node.offsetHeight > window.innerHeight && top > node.offsetHeight + 18;
    node.style.left = `${left}px`;
    const room = top === clientY ? 14 : 5;
    node.style.top = `${over ? top - box.top - node.offsetHeight - room : clientY - box.top + room}px`;
  }
  const hide = () => (node.hidden = true);
  /** Show a text while an element is pointed at or focused. */
  function explains(target, heading, rows) {
    const tell = () => {
      const { left, bottom, top } = target.getBoundingClientRect();
      show(left, bottom, heading, rows, top);
    };
    for (const event of ["pointerenter", "focus"]) target.addEventListener(event, tell);
    for (const event of ["pointerleave", "blur"]) target.addEventListener(event, hide);
  }
  root.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
  return { node, show, hide, explains };
}

export default { render };
