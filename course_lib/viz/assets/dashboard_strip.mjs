// The strip of steps, which is the dashboard's slider: a mark for each receipt, and for what went wrong otherwise.
import { element, svg } from "./shared.mjs";
import { SIDES, short, tenth, ticks } from "./dashboard_scale.mjs";

const CELL = 22;

/** The strip: a slider over the steps, a mark for each receipt. Returns its element, `draw()` and `point()`. */
export function stripOf(view) {
  const node = svg("svg", {
    class: "strip",
    role: "slider",
    tabindex: 0,
    "data-lm-suppress-shortcuts": "true",
    "aria-label": "step",
  });
  const verdict = element("p", { class: "verdict", "aria-live": "polite" });
  let [x, thumb] = [(step) => step, null];

  function draw() {
    const width = node.clientWidth;
    if (!width) return;
    const { runs, first, last } = view;
    const cell = (width - SIDES.left - SIDES.right) / Math.max(1, last - first + 1);
    const bottom = 18 + CELL * runs.length;
    x = (step) => SIDES.left + cell * (step - first + 0.5);
    thumb = svg("g", {});
    node.setAttribute("height", bottom + 16);
    node.replaceChildren(
      thumb,
      ...runs.flatMap((run, row) => {
        const y = 18 + CELL * (row + 0.5);
        const name = runs.length > 1 ? run.name : "receipts";
        return [
          svg("path", { class: "grid", d: `M${SIDES.left} ${y}H${width - SIDES.right}` }),
          svg("text", { class: "lane-name", x: SIDES.left - 8, y: y + 4 }, short(name)),
          ...run.steps.flatMap((step, place) =>
            mark(run, place, x(step), y, Math.min(5, Math.max(1.2, cell / 2 - 0.5))),
          ),
        ];
      }),
      ...ticks(first, last, 10, 1).map((step) =>
        svg("text", { class: "tick middle", x: x(step), y: bottom + 11 }, step),
      ),
    );
    node.setAttribute("aria-valuemin", first);
    node.setAttribute("aria-valuemax", last);
    point();
  }
  function mark(run, place, cx, cy, r) {
    const [receipt, notes] = [run.receipts[place], run.notes[place]];
    const cross = `M${tenth(cx - 5)} ${cy - 5}l10 10m0 -10l-10 10`;
    return [
      ...(receipt?.[0] ? [svg("circle", { class: "clean", cx: tenth(cx), cy, r })] : []),
      ...(receipt && !receipt[0] ? [svg("path", { class: "failed", d: cross })] : []),
      ...(notes.length ? [svg("path", { class: "noted", d: `M${tenth(cx)} ${cy - 13}l5 8h-10Z` })] : []),
    ];
  }
  function point() {
    if (!thumb) return;
    const [at, edge] = [tenth(x(view.step)), Math.max(5, (x(1) - x(0)) / 2)];
    thumb.replaceChildren(
      svg("rect", { class: "thumb", x: at - edge, y: 16, width: 2 * edge, height: CELL * view.runs.length + 4, rx: 3 }),
      svg(
        "text",
        {
          class: "picked middle",
          x: Math.min(node.clientWidth - SIDES.right - 16, Math.max(SIDES.left + 16, at)),
          y: 11,
        },
        `step ${view.step}`,
      ),
    );
    node.setAttribute("aria-valuenow", view.step);
    node.setAttribute("aria-valuetext", `step ${view.step}`);
    verdict.replaceChildren(
      ...view.runs.flatMap((run) => {
        const place = run.steps.indexOf(view.step);
        const said = view.runs.length > 1 ? `${run.name}: ` : "";
        if (place < 0)
          return [element("span", {}, `${said}no step ${view.step}${run.left_out ? " in this page" : ""}`)];
        const receipt = run.receipts[place];
        const words = receipt ? receipt[1] : view.step ? "no receipt" : "the measurement before the first step";
        return [
          element(
            "span",
            { class: receipt && !receipt[0] ? "bad" : "" },
            element("b", {}, receipt ? (receipt[0] ? "✓ " : "✗ ") : ""),
            said + words,
          ),
          ...run.notes[place].map((note) => element("span", { class: "bad" }, `▲ ${note}`)),
        ];
      }),
    );
  }
  const stepAt = ({ clientX }) => {
    const share =
      (clientX - node.getBoundingClientRect().left - SIDES.left) / (node.clientWidth - SIDES.left - SIDES.right);
    return Math.max(view.first, Math.min(view.last, Math.floor(view.first + share * (view.last - view.first + 1))));
  };
  const page = () => Math.max(2, Math.round((view.last - view.first) / 10));
  const moves = {
    ArrowLeft: () => view.chosen - 1,
    ArrowRight: () => view.chosen + 1,
    ArrowDown: () => view.chosen - 1,
    ArrowUp: () => view.chosen + 1,
    PageDown: () => view.chosen - page(),
    PageUp: () => view.chosen + page(),
    Home: () => view.first,
    End: () => view.last,
  };
  node.addEventListener("keydown", (press) => {
    if (!(press.key in moves)) return;
    view.hover(null);
    view.select(moves[press.key]());
    press.preventDefault();
  });
  node.addEventListener("pointermove", (move) => (move.buttons ? view.select(stepAt(move)) : view.hover(stepAt(move))));
  node.addEventListener("pointerdown", (press) => view.select(stepAt(press)));
  node.addEventListener("pointerleave", () => view.hover(null));
  return { node: element("div", {}, node, verdict), draw, point };
}
