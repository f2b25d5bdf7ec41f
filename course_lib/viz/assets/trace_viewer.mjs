// The trace viewer: one scheduler's run, or two beside each other, scrubbed through steps.
import { caption, element, onWidth, player, rendering, unpack } from "./shared.mjs";
import { nextMark, throughput } from "./trace_data.mjs";
import { panel } from "./trace_panel.mjs";
import { timeline } from "./trace_timeline.mjs";

function build(model, root) {
  const { title, packed } = model.get("payload");
  let undo = () => {};
  let gone = false;
  root.classList.add("trace");
  root.append(...caption(title));
  unpack(packed).then((data) => {
    if (!gone) undo = draw(model, root, data);
  });
  return () => {
    gone = true;
    undo();
  };
}

function draw(model, root, data) {
  const { views, verdict, differs } = data;
  const steps = Math.max(...views.map(({ frames }) => frames.length));
  const found = differs.findIndex((fields) => fields.length);
  const parting = found < 0 || found >= steps ? null : found;
  const most = {
    tokens: Math.max(
      ...views.flatMap(({ timeline: { prefill, decode } }) => prefill.map((part, step) => part + decode[step])),
      1,
    ),
    rate: Math.max(...views.flatMap((view) => throughput(view.timeline)), 0),
  };
  let selected = null;
  const select = (request) => {
    selected = request;
    for (const part of panels) part.highlight(request);
  };
  const panels = views.map((view) => panel(view, data, select));
  const controls = player(model, steps, show, { noun: "step", first: 0 });
  const lines = views.map((view) => timeline(view, data, steps, most, parting, controls.seek));
  const step = element("b", { class: "step" });
  const agreement = element("span", { class: "agreement" });
  const current = () => Math.max(0, Math.min(steps - 1, model.get("frame") ?? 0));
  const tool = (text, said, act) =>
    element("button", { type: "button", "aria-label": said, title: said, onclick: act }, text);
  const preemptions = Array.from({ length: steps }, (_, place) =>
    views.reduce((sum, view) => sum + (view.timeline.preempted[place] ?? 0), 0),
  );
  const tools = element(
    "div",
    { class: "tools" },
    step,
    agreement,
    tool("‹", "step back", () => controls.seek(current() - 1)),
    tool("›", "step on", () => controls.seek(current() + 1)),
    ...(preemptions.some(Boolean)
      ? [tool("next preemption", "go to the next preemption", () => controls.seek(nextMark(preemptions, current())))]
      : []),
    ...(parting === null ? [] : [tool("first difference", "go to the first difference", () => controls.seek(parting))]),
  );
  root.classList.toggle("pair", views.length > 1);
  root.append(
    ...(verdict ? [element("p", { class: `verdict ${data.same ? "same" : "parted"}` }, verdict)] : []),
    tools,
    element("div", { class: "panels" }, ...panels.map(({ node }) => node)),
    controls.bar,
    element("div", { class: "panels" }, ...lines.map(({ node }) => element("div", { class: "over-time" }, node))),
  );

  function show(place) {
    step.textContent = `Step ${place}`;
    const fields = differs[place];
    if (views.length > 1) {
      agreement.textContent = !fields ? "" : fields.length ? `≠ differ: ${fields.join(", ")}` : "= the same in both";
      agreement.title = agreement.textContent;
      agreement.classList.toggle("differ", Boolean(fields?.length));
    }
    for (const part of [...panels, ...lines]) part.show(place, fields);
  }
  const moves = {
    ArrowLeft: () => current() - 1,
    ArrowRight: () => current() + 1,
    Home: () => 0,
    End: () => steps - 1,
  };
  const onKey = (press) => {
    if (press.key === "Escape") return select(null);
    // The slider moves by itself.
    if (press.target.matches("input")) return;
    if (press.key in moves) controls.seek(moves[press.key]());
    else if (press.key === "ArrowDown" || press.key === "ArrowUp") select(beside(press.key === "ArrowDown" ? 1 : -1));
    else return;
    press.preventDefault();
  };
  /** The running request after the selected one, or before it; nobody at the end. */
  function beside(step) {
    const batch = views[0].frames[current()]?.running.map(({ request }) => request) ?? [];
    const place = batch.indexOf(selected);
    return batch[place < 0 && step < 0 ? batch.length - 1 : place + step] ?? null;
  }
  root.addEventListener("keydown", onKey);
  const fit = () => {
    for (const { node, draw: redraw } of lines) redraw(node.parentNode.clientWidth);
    controls.update();
  };
  fit();
  const unwatch = onWidth(root, fit);
  return () => {
    root.removeEventListener("keydown", onKey);
    unwatch();
    controls.stop();
  };
}

const render = rendering(build);
export default { render };
