// The page's own behaviour: buttons in bubbles copy, save or tell Python what to do.
(() => {
  const UNITS_TO_PIXELS = 1.6; // a saved image is 1600 pixels on its longer side
  let paths = "";

  const { answerOf, confirm, copy, pin, PHRASES } = window.minivlm;

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
    window.minivlm.attempt();
    document.dispatchEvent(new CustomEvent("minivlm", { detail: { name, ...detail } }));
  }

  // Whoever presses these goes on typing; some of them are gone afterwards, and the focus with them.
  const BEFORE_TYPING = ".mv-chip, .mv-card, .submit-button, .stop-button, " +
    '[data-action="edit"], [data-action="cancel_edit"], [data-action="undo"], [data-action="retry"], ' +
    '[data-action="new_with_picture"]';

  function returnToQuestion(button) {
    const task = taskOfButton(button);
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
    const target = event.target.closest?.(`${PHRASES}, [data-copy], [data-save], [data-save-png], [data-save-picture], [data-action]`);
    if (!target) return;
    if (target.matches(PHRASES)) pin(target);
    else if (target.dataset.copy) copy(target);
    else if (target.dataset.save) save(new Blob([target.dataset.save], { type: "application/json" }), target.dataset.name);
    else if (target.dataset.savePng) savePng(target);
    else if (target.dataset.savePicture) savePicture(target);
    else if (target.dataset.action === "settings") document.querySelector("#mv-settings .toggle-button").click();
    else if (target.dataset.action === "add_image") document.querySelector("#mv-question input[type=file]").click();
    else if (target.dataset.action === "theme") window.minivlm.switchTheme();
    else {
      if (target.dataset.action === "task") window.minivlm.pressedTask = Number(target.dataset.index);
      if (["branch", "edit", "cancel_edit"].includes(target.dataset.action)) window.minivlm.hold(answerOf(target));
      const { action, index, step, rating, side, vote } = target.dataset;
      tell(action, { index: Number(index), step: Number(step), rating, side, vote });
    }
  }

  const tasks = () => JSON.parse(document.querySelector("#mv-tasks [data-tasks]").dataset.tasks);
  const taskOfButton = (button) => tasks()[button?.id.match(/^mv-task-(\d+)$/)?.[1]];

  // The one of these whose identifier a text begins with.
  function taskOf(text, all = tasks()) {
    const start = text.trimStart().toLowerCase();
    return all.find(({ identifier }) => identifier && start.startsWith(identifier.toLowerCase()));
  }

  // Which task the text of the question begins with.
  function showTask(question) {
    const all = tasks();
    const task = taskOf(question, all) || all[0];
    document.querySelector(".gradio-container").classList.toggle("mv-draws-box", task.takes_box);
    document.querySelector("#mv-tasks .mv-hint").textContent = task.hint;
    all.forEach((other, index) => {
      document.querySelector(`#mv-task-${index}`)?.setAttribute("aria-pressed", String(other === task));
    });
  }

  // Called by gradio whenever the text box changes, by hand or from Python.
  function questionChanged(value) {
    window.minivlm.keepDraft({ text: value?.text ?? "", files: value?.files ?? [] });
    if (value?.text) window.minivlm.outdateRefusal();
    else window.minivlm.sent();
    showTask(value?.text || "");
    const now = (value?.files || []).map((file) => file.path).join("\n");
    if (now !== paths) {
      paths = now;
      window.minivlm.outdate("files");
      tell("attach");
    }
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

  // What encloses the parts of the page, as the style sheets know it; `element` is in one of them.
  function frame(element) {
    const found = element.closest(".column");
    found.classList.add("mv-page");
    return found;
  }

  // Called by gradio once the page is there; gives the key of the conversation that this tab had.
  function start() {
    window.minivlm.follow(document.querySelector("#mv-chat"));
    nameSettings(document.querySelector("#mv-settings"));
    window.minivlm.showTheme();
    window.minivlm.showLines();
    window.minivlm.watchForAnswer();
    questionChanged({});
    returnToQuestion();
    return window.minivlm.keptKey();
  }

  document.addEventListener("click", onClick);
  Object.assign(window.minivlm, { frame, start, questionChanged, showTask, taskOf, taskOfButton, tasks, tell });
})();
