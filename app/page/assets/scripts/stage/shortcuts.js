// Single keys for what the stage does, and the sheet that lists them. They can be switched off, for people whose speech
// input or hands press keys by accident; the picture's own keys (+ - 0 and arrows, while it has the focus) stay.
(() => {
  const minivlm = window.minivlm;
  const { make } = minivlm;
  const KEPT = "minivlm.shortcuts";

  const question = () => document.querySelector("#mv-question textarea");
  const stage = () => minivlm.stage;

  // [keys, what they do, run]; without `run` another part of the page listens.
  const LISTED = [
    ["?", "This list", () => show()],
    ["/", "Go to the question", () => question().focus()],
    ["[", "Previous answer on the picture", () => stage().step(-1)],
    ["]", "Next answer on the picture", () => stage().step(1)],
    [",", "Previous picture", () => stage().stepPicture(-1)],
    [".", "Next picture", () => stage().stepPicture(1)],
    ["b", "Draw a box, or stop drawing", () => stage().press("draw")],
    ["l", "Labels, boxes, neither", () => stage().nextMarks()],
    ["f", "The picture over the whole page, and back", () => stage().press(stage().isFull() ? "close" : "full")],
    ["+ − 0", "Zoom in, zoom out, whole picture"],
    ["← → ↑ ↓", "Move the picture, while it has the focus"],
    ["Enter", "Send the question; Shift+Enter begins a new line"],
    ["Escape", "Clear the box, close the picture, or stop the answer"],
  ];
  const ZOOM = { "+": "in", "=": "in", "-": "out", 0: "fit" };
  const RUN = new Map(LISTED.filter(([, , run]) => run).map(([key, , run]) => [key, run]));

  let isOn = true;
  let sheet = null;

  function makeSheet() {
    const rows = LISTED.flatMap(([keys, words]) => [
      make("dt", {}, ...keys.split(" ").map((key) => make("kbd", { textContent: key.length === 1 ? key.toUpperCase() : key }))),
      make("dd", { textContent: words }),
    ]);
    const toggle = make("input", { type: "checkbox", checked: isOn });
    toggle.addEventListener("change", () => {
      isOn = toggle.checked;
      minivlm.keepChoice(KEPT, isOn ? "on" : "off");
    });
    const close = make("button", { type: "button", className: "mv-action", textContent: "Close" });
    const dialog = make("dialog", { className: "mv-sheet" },
      make("h2", { id: "mv-sheet-title", textContent: "Keyboard shortcuts" }), make("dl", {}, ...rows),
      make("label", {}, toggle, " Single keys work (letters, signs and digits)"), close);
    dialog.setAttribute("aria-labelledby", "mv-sheet-title");
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.querySelector("#mv-stage").parentElement.append(dialog);
    return dialog;
  }

  function show() {
    sheet ??= makeSheet();
    if (!sheet.open) sheet.showModal();
  }

  document.addEventListener("keydown", (event) => {
    if (!isOn || event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const run = RUN.get(event.key.length === 1 ? event.key.toLowerCase() : "");
    const zoom = event.target.closest?.(".mv-view") ? null : ZOOM[event.key];
    if (!run && !zoom) return;
    event.preventDefault();
    run ? run() : stage().press(zoom);
  });
  document.addEventListener("keydown", (event) => {
    // A sheet over the page takes Escape for itself; the answer goes on.
    if (event.key === "Escape" && document.querySelector("dialog[open]")) event.stopImmediatePropagation();
  }, true);

  isOn = minivlm.keptChoice(KEPT) !== "off";
  Object.assign(minivlm, { showShortcuts: show });
})();
