// A box of the reader's own on the stage: dragged, or typed into four fields; and what can be done with it.
// Numbers are those of the text markup: cells of a grid of 100, from 0 to 100.
(() => {
  const GRID = 100;
  const MENU_GAP = 8; // pixels between box and menu

  const cell = (fraction) => Math.min(GRID, Math.max(0, Math.floor(fraction * GRID + 1e-9)));
  const middle = (number) => Math.min(1, (number + 0.5) / GRID);
  const order = ([x0, y0, x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  const isBox = ([x0, y0, x1, y1]) => x1 > x0 && y1 > y0;
  const written = (numbers) => `{<${numbers.join("><")}>}`;

  // `changed(numbers or null)` is told of every new box; `actions()` gives what the menu offers, [{ label, run }].
  function makeDrawing(stage, view, { changed, actions }) {
    const frame = stage.querySelector(".mv-view");
    const drawn = stage.querySelector(".mv-drawn");
    const shade = stage.querySelector(".mv-shade");
    const menu = stage.querySelector(".mv-box-menu");
    const status = stage.querySelector(".mv-box-text");
    const button = stage.querySelector('[data-stage="draw"]');
    const fields = [...stage.querySelectorAll(".mv-fields input")];
    let isOn = false;
    let box = null; // in fractions, as it was drawn
    let numbers = null;
    let start = null;

    function set(fractions, { typed = null, keepFields = false } = {}) {
      box = fractions;
      numbers = typed ?? (box && box.map(cell));
      if (numbers && !isBox(numbers)) box = numbers = null;
      if (!keepFields) fields.forEach((field, index) => (field.value = numbers ? numbers[index] : ""));
      status.textContent = numbers ? `Box ${written(numbers)}` : isOn ? "No box yet." : "";
      stage.classList.toggle("mv-has-box", Boolean(numbers));
      changed(numbers);
      place();
    }

    const setNumbers = (typed, options) =>
      set(typed && typed.map((number) => middle(number)), { typed, ...options });

    function place() {
      const { left, top, width, height } = view.shown();
      const [x0, y0, x1, y1] = box ? [left + box[0] * width, top + box[1] * height, left + box[2] * width, top + box[3] * height] : [0, 0, 0, 0];
      for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) drawn.setAttribute(name, value);
      shade.setAttribute("d", box ? `M${left} ${top}h${width}v${height}h${-width}Z M${x0} ${y0}V${y1}H${x1}V${y0}Z` : "");
      menu.hidden = !box || Boolean(start);
      if (!menu.hidden) placeMenu(x0, y0, x1, y1);
    }

    // Beside the box, where there is room for it, and always inside of the frame.
    function placeMenu(x0, y0, x1, y1) {
      const { width, height } = view.room();
      const [wide, high] = [menu.offsetWidth, menu.offsetHeight];
      const spots = [[x1 + MENU_GAP, y0], [x0 - MENU_GAP - wide, y0], [x0, y1 + MENU_GAP], [x0, y0 - MENU_GAP - high]];
      const fits = ([x, y]) => x >= 4 && y >= 4 && x + wide <= width - 4 && y + high <= height - 4;
      const [x, y] = spots.find(fits) ?? spots[0];
      menu.style.left = `${Math.max(4, Math.min(x, width - wide - 4))}px`;
      menu.style.top = `${Math.max(4, Math.min(y, height - high - 4))}px`;
    }

    function fillMenu() {
      menu.replaceChildren(...actions().map(({ label, title, run }) => {
        const item = Object.assign(document.createElement("button"), { type: "button", className: "mv-action", textContent: label });
        if (title) item.title = title;
        item.addEventListener("click", () => run(numbers, item));
        return item;
      }));
    }

    function turn(on) {
      isOn = on;
      stage.classList.toggle("mv-drawing", on);
      button.setAttribute("aria-pressed", String(on));
      view.draw(on ? tool : null);
      if (!numbers) status.textContent = on ? "No box yet." : "";
    }

    const tool = {
      start(point) {
        start = point;
        fillMenu();
      },
      move(point) {
        if (start) set(order([...start, ...point]));
      },
      end(point) {
        const last = order([...start, ...point]);
        start = null;
        set(isBox(last) ? last : null); // a click without a drag is no box
      },
      cancel() {
        start = null;
        set(null);
      },
    };

    for (const field of fields) {
      field.addEventListener("input", () => {
        const typed = fields.map((other) => (other.value === "" ? NaN : Math.round(Math.min(GRID, Math.max(0, other.valueAsNumber)))));
        const isWhole = typed.every(Number.isFinite) && typed[0] !== typed[2] && typed[1] !== typed[3];
        fillMenu();
        setNumbers(isWhole ? order(typed) : null, { keepFields: true });
      });
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        menu.hidden ? window.minivlm.sendQuestion() : menu.querySelector("button").click();
      });
    }
    button.addEventListener("click", () => {
      if (isOn) set(null);
      turn(!isOn);
    });
    stage.querySelector('[data-stage="clear"]').addEventListener("click", () => set(null));
    stage.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !(isOn || numbers)) return;
      event.stopPropagation(); // it ends this, not the answer
      numbers ? set(null) : turn(false);
      frame.focus();
    });

    return {
      place, turn, written,
      clear: () => set(null),
      give(corners) {
        fillMenu();
        setNumbers(corners);
      },
      isOn: () => isOn,
      numbers: () => numbers,
      firstField: () => fields[0],
    };
  }

  Object.assign((window.minivlm ??= {}), { makeDrawing });
})();
