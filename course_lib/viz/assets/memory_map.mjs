// The memory map: contiguous memory as rows of slots, coloured by owner and patterned by state, scrubbed through time.
import { caption, count, element, onWidth, ownerStyle, percent, player, plural, rendering, svg } from "./shared.mjs";

export const STATES = ["used", "reserved", "internal", "free"];

const MEANING = {
  used: "holds tokens",
  reserved: "will hold tokens later",
  internal: "allocated, never used",
  free: "belongs to nobody",
};

/** Slots in a row: one row for a small memory, at most eight for a large one. */
export function rowLength(size) {
  return Math.ceil(size / Math.max(1, Math.min(8, Math.ceil(size / 512))));
}

/**
 * Cut segments at the rows' ends: [{row, offset, length, state, owner, whole, first}]: `whole` is the
 * segment's length, `first` says whether it begins here.
 */
export function pieces(segments, row) {
  const found = [];
  for (const [start, length, state, owner] of segments) {
    for (let slot = start; slot < start + length;) {
      const end = Math.min(start + length, (Math.floor(slot / row) + 1) * row);
      found.push({
        row: Math.floor(slot / row),
        offset: slot % row,
        length: end - slot,
        state,
        owner,
        whole: length,
        first: slot === start,
      });
      slot = end;
    }
  }
  return found;
}

/** Slots in each state, in the order of STATES. */
export function slotsByState(segments) {
  const slots = [0, 0, 0, 0];
  for (const [, length, state] of segments) slots[state] += length;
  return slots;
}

/** The lengths of the holes: runs of free slots. */
export function holes(segments) {
  const found = [];
  let end = -1;
  for (const [start, length, state] of segments) {
    if (STATES[state] !== "free") continue;
    if (start === end) found[found.length - 1] += length;
    else found.push(length);
    end = start + length;
  }
  return found;
}

export function time(seconds) {
  return Number.isInteger(seconds) ? String(seconds) : seconds.toFixed(2);
}

/** A frame in words, for readers who don't see it. */
export function words(frame, owners) {
  const parts = frame.segments.map(([start, length, state, owner]) => {
    const who = owner < 0 ? "" : `${owners[owner]}: `;
    return `${who}${STATES[state]}, slots ${start} to ${start + length - 1}`;
  });
  return parts.slice(0, 40).join("; ") + (parts.length > 40 ? `; and ${parts.length - 40} more` : "");
}

/** What free memory is good for: many slots in many holes serve no long request. */
export function holesInWords(segments) {
  const found = holes(segments);
  if (found.length === 0) return "no hole";
  return `${plural(found.length, "hole")}, the largest of ${plural(Math.max(...found), "slot")}`;
}

function build(model, root) {
  const { title, size, owners, frames, runs } = model.get("payload");
  const row = rowLength(size);
  const event = element("p", { class: "event", "aria-live": "polite" });
  const strip = element("div", { class: "strip", role: "img" });
  const legend = element("ul", { class: "legend" });
  const history = svg("svg", { class: "history", role: "img", "aria-label": "shares of the memory over the events" });
  const controls = player(model, frames.length, show);
  history.addEventListener("click", (click) => {
    const { left, width } = history.getBoundingClientRect();
    controls.seek(Math.round(((click.clientX - left - 8) / (width - 16)) * (frames.length - 1)));
  });
  root.append(
    ...caption(title),
    event,
    strip,
    legend,
    controls.bar,
    ...(frames.length > 1 ? [history] : []),
    ...bars(runs),
  );

  function show(index) {
    const frame = frames[index];
    const mark = frame.refused ? [element("b", { class: "refused" }, "✗ refused ")] : [];
    event.replaceChildren(element("span", { class: "time" }, `t = ${time(frame.time)}`), ...mark, frame.event);
    strip.setAttribute("aria-label", words(frame, owners));
    strip.replaceChildren(...rows(frame));
    const slots = slotsByState(frame.segments);
    legend.replaceChildren(...STATES.map((state, place) => legendItem(state, slots[place], frame)));
    history.querySelector(".now")?.setAttribute("transform", `translate(${middle(index)}, 0)`);
  }
  function rows(frame) {
    const lines = Array.from({ length: Math.ceil(size / row) }, (_, line) =>
      element("div", { class: "row", style: `width: ${(100 * Math.min(row, size - line * row)) / row}%` }),
    );
    const width = strip.clientWidth || 800;
    for (const piece of pieces(frame.segments, row)) {
      lines[piece.row].append(block(piece, Math.min(row, size - piece.row * row), (width * piece.length) / row));
    }
    return lines.map((line, place) =>
      element(
        "div",
        { class: "line" },
        element("span", { class: "slot" }, count(place * row)),
        element("div", { class: "track" }, line),
      ),
    );
  }
  function block({ offset, length, state, owner, whole, first }, slots, pixels) {
    const name = owner < 0 ? STATES[state] : owners[owner];
    const label = [`${name} ${whole}`, name].find((text) => text.length * 7 + 8 < pixels) ?? "";
    const place = `left: ${(100 * offset) / slots}%; width: ${(100 * length) / slots}%;`;
    const color = owner < 0 ? "" : ownerStyle(owner);
    const said = `${name}: ${plural(whole, "slot")} ${STATES[state]}`;
    return element(
      "div",
      { class: `piece ${STATES[state]}`, style: place + color, title: said },
      first && label ? element("span", {}, label) : "",
    );
  }
  function legendItem(state, slots, frame) {
    const more = state === "free" ? holesInWords(frame.segments) : MEANING[state];
    return element(
      "li",
      {},
      element("i", { class: `piece ${state}` }),
      element(
        "span",
        {},
        element("b", {}, `${state} ${percent(slots / size)}`),
        element("small", {}, `${count(slots)} slots, ${more}`),
      ),
    );
  }

  const middle = (index) => 8 + ((history.clientWidth - 16) * index) / Math.max(1, frames.length - 1);
  function chart() {
    history.replaceChildren(
      svg("text", { x: 0, y: 16 }, "100 %"),
      svg("text", { x: 0, y: 72 }, "0"),
      svg("path", { class: "edge", d: `M8 8H${history.clientWidth - 8}` }),
      ...areas(frames, size, middle),
      svg("line", { class: "now", y1: 0, y2: 72 }),
    );
    controls.update();
  }
  controls.update();
  const unwatch = onWidth(root, chart);
  return () => {
    unwatch();
    controls.stop();
  };
}

/** The history's stacked areas, from the bottom used, reserved, internal, and ticks over the events that were refused. */
function areas(frames, size, middle) {
  const step = (middle(1) - middle(0)) / 2;
  const within = (x) => Math.max(middle(0), Math.min(middle(frames.length - 1), x));
  const top = frames.map(() => 0);
  const shapes = STATES.slice(0, 3).map((state, place) => {
    const below = [...top];
    frames.forEach((frame, index) => (top[index] += slotsByState(frame.segments)[place] / size));
    const edge = (shares, index) => {
      const y = 8 + 64 * (1 - shares[index]);
      return [`${within(middle(index) - step)} ${y}`, `${within(middle(index) + step)} ${y}`];
    };
    const indices = frames.map((_, index) => index);
    const forth = indices.flatMap((index) => edge(top, index));
    const back = indices.flatMap((index) => edge(below, index)).reverse();
    return svg("path", { class: `area ${state}`, d: `M${[...forth, ...back].join("L")}Z` }, svg("title", {}, state));
  });
  const ticks = frames.flatMap((frame, index) =>
    frame.refused
      ? [svg("path", { class: "tick", d: `M${middle(index) - 3} 0h6l-3 6z` }, svg("title", {}, frame.event))]
      : [],
  );
  return [...shapes, ...ticks];
}

/** Bars of several runs' mean shares, the newest first: what the playground compares. */
function bars(runs) {
  if (!runs?.length) return [];
  const kinds = ["used", "reserved", "internal", "external"];
  return [
    element(
      "table",
      { class: "runs" },
      element(
        "caption",
        {},
        "Where the memory went, on average over time, in the last runs (free here: external waste)",
      ),
      ...runs.map(({ label, shares, note }) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, label),
          element(
            "td",
            { class: "bar", "aria-label": kinds.map((kind, place) => `${kind} ${percent(shares[place])}`).join(", ") },
            element(
              "div",
              {},
              ...kinds.map((kind, place) =>
                element(
                  "div",
                  {
                    class: `piece ${kind === "external" ? "free" : kind}`,
                    style: `width: ${100 * shares[place]}%`,
                    title: `${kind} ${percent(shares[place])}`,
                  },
                  shares[place] > 0.1
                    ? element(
                        "span",
                        {},
                        `${shares[place] > 0.28 ? `${kind} ` : ""}${(100 * shares[place]).toFixed(0)} %`,
                      )
                    : "",
                ),
              ),
            ),
          ),
          element("td", { class: "note" }, note),
        ),
      ),
    ),
  ];
}

const render = rendering(build);
export default { render };
