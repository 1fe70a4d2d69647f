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

  // The outline of the box, and a shade over the rest of the picture, `whole`. Gives the corners in pixels.
  function outline(drawn, shade, box, whole) {
    const { left, top, width, height } = whole;
    const [x0, y0, x1, y1] = box ? [left + box[0] * width, top + box[1] * height, left + box[2] * width, top + box[3] * height] : [0, 0, 0, 0];
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) drawn.setAttribute(name, value);
    shade.setAttribute("d", box ? `M${left} ${top}h${width}v${height}h${-width}Z M${x0} ${y0}V${y1}H${x1}V${y0}Z` : "");
    return [x0, y0, x1, y1];
  }

  // What can be done with the box. `actions()` gives it, [{ label, title, run }]; `numbers()` those of the box.
  function makeMenu(menu, view, { actions, numbers }) {
    // Beside the box, where there is room for it, and always inside of the frame.
    function place([x0, y0, x1, y1]) {
      const { width, height } = view.room();
      const [wide, high] = [menu.offsetWidth, menu.offsetHeight];
      const spots = [[x1 + MENU_GAP, y0], [x0 - MENU_GAP - wide, y0], [x0, y1 + MENU_GAP], [x0, y0 - MENU_GAP - high]];
      const fits = ([x, y]) => x >= 4 && y >= 4 && x + wide <= width - 4 && y + high <= height - 4;
      const [x, y] = spots.find(fits) ?? spots[0];
      menu.style.left = `${Math.max(4, Math.min(x, width - wide - 4))}px`;
      menu.style.top = `${Math.max(4, Math.min(y, height - high - 4))}px`;
    }

    function fill() {
      menu.replaceChildren(...actions().map(({ label, title, run }) => {
        const item = Object.assign(document.createElement("button"), { type: "button", className: "mv-action", textContent: label });
        if (title) item.title = title;
        item.addEventListener("click", () => run(numbers(), item));
        return item;
      }));
    }

    return {
      node: menu,
      place, fill,
      hide: (isHidden) => (menu.hidden = isHidden),
      isHidden: () => menu.hidden,
      press: () => menu.querySelector("button").click(),
    };
  }

  // From the last field, Tab leads to what can be done with the box, although that stands beside the picture, and from there
  // to what comes after the fields.
  function orderTabs(lastField, menu, after) {
    let isFromField = false;
    const go = (event, to) => {
      event.preventDefault();
      to.focus();
    };
    const isTab = (event, isBack) => event.key === "Tab" && event.shiftKey === isBack;
    lastField.addEventListener("keydown", (event) => {
      if (!isTab(event, false) || menu.hidden) return;
      go(event, menu.firstChild);
      isFromField = true;
    });
    menu.addEventListener("keydown", (event) => {
      if (!isFromField) return;
      if (isTab(event, true) && event.target === menu.firstChild) go(event, lastField);
      if (isTab(event, false) && event.target === menu.lastChild) go(event, after);
    });
    menu.addEventListener("focusout", ({ relatedTarget }) => (isFromField &&= menu.contains(relatedTarget)));
  }

  // Four fields to type a box into, before the button `clear`. `give(numbers or null)` is told of it as it is typed.
  function followFields(fields, menu, clear, give) {
    orderTabs(fields.at(-1), menu.node, clear);
    for (const field of fields) {
      field.addEventListener("input", () => {
        const typed = fields.map((other) => (other.value === "" ? NaN : Math.round(Math.min(GRID, Math.max(0, other.valueAsNumber)))));
        const isWhole = typed.every(Number.isFinite) && typed[0] !== typed[2] && typed[1] !== typed[3];
        menu.fill();
        give(isWhole ? order(typed) : null);
      });
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        menu.isHidden() ? window.minivlm.sendQuestion() : menu.press();
      });
    }
  }

  // Dragging. `set(box or null)` is told of the box as it grows.
  function makeTool(menu, set) {
    let start = null;
    return {
      start(point) {
        start = point;
        menu.fill();
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
      isDragging: () => Boolean(start),
    };
  }

  // `changed(numbers or null)` is told of every new box; `actions()` gives what the menu offers.
  function makeDrawing(stage, view, { changed, actions }) {
    const [frame, drawn, shade, status] = [".mv-view", ".mv-drawn", ".mv-shade", ".mv-box-text"].map((one) => stage.querySelector(one));
    const [button, clear] = ["draw", "clear"].map((name) => stage.querySelector(`[data-stage="${name}"]`));
    const fields = [...stage.querySelectorAll(".mv-fields input")];
    const menu = makeMenu(stage.querySelector(".mv-box-menu"), view, { actions, numbers: () => numbers });
    const tool = makeTool(menu, (fractions) => set(fractions));
    let isOn = false;
    let box = null; // in fractions, as it was drawn
    let numbers = null;

    function set(fractions, { typed = null, keepFields = false } = {}) {
      box = fractions;
      numbers = typed ?? (box && box.map(cell));
      if (numbers && !isBox(numbers)) box = numbers = null;
      if (!keepFields) fields.forEach((field, index) => (field.value = numbers ? numbers[index] : ""));
      say();
      stage.classList.toggle("mv-has-box", Boolean(numbers));
      changed(numbers);
      place();
    }

    const say = () => (status.textContent = numbers ? `Box ${written(numbers)}` : isOn ? "No box yet." : "");
    const setNumbers = (typed, options) => set(typed && typed.map(middle), { typed, ...options });

    function place() {
      const corners = outline(drawn, shade, box, view.shown());
      menu.hide(!box || tool.isDragging());
      if (!menu.isHidden()) menu.place(corners);
    }

    function turn(on) {
      isOn = on;
      stage.classList.toggle("mv-drawing", on);
      button.setAttribute("aria-pressed", String(on));
      view.draw(on ? tool : null);
      if (!numbers) say();
    }

    followFields(fields, menu, clear, (typed) => setNumbers(typed, { keepFields: true }));
    button.addEventListener("click", () => {
      if (isOn) set(null);
      turn(!isOn);
    });
    clear.addEventListener("click", () => set(null));
    stage.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !(isOn || numbers)) return;
      event.stopPropagation(); // it ends this, not the answer
      numbers ? set(null) : turn(false);
      frame.focus();
    });

    return {
      place, turn, written,
      clear: () => set(null),
      give: (typed) => (menu.fill(), setNumbers(typed)),
      numbers: () => numbers,
      firstField: () => fields[0],
    };
  }

  Object.assign((window.minivlm ??= {}), { makeDrawing });
})();
