// What lies over the picture beside the boxes of the answer: the boxes of another answer, the choices of experts; and the
// line under the picture that counts.
(() => {
  const { make } = window.minivlm;
  const FEW_COUNTS = 4; // kinds of things that are counted until the reader wants more: about two lines of them
  const MOST_COUNTS = 12;
  const EXPERTS =
    "Every patch has the colour of the expert it went to first. Patches of one kind often go to one expert, more so in later layers; none of them was told what to look for.";

  // How many there are of each kind. `phrase(number)`: its button in the conversation.
  function makeCounts(counts, { phrase, changed }) {
    let hasAll = false;

    function list(regions) {
      if (!regions.length) return null;
      const isLong = regions.length > FEW_COUNTS + 1;
      const items = regions.slice(0, isLong && !hasAll ? FEW_COUNTS : MOST_COUNTS).map(({ number, label, colour, boxes }) => {
        const text = `${boxes.length} × ${label || "box"}`;
        const button = make("button", { type: "button", className: "mv-count", ariaPressed: "false" }, make("i"), text);
        button.dataset.entity = number;
        button.style.setProperty("--mv-colour", colour);
        button.addEventListener("click", () => phrase(number)?.click());
        return button;
      });
      const more = regions.slice(MOST_COUNTS);
      if (more.length && hasAll) {
        const boxes = more.reduce((sum, region) => sum + region.boxes.length, 0);
        items.push(make("span", { textContent: `and ${boxes} more in ${more.length} other phrases` }));
      }
      if (isLong) items.push(switchOf(regions.length - FEW_COUNTS));
      return make("div", { className: "mv-count-list", role: "group", ariaLabel: "What was found" }, ...items);
    }

    function switchOf(hidden) {
      const text = hasAll ? "fewer" : `${hidden} more`;
      const button = make("button", { type: "button", className: "mv-count-more", ariaExpanded: String(hasAll), textContent: text });
      button.addEventListener("click", () => {
        hasAll = !hasAll;
        changed();
        counts.querySelector(".mv-count-more")?.focus();
      });
      return button;
    }

    function light(entities) {
      for (const button of counts.querySelectorAll(".mv-count")) button.ariaPressed = String(entities.has(button.dataset.entity));
    }

    return { list, light, hasAll: () => hasAll };
  }

  // The answer's own view of its experts, over the picture.
  function makeExperts(stage, view, { changed }) {
    const patches = stage.querySelector(".mv-patches");
    let layer = null; // that is shown, as in the answer's own view
    let area = null; // where the patches lie, in fractions of the picture

    function line(answer) {
      const figures = [...(answer?.querySelectorAll(".mv-routing-layer") ?? [])].filter((one) => one.querySelector("image.mv-patches"));
      const shown = figures.find((one) => one.dataset.layer === layer) ?? figures[Math.floor(figures.length / 2)];
      area = null;
      patches.removeAttribute("href");
      stage.classList.toggle("mv-has-patches", Boolean(shown));
      if (!shown) return null;
      const source = shown.querySelector("image.mv-patches");
      const { width, height } = source.ownerSVGElement.viewBox.baseVal;
      const part = (name, whole) => Number(source.getAttribute(name)) / whole;
      area = { x: part("x", width), y: part("y", height), width: part("width", width), height: part("height", height) };
      patches.setAttribute("href", source.getAttribute("href"));
      const range = make("input", { type: "range", min: 0, max: figures.length - 1, value: figures.indexOf(shown) });
      range.ariaLabel = "Layer of the experts";
      range.ariaValueText = `Layer ${shown.dataset.layer}`;
      range.addEventListener("input", () => {
        layer = figures[range.value].dataset.layer;
        changed();
        stage.querySelector(".mv-experts input").focus();
      });
      const legend = answer.querySelector(".mv-routing-legend")?.cloneNode(true) ?? "";
      return make("div", { className: "mv-experts" },
        make("label", {}, `Experts, layer ${shown.dataset.layer} `, range), legend, make("p", { className: "mv-note", textContent: EXPERTS }));
    }

    function place() {
      if (!area) return;
      const { left, top, width, height } = view.shown();
      const box = { x: left + area.x * width, y: top + area.y * height, width: area.width * width, height: area.height * height };
      for (const [name, value] of Object.entries(box)) patches.setAttribute(name, value);
    }

    return { line, place, layer: () => layer };
  }

  // `phrase(number)`: its button in the conversation; `regionsOf(answer, key)`; `changed()` draws the stage anew.
  function makeLayers(stage, view, { phrase, changed, regionsOf, answers }) {
    const lines = stage.querySelector(".mv-counts");
    const panel = stage.querySelector(".mv-layers");
    const counts = makeCounts(lines, { phrase, changed });
    const experts = makeExperts(stage, view, { changed });
    const comparison = window.minivlm.makeComparison(stage, { changed, regionsOf, answers });

    function show(answer, key, regions, { all, drawn }) {
      const note = drawn < all && make("p", { className: "mv-note", textContent: `${drawn} of ${all} boxes are drawn.` });
      lines.replaceChildren(...[counts.list(regions), note].filter(Boolean));
      panel.replaceChildren(...[comparison.line(answer, key, regions), experts.line(answer)].filter(Boolean));
      experts.place();
    }

    // What beside the answer decides what is drawn.
    const state = (answer) =>
      [comparison.state(), experts.layer(), counts.hasAll(), Boolean(answer?.querySelector(".mv-routing"))].join();

    return { show, state, others: comparison.others, remember: comparison.remember, light: counts.light, place: experts.place };
  }

  Object.assign(window.minivlm, { makeLayers });
})();
