// The boxes of another answer beside those of the one that is shown: of an answer before a retry, of the other of two, of
// any other about the picture.
(() => {
  const { make } = window.minivlm;
  const SAME = 0.5; // intersection over union from which two boxes are the same place

  const clean = (text) => text.trim().toLowerCase();

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

  const numberOf = (answer) => parseInt(answer.dataset.exchange); // of its question, which may have two
  const questionOf = (exchange) => document.querySelector(`.mv-question[data-exchange="${parseInt(exchange)}"] .mv-text`)?.textContent;
  const isPair = (one, other) => one !== other && numberOf(one) === numberOf(other);

  // What answers were before they were asked for again, by exchange: their regions, picture and question.
  function makeRetries() {
    const retried = new Map(); // of the answer that was there before
    const seen = new Map(); // of the answer that is there, once it has ended

    function remember(list) {
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

    return { remember, before: (exchange) => retried.get(exchange), state: () => [retried.size, seen.size].join() };
  }

  // How the two differ, in words.
  function differenceLine(answer, regions, chosen, isPartner) {
    const said = document.querySelector(`[data-verdict="${numberOf(answer)}"] .mv-difference`)?.textContent;
    if (isPartner) return said ? `${said} Dashed is the other answer.` : "";
    const { same, moved, added, gone } = difference(regions, chosen.regions);
    return `${same} in the same place, ${moved} moved, ${added} only here, ${gone} only in the other (dashed)`;
  }

  // `regionsOf(answer, key)`, `answers()` on the page; `changed()` draws the stage anew.
  function makeComparison(stage, { changed, regionsOf, answers }) {
    const retries = makeRetries();
    let compared = null; // the exchange whose boxes are shown as well, "retry", or "" for nothing; null until it is chosen
    let count = 0; // of the answers

    const partner = (answer) => answer && answers().find((other) => isPair(other, answer))?.dataset.exchange;
    const comparedWith = (answer) => compared ?? partner(answer) ?? "";

    // Called before anything is drawn. An answer that ends with other regions than before has been retried.
    function remember(list) {
      if (list.length !== count) compared = null;
      count = list.length;
      retries.remember(list);
    }

    // What the boxes of this answer can be compared with: [{ value, label, regions }].
    function choices(answer, key) {
      if (!answer || !regionsOf(answer, key).length) return [];
      const before = retries.before(answer.dataset.exchange);
      const list = before?.picture === key ? [{ value: "retry", label: "before the retry", regions: JSON.parse(before.regions) }] : [];
      for (const other of answers()) {
        const regions = other === answer ? [] : regionsOf(other, key);
        const label = isPair(other, answer) ? "the other answer" : other.ariaLabel.toLowerCase();
        if (regions.length) list.push({ value: other.dataset.exchange, label, regions });
      }
      return list;
    }

    const others = (answer, key) => choices(answer, key).find(({ value }) => value === comparedWith(answer))?.regions ?? [];

    function line(answer, key, regions) {
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
      const whole = make("div", { className: "mv-compare" }, make("label", {}, "Compare with ", select));
      const words = chosen ? differenceLine(answer, regions, chosen, chosen.value === partner(answer)) : "";
      if (words) whole.append(make("p", { className: "mv-note", role: "status", textContent: words }));
      return whole;
    }

    return { remember, others, line, state: () => [compared, retries.state()].join() };
  }

  Object.assign(window.minivlm, { makeComparison });
})();
