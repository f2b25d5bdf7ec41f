// Two completions side by side, and a choice between them. Python keeps the choices: a click sends one, and the answer is a new payload.
import { caption, count, element } from "./shared.mjs";

const KEYS = {
  left: ["ArrowLeft", "1"],
  right: ["ArrowRight", "2"],
  equal: ["=", "0"],
  undo: ["Backspace", "u"],
};
const PATIENCE = 4000; // milliseconds until a kernel that has not answered is said to be gone

/** What a key press asks for, or undefined. */
export function asked({ key, ctrlKey, metaKey, altKey }) {
  if (ctrlKey || metaKey || altKey) return undefined;
  return Object.keys(KEYS).find((choice) => KEYS[choice].includes(key));
}

/** What can be asked for now. */
export function possible({ current, judged }) {
  return [...(current === null ? [] : ["left", "right", "equal"]), ...(judged ? ["undo"] : [])];
}

/** Where one is, in words. */
export function place({ current, total, counts }) {
  const judged = `${count(counts.left)} left, ${count(counts.right)} right, ${count(counts.equal)} equal`;
  return current === null ? `All ${count(total)} pairs judged` : `Pair ${count(current + 1)} of ${count(total)} (${judged})`;
}

function build(model, root) {
  const live = typeof model.send === "function"; // a saved page has no kernel to send to
  const buttons = {
    left: button("left", "←", "Left is better"),
    right: button("right", "→", "Right is better"),
    equal: button("equal", "=", "Equal, or can't say"),
    undo: button("undo", "⌫", "Undo"),
  };
  const bar = element("progress", { "aria-label": "pairs judged" });
  const where = element("output", { class: "where" });
  const question = element("p", { class: "question" });
  const answers = { left: answer("left"), right: answer("right") };
  const told = element("p", { class: "told", role: "status" });
  root.append(
    ...caption(model.get("payload").title),
    element("div", { class: "so-far" }, bar, where),
    question,
    element("div", { class: "answers" }, side("left"), side("right")),
    element("div", { class: "choices" }, buttons.equal, buttons.undo),
    told,
  );
  let waiting = null;

  function button(choice, key, text) {
    const keyed = element("kbd", { "aria-hidden": "true" }, key);
    return element(
      "button",
      { type: "button", "aria-keyshortcuts": KEYS[choice].join(" "), onclick: () => ask(choice) },
      keyed,
      text,
    );
  }
  function answer(name) {
    return element("div", { class: "answer", tabindex: 0, role: "region", "aria-label": `${name} answer` });
  }
  function side(name) {
    return element("div", { class: "side" }, answers[name], buttons[name]);
  }
  function ask(choice) {
    const payload = model.get("payload");
    if (!live || waiting || !possible(payload).includes(choice)) return;
    // The pair goes with the choice: one that was made twice must not judge the next pair too.
    model.send({ choice, pair: payload.current });
    root.classList.add("waiting");
    waiting = setTimeout(() => {
      waiting = null;
      root.classList.remove("waiting");
      told.textContent = "The kernel has not answered: it is busy or gone. A choice is kept once it answers.";
    }, PATIENCE);
  }
  function show() {
    clearTimeout(waiting);
    waiting = null;
    root.classList.remove("waiting");
    const payload = model.get("payload");
    bar.max = payload.total;
    bar.value = payload.judged;
    where.textContent = place(payload);
    question.textContent = payload.question;
    for (const name of ["left", "right"]) {
      answers[name].textContent = payload[name];
      answers[name].scrollTop = 0;
    }
    root.classList.toggle("done", payload.current === null);
    const can = live ? possible(payload) : [];
    // A button that is switched off loses the focus, and with it the keys.
    const lost = Object.keys(buttons).some((name) => buttons[name].matches(":focus") && !can.includes(name));
    for (const [name, node] of Object.entries(buttons)) node.disabled = !can.includes(name);
    if (lost) root.focus();
    told.classList.toggle("refused", Boolean(payload.error));
    told.textContent = payload.error || (live ? payload.told : "To judge pairs, run this cell in a notebook.");
  }
  function pressed(press) {
    const choice = asked(press);
    if (!choice) return;
    press.preventDefault();
    press.stopPropagation();
    if (!press.repeat) ask(choice); // a key that is held down judges one pair
  }
  root.addEventListener("keydown", pressed);
  model.on("change:payload", show);
  show();
  return () => {
    clearTimeout(waiting);
    model.off("change:payload", show);
  };
}

// Not `rendering`: elements that are built anew would lose the focus with every choice.
function render({ model, el }) {
  const root = element("figure", {
    class: "course-picture preference",
    tabindex: 0,
    role: "group",
    "aria-label": "Which answer is better? Left arrow, right arrow, equals sign; Backspace takes the last choice back.",
  });
  el.replaceChildren(root);
  return build(model, root);
}
export default { render };
