// What lies over the picture beside the boxes of the answer: the boxes of another answer, the choices of experts; and the
// line under the picture that counts.
(() => {
  const FEW_COUNTS = 4; // kinds of things that are counted until the reader wants more: about two lines of them
  const MOST_COUNTS = 12;
  const SAME = 0.5; // intersection over union from which two boxes are the same place
  const EXPERTS =
    "Every patch has the colour of the expert it went to first. Patches of one kind often go to one expert, more so in later layers; none of them was told what to look for.";

  const clean = (text) => text.trim().toLowerCase();

  function make(name, attributes = {}, ...children) {
    const node = Object.assign(document.createElement(name), attributes);
    node.append(...children);
    return node;
  }

  function overlap([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) {
    const common = Math.max(0, Math.min(ax1, bx1) - Math.max(ax0, bx0)) * Math.max(0, Math.min(ay1, by1) - Math.max(ay0, by0));
    const union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common;
    return union > 0 ? common / union : 0;
  }

  // How the boxes of an answer differ from those of another: each is matched with at most one of the same phrase.
  function difference(regions, others) {
    const flat = (list) => list.flatMap(({ label, boxes }) => boxes.map((box) => ({ label: clean(label), box })));
    const left = flat(others);
    const found = { same: 0, moved: 0, added: 0, gone: 0 };
    for (const one of flat(regions)) {
      const alike = left.filter((other) => other.label === one.label);
      const best = alike.sort((a, b) => overlap(b.box, one.box) - overlap(a.box, one.box))[0];
      if (!best) found.added += 1;
      else {
        left.splice(left.indexOf(best), 1);
        found[overlap(best.box, one.box) >= SAME ? "same" : "moved"] += 1;
      }
    }
    found.gone = left.length;
    return found;
  }

  // `phrase(number)`: its button in the conversation; `regionsOf(answer, key)`; `changed()` draws the stage anew.
  function makeLayers(stage, view, { phrase, changed, regionsOf, answers }) {
    const counts = stage.querySelector(".mv-counts");
    const panel = stage.querySelector(".mv-layers");
    const patches = stage.querySelector(".mv-patches");
    const retried = new Map(); // by exchange: the regions of the answer that was there before a retry
    const seen = new Map(); // by exchange: the regions of the answer that is there, once it has ended
    let compared = null; // the exchange whose boxes are shown as well, "retry", or "" for nothing; null until it is chosen
    let count = 0; // of the answers
    let layer = null; // of the experts that are shown, as in the answer's own view
    let hasAllCounts = false;
    let area = null; // where the patches lie, in fractions of the picture

    const numberOf = (answer) => parseInt(answer.dataset.exchange); // of its question, which may have two
    const questionOf = (exchange) => document.querySelector(`.mv-question[data-exchange="${parseInt(exchange)}"] .mv-text`)?.textContent;
    const isPair = (one, other) => one !== other && numberOf(one) === numberOf(other);
    const partner = (answer) => answer && answers().find((other) => isPair(other, answer))?.dataset.exchange;
    const comparedWith = (answer) => compared ?? partner(answer) ?? "";

    // Called before anything is drawn. An answer that ends with other regions than before has been retried.
    function remember(list) {
      if (list.length !== count) compared = null;
      count = list.length;
      for (const answer of list) {
        const { exchange, regions = "[]", state, picture } = answer.dataset;
        const before = seen.get(exchange);
        if (state !== "done" || before?.regions === regions) continue;
        const now = { regions, picture, question: questionOf(exchange) };
        const isRetry = before && before.picture === picture && before.question === now.question && before.regions !== "[]";
        if (isRetry) retried.set(exchange, before);
        else retried.delete(exchange);
        seen.set(exchange, now);
      }
      const there = new Set(list.map(({ dataset }) => dataset.exchange));
      for (const exchange of [...seen.keys()]) {
        if (!there.has(exchange)) seen.delete(exchange), retried.delete(exchange);
      }
    }

    // What the boxes of this answer can be compared with: [{ value, label, regions }].
    function choices(answer, key) {
      if (!answer || !regionsOf(answer, key).length) return [];
      const before = retried.get(answer.dataset.exchange);
      const list = before?.picture === key ? [{ value: "retry", label: "before the retry", regions: JSON.parse(before.regions) }] : [];
      for (const other of answers()) {
        const regions = other === answer ? [] : regionsOf(other, key);
        const label = isPair(other, answer) ? "the other answer" : other.ariaLabel.toLowerCase();
        if (regions.length) list.push({ value: other.dataset.exchange, label, regions });
      }
      return list;
    }

    const others = (answer, key) => choices(answer, key).find(({ value }) => value === comparedWith(answer))?.regions ?? [];

    function show(answer, key, regions, { all, drawn }) {
      const lines = [countsOf(regions)];
      if (drawn < all) lines.push(make("p", { className: "mv-note", textContent: `${drawn} of ${all} boxes are drawn.` }));
      counts.replaceChildren(...lines.filter(Boolean));
      panel.replaceChildren(...[compareWith(answer, key, regions), experts(answer)].filter(Boolean));
      place();
    }

    function countsOf(regions) {
      if (!regions.length) return null;
      const isLong = regions.length > FEW_COUNTS + 1;
      const items = regions.slice(0, isLong && !hasAllCounts ? FEW_COUNTS : MOST_COUNTS).map(({ number, label, colour, boxes }) => {
        const text = `${boxes.length} × ${label || "box"}`;
        const button = make("button", { type: "button", className: "mv-count", ariaPressed: "false" }, make("i"), text);
        button.dataset.entity = number;
        button.style.setProperty("--mv-colour", colour);
        button.addEventListener("click", () => phrase(number)?.click());
        return button;
      });
      const more = regions.slice(MOST_COUNTS);
      if (more.length && hasAllCounts) {
        const boxes = more.reduce((sum, region) => sum + region.boxes.length, 0);
        items.push(make("span", { textContent: `and ${boxes} more in ${more.length} other phrases` }));
      }
      if (isLong) items.push(switchOf(regions.length - FEW_COUNTS));
      return make("div", { className: "mv-count-list", role: "group", ariaLabel: "What was found" }, ...items);
    }

    function switchOf(hidden) {
      const text = hasAllCounts ? "fewer" : `${hidden} more`;
      const button = make("button", { type: "button", className: "mv-count-more", ariaExpanded: String(hasAllCounts), textContent: text });
      button.addEventListener("click", () => {
        hasAllCounts = !hasAllCounts;
        changed();
        counts.querySelector(".mv-count-more")?.focus();
      });
      return button;
    }

    function compareWith(answer, key, regions) {
      const list = choices(answer, key);
      if (!list.length) return null;
      const select = make("select", { ariaLabel: "Compare with another answer" }, new Option("nothing", ""));
      for (const { value, label } of list) select.add(new Option(label, value));
      const chosen = list.find(({ value }) => value === comparedWith(answer));
      select.value = chosen?.value ?? "";
      select.addEventListener("change", () => {
        compared = select.value;
        changed();
        stage.querySelector(".mv-compare select").focus();
      });
      const line = make("div", { className: "mv-compare" }, make("label", {}, "Compare with ", select));
      const said = document.querySelector(`[data-verdict="${numberOf(answer)}"] .mv-difference`)?.textContent;
      if (chosen && chosen.value === partner(answer)) {
        if (said) line.append(make("p", { className: "mv-note", role: "status", textContent: `${said} Dashed is the other answer.` }));
      } else if (chosen) {
        const { same, moved, added, gone } = difference(regions, chosen.regions);
        const words = `${same} in the same place, ${moved} moved, ${added} only here, ${gone} only in the other (dashed)`;
        line.append(make("p", { className: "mv-note", role: "status", textContent: words }));
      }
      return line;
    }

    // The answer's own view of its experts, over the picture.
    function experts(answer) {
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

    function light(entities) {
      for (const button of counts.querySelectorAll(".mv-count")) button.ariaPressed = String(entities.has(button.dataset.entity));
    }

    // What beside the answer decides what is drawn.
    const state = (answer) => [compared, layer, hasAllCounts, retried.size, seen.size, Boolean(answer?.querySelector(".mv-routing"))].join();

    return { show, others, light, place, state, remember };
  }

  Object.assign((window.minivlm ??= {}), { makeLayers });
})();
