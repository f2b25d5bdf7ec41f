// What the pictures share: a widget's life, elements, and the player that scrubs through events.
// Colours are CSS variables (--owner-0, --ink-0, ...), which picture.py writes from the course's theme.

/** A widget's `render` that builds anew whenever the payload changes; `build(model, root)` returns what undoes it. */
export function rendering(build) {
  return ({ model, el }) => {
    let undo = () => {};
    const rebuild = () => {
      undo();
      const root = element("figure", { class: "course-picture" });
      el.replaceChildren(root);
      undo = build(model, root);
    };
    model.on("change:payload", rebuild);
    rebuild();
    return () => {
      model.off("change:payload", rebuild);
      undo();
    };
  };
}

/** An HTML element; attributes whose value is null, undefined or false are left out, `on...` ones are listeners. */
export function element(tag, attributes = {}, ...children) {
  const node = filled(document.createElement(tag), attributes, children);
  // JupyterLab takes arrow keys and letters as commands to its notebook, unless the focused element itself says this.
  if (node.tabIndex >= 0 || "tabindex" in attributes) node.setAttribute("data-lm-suppress-shortcuts", "true");
  return node;
}

/** An SVG element, made as `element` makes one. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat());
  return node;
}

/** The caption over a picture, or nothing where it has none. */
export function caption(title) {
  return title ? [element("figcaption", {}, title)] : [];
}

/** A style that gives an owner's colour, and the ink that can be read on it. */
export function ownerStyle(owner, colors = 6) {
  return `--owner: var(--owner-${owner % colors}); --ink: var(--ink-${owner % colors});`;
}

export const count = (number) => number.toLocaleString("en");

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** `1 block`, `2 blocks`. */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** What `pack` of picture.py packed. */
export const unpack = async (packed) => {
  const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  writer.write(bytes);
  writer.close();
  return JSON.parse(await new Response(stream.readable).text());
};

/** Milliseconds that a frame stands while playing: slow enough to read, and no film longer than about 25 s. */
export function frameTime(frames) {
  return Math.max(50, Math.min(1200, 25000 / frames));
}

/**
 * The player: a play button, a slider and the number of the event. It keeps the model's `frame`, and calls
 * `show(frame)` for each new one; `first` is the number that the first one is told by. Returns its element, and `stop` for when the picture goes away.
 */
export function player(model, frames, show, { noun = "event", first = 1 } = {}) {
  const last = frames - 1;
  let timer = null;
  const button = element("button", { type: "button", onclick: () => (timer ? pause() : play()) });
  const slider = element("input", {
    type: "range",
    min: 0,
    max: last,
    step: 1,
    "aria-label": noun,
    disabled: last === 0 ? "" : null,
    oninput: () => {
      pause();
      seek(Number(slider.value));
    },
  });
  const place = element("output", { class: "place" });

  function current() {
    return Math.max(0, Math.min(last, model.get("frame") ?? 0));
  }
  function seek(frame) {
    model.set("frame", Math.max(0, Math.min(last, frame)));
    model.save_changes();
    update();
  }
  function play() {
    if (current() === last) seek(0);
    timer = setInterval(() => {
      seek(current() + 1);
      if (current() === last) pause();
    }, frameTime(frames));
    label();
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    label();
  }
  function label() {
    button.textContent = timer ? "❚❚" : "▶";
    button.setAttribute("aria-label", timer ? "pause" : "play");
    button.disabled = last === 0;
  }
  function update() {
    slider.value = current();
    slider.setAttribute("aria-valuetext", `${noun} ${current() + first} of ${last + first}`);
    place.textContent = `${current() + first} / ${last + first}`;
    show(current());
  }
  model.on("change:frame", update);
  label();
  return {
    bar: element("div", { class: "player" }, button, slider, place),
    seek: (frame) => {
      pause();
      seek(frame);
    },
    update,
    stop: () => {
      pause();
      model.off("change:frame", update);
    },
  };
}

/** Call `draw(width)` when an element's width changes; returns what stops that. */
export function onWidth(node, draw) {
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    requestAnimationFrame(() => draw(width));
  });
  observer.observe(node);
  return () => observer.disconnect();
}
