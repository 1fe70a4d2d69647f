// Phrases light up their boxes, and boxes their phrases; buttons copy. In the page, and in a saved chat.
(() => {
  const PHRASES = ".mv-phrase, .mv-box, .mv-label";

  const answerOf = (node) => node.closest(".mv-message");

  function light(message, entity) {
    const wanted = entity ?? [...message.querySelectorAll('.mv-phrase[aria-pressed="true"]')].map((b) => b.dataset.entity);
    const on = new Set([].concat(wanted));
    message.querySelectorAll(".mv-box, .mv-label").forEach((group) => {
      group.classList.toggle("mv-dim", on.size > 0 && !on.has(group.dataset.entity));
      group.classList.toggle("mv-lit", on.has(group.dataset.entity));
    });
    message.querySelectorAll(".mv-phrase").forEach((phrase) => {
      phrase.classList.toggle("mv-lit", on.has(phrase.dataset.entity));
    });
  }

  function hover(event, isOver) {
    const target = event.target.closest?.(PHRASES);
    if (target) light(answerOf(target), isOver ? target.dataset.entity : null);
  }

  // A pointer that rests points at nothing: boxes that come to lie under it, after a click on an example or where an
  // answer scrolls by, stay as they are until it moves.
  let place = "";
  let isWaiting = false;
  function rest(event) {
    if (!event.isTrusted) return;
    const here = `${event.screenX} ${event.screenY}`;
    const isResting = here === place;
    place = here;
    if (event.type === "mouseover") {
      isWaiting = isResting && Boolean(event.target.closest?.(`${PHRASES}, .mv-mark, .mv-tag`));
      if (isWaiting) event.stopImmediatePropagation();
    } else if (isWaiting && !isResting) {
      isWaiting = false;
      event.target.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    }
  }

  function pin(target) {
    const message = answerOf(target);
    const entity = target.dataset.entity;
    const same = message.querySelectorAll(`.mv-phrase[data-entity="${entity}"]`);
    const pressed = ![...same].some((phrase) => phrase.getAttribute("aria-pressed") === "true");
    message.querySelectorAll(".mv-phrase").forEach((phrase) => phrase.setAttribute("aria-pressed", "false"));
    same.forEach((phrase) => phrase.setAttribute("aria-pressed", String(pressed)));
    light(message, null);
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      // A file, or a page without a secure context, may have no clipboard API; a selected text area still works.
      const area = Object.assign(document.createElement("textarea"), { value: button.dataset.copy });
      (button.closest("dialog") ?? document.body).append(area); // what is under an open sheet can not be selected
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    confirm(button, "Copied");
  }

  function confirm(button, text) {
    button.dataset.label ??= button.textContent;
    button.dataset.name ??= button.ariaLabel ?? "";
    button.textContent = text;
    button.ariaLabel = null; // or people who hear the page would not hear the text
    setTimeout(() => {
      button.textContent = button.dataset.label;
      button.ariaLabel = button.dataset.name || null;
    }, 1500);
  }

  for (const name of ["mouseover", "mousemove"]) window.addEventListener(name, rest, true);
  for (const [name, isOver] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => hover(event, isOver));
  }
  Object.assign((window.minivlm ??= {}), { PHRASES, answerOf, confirm, copy, pin });
})();
