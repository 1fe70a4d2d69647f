// The page's own behaviour: phrases light up their boxes, buttons in bubbles copy, save or tell Python what to do.
(() => {
  const UNITS_TO_PIXELS = 1.6; // a saved image is 1600 pixels on its longer side
  let paths = "";

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
    const target = event.target.closest?.(".mv-phrase, .mv-box, .mv-label");
    if (target) light(answerOf(target), isOver ? target.dataset.entity : null);
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
      // Without a secure context there is no clipboard API; a selected text area still works.
      const area = Object.assign(document.createElement("textarea"), { value: button.dataset.copy });
      document.body.append(area);
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

  function save(blob, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function savePng(button) {
    const svg = answerOf(button).querySelector(".mv-overlay").cloneNode(true);
    const used = svg.querySelector("use");
    if (used) {
      const picture = document.querySelector(used.getAttribute("href")).cloneNode();
      picture.removeAttribute("id");
      used.replaceWith(picture);
    }
    const { width, height } = svg.viewBox.baseVal;
    svg.setAttribute("width", width * UNITS_TO_PIXELS);
    svg.setAttribute("height", height * UNITS_TO_PIXELS);
    const drawing = new Image();
    drawing.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg));
    await drawing.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: drawing.width, height: drawing.height });
    canvas.getContext("2d").drawImage(drawing, 0, 0);
    canvas.toBlob((blob) => save(blob, button.dataset.savePng), "image/png");
    confirm(button, "Saved");
  }

  // What the page shows, at most 1024 pixels a side; its data URI says whether it is a PNG or a JPEG.
  function savePicture(button) {
    const href = button.closest(".mv-illustration").querySelector("image").getAttribute("href");
    const kind = href.match(/^data:image\/(\w+)/)[1];
    Object.assign(document.createElement("a"), { href, download: `${button.dataset.savePicture}.${kind}` }).click();
    confirm(button, "Saved");
  }

  function tell(name, detail = {}) {
    document.dispatchEvent(new CustomEvent("minivlm", { detail: { name, ...detail } }));
  }

  // Whoever presses these goes on typing; some of them are gone afterwards, and the focus with them.
  const BEFORE_TYPING = ".mv-chip, .mv-card, .submit-button, .stop-button, " +
    '[data-action="edit"], [data-action="cancel_edit"], [data-action="undo"], [data-action="retry"]';

  function returnToQuestion(button) {
    const task = tasks()[button?.id.match(/^mv-task-(\d+)$/)?.[1]];
    // A task with a box goes on in the image. On a touch screen the keyboard would cover the page.
    if (task?.takes_box || matchMedia("(pointer: coarse)").matches) return;
    focusQuestion();
  }

  // Gradio takes the field away for a moment when it draws it anew.
  function focusQuestion(tries = 60) {
    const field = document.querySelector("#mv-question textarea");
    if (field) field.focus();
    else if (tries) requestAnimationFrame(() => focusQuestion(tries - 1));
  }

  function onClick(event) {
    const before = event.target.closest?.(BEFORE_TYPING);
    if (before) returnToQuestion(before);
    const target = event.target.closest?.(".mv-phrase, .mv-box, .mv-label, [data-copy], [data-save], [data-save-png], [data-save-picture], [data-action]");
    if (!target) return;
    if (target.matches(".mv-phrase, .mv-box, .mv-label")) pin(target);
    else if (target.dataset.copy) copy(target);
    else if (target.dataset.save) save(new Blob([target.dataset.save], { type: "application/json" }), target.dataset.name);
    else if (target.dataset.savePng) savePng(target);
    else if (target.dataset.savePicture) savePicture(target);
    else if (target.dataset.action === "settings") document.querySelector("#mv-settings .toggle-button").click();
    else if (target.dataset.action === "theme") document.body.classList.toggle("dark");
    else tell(target.dataset.action, { index: Number(target.dataset.index) });
  }

  const tasks = () => JSON.parse(document.querySelector("#mv-tasks [data-tasks]").dataset.tasks);

  // Called by gradio whenever the text box changes, by hand or from Python.
  function questionChanged(value) {
    const text = (value?.text || "").trimStart().toLowerCase();
    const all = tasks();
    const task = all.find((other) => other.identifier && text.startsWith(other.identifier.toLowerCase())) || all[0];
    document.querySelector(".gradio-container").classList.toggle("mv-draws-box", task.takes_box);
    document.querySelector("#mv-tasks .mv-hint").textContent = task.hint;
    all.forEach((other, index) => {
      document.querySelector(`#mv-task-${index}`)?.setAttribute("aria-pressed", String(other === task));
    });
    const now = (value?.files || []).map((file) => file.path).join("\n");
    if (now !== paths) {
      paths = now;
      tell("attach");
    }
  }

  // The newest message stays in view unless the reader has scrolled up.
  function follow(chat) {
    const scroller = chat.querySelector(".bubble-wrap");
    let count = 0;
    let isPinned = true;
    const pin = () => isPinned && (scroller.scrollTop = scroller.scrollHeight);
    scroller.addEventListener("scroll", () => {
      isPinned = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    });
    const log = chat.querySelector("[role=log]");
    new MutationObserver(() => {
      // Screen readers get a finished answer once, and its content instead of gradio's name for the component.
      log.setAttribute("aria-busy", String(Boolean(chat.querySelector('[data-state="running"]'))));
      chat.querySelectorAll('[aria-label*="a component of type"]').forEach((node) => node.removeAttribute("aria-label"));
      const now = chat.querySelectorAll(".mv-message").length;
      if (now > count) isPinned = true;
      count = now;
      pin();
    }).observe(chat, { childList: true, subtree: true, characterData: true });
    new ResizeObserver(pin).observe(scroller);
    // What unfolds below the edge comes into view.
    chat.addEventListener("toggle", ({ target }) => {
      if (!target.open) return;
      isPinned = false;
      target.scrollIntoView({ block: target.offsetHeight > scroller.clientHeight ? "start" : "nearest" });
    }, true);
  }

  // The header's button opens the settings, the one that gradio puts on their edge closes them.
  function nameSettings(settings) {
    const opener = document.querySelector('[data-action="settings"]');
    const closer = settings.querySelector(".toggle-button");
    settings.setAttribute("role", "region");
    settings.ariaLabel = "Settings";
    closer.ariaLabel = "Close settings";
    opener.ariaExpanded = "false";
    new MutationObserver(() => {
      const isOpen = settings.classList.contains("open");
      if (opener.ariaExpanded === String(isOpen)) return;
      opener.ariaExpanded = String(isOpen);
      (isOpen ? closer : opener).focus();
    }).observe(settings, { attributeFilter: ["class"] });
  }

  // Called by gradio once the page is there.
  function start() {
    follow(document.querySelector("#mv-chat"));
    nameSettings(document.querySelector("#mv-settings"));
    questionChanged({});
    returnToQuestion();
  }

  // Images may be dropped or pasted anywhere, not only where gradio listens; without this the browser would open them.
  function attach(event, data) {
    if (event.target.closest?.("#mv-question") || !data?.files.length) return;
    event.preventDefault();
    const input = document.querySelector("#mv-question input[type=file]");
    const transfer = new DataTransfer();
    [...data.files].forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => attach(event, event.dataTransfer));
  document.addEventListener("paste", (event) => attach(event, event.clipboardData));

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.querySelector('.mv-answer[data-state="running"]')) tell("stop");
  });
  document.addEventListener("click", onClick);
  for (const [name, isOver] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => hover(event, isOver));
  }
  window.minivlm = { start, questionChanged };
})();
