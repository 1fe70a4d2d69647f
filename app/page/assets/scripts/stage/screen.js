// How much of the page the stage takes: a pane, a strip, the whole screen; and the width of the pane.
(() => {
  const WIDE = matchMedia("(min-width: 62.5em), (min-width: 43.75em) and (max-height: 31.25em)"); // as in layout.css
  const { keepChoice, keptChoice } = window.minivlm;
  const KEPT = "minivlm.stage.width";
  const MARKS = "minivlm.stage.marks";
  const [LEAST, MOST, USUAL] = [25, 75, 56]; // percent of the page

  function makeScreen(stage) {
    const column = stage.closest(".column");
    const block = [...column.children].find((child) => child.contains(stage));
    const splitter = stage.querySelector(".mv-splitter");
    let opener = null;

    // Over the whole screen nothing else can be reached.
    function open(isFull) {
      if (stage.classList.contains("mv-full") === isFull) return;
      if (isFull) opener = document.activeElement;
      stage.classList.toggle("mv-full", isFull);
      for (const other of column.children) if (other !== block) other.inert = isFull;
      if (isFull) stage.querySelector(".mv-view").focus();
      else if (opener?.isConnected) opener.focus();
    }

    stage.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || !stage.classList.contains("mv-full")) return;
      event.stopPropagation(); // it closes this; the answer goes on
      open(false);
    });
    // The strip is too small to draw on, or to look closely: it opens.
    stage.querySelector(".mv-view").addEventListener("click", () => {
      if (!WIDE.matches && !stage.classList.contains("mv-full")) open(true);
    }, true);
    WIDE.addEventListener("change", () => open(false));

    function split(percent) {
      const width = Math.min(MOST, Math.max(LEAST, percent));
      column.style.setProperty("--mv-stage-width", `${width}%`);
      splitter.ariaValueNow = String(Math.round(width));
      keepChoice(KEPT, width);
    }
    splitter.ariaValueMin = String(LEAST);
    splitter.ariaValueMax = String(MOST);
    split(Number(keptChoice(KEPT)) || USUAL);
    splitter.addEventListener("pointerdown", (event) => {
      splitter.setPointerCapture(event.pointerId);
      event.preventDefault();
      splitter.focus();
    });
    splitter.addEventListener("pointermove", (event) => {
      if (!splitter.hasPointerCapture(event.pointerId)) return;
      const { left, width } = column.getBoundingClientRect();
      split(((event.clientX - left) / width) * 100);
    });
    splitter.addEventListener("dblclick", () => split(USUAL));
    splitter.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
      if (by) split(Number(splitter.ariaValueNow) + by);
    });

    return { open, isWide: () => WIDE.matches, isFull: () => stage.classList.contains("mv-full") };
  }

  // How much is drawn over all pictures of the page: labels and boxes, boxes, nothing.
  function makeSwitch(stage) {
    const page = stage.closest(".gradio-container");
    const buttons = [...stage.querySelectorAll("[data-marks]")];
    const names = buttons.map((button) => button.dataset.marks);
    function choose(name) {
      page.dataset.marks = name;
      buttons.forEach((button) => (button.ariaPressed = String(button.dataset.marks === name)));
      keepChoice(MARKS, name);
    }
    buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.marks)));
    choose(names.includes(keptChoice(MARKS)) ? keptChoice(MARKS) : names[0]);
    return { next: () => choose(names[(names.indexOf(page.dataset.marks) + 1) % names.length]) };
  }

  Object.assign((window.minivlm ??= {}), { makeScreen, makeSwitch });
})();
