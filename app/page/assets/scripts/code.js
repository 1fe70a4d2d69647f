// An answer as code: asks the server for it, and shows it in a sheet with a copy button for each kind.
(() => {
  const page = window.minivlm;
  const { make } = page;
  let opener = null;

  // The page's own address, and what its API says of the models there; a page without API has none.
  async function ask(button) {
    opener = button;
    const url = (window.gradio_config?.root || location.origin).replace(/\/$/, "");
    const models = await fetch(`${url}/v1/models`).then((response) => response.json()).catch(() => ({}));
    const closed = await fetch(`${url}/v1/models`, { credentials: "omit" }).then((response) => response.status === 401).catch(() => false);
    page.tell("code", { index: Number(button.dataset.index), side: button.dataset.side, url, models: (models.data ?? []).map(({ id, name }) => ({ id, name })), key: closed });
  }

  function block({ title, text }) {
    const copy = make("button", { type: "button", className: "mv-action", textContent: "Copy" });
    copy.dataset.copy = text;
    copy.setAttribute("aria-label", `Copy: ${title}`);
    const code = make("pre", { textContent: text, tabIndex: 0 });
    code.setAttribute("role", "group");
    code.setAttribute("aria-label", title);
    return make("section", {}, make("div", { className: "mv-calls-head" }, make("h3", { textContent: title }), copy), code);
  }

  // The code comes through a hidden field, and leaves it at once.
  function showCode(value) {
    if (!value) return "";
    const close = make("button", { type: "button", className: "mv-action", textContent: "Close" });
    const note = "Each gives this answer again, with the same settings and seed. Pictures are read from files of these names, where the code runs.";
    const dialog = make("dialog", { className: "mv-sheet mv-calls" },
      make("h2", { id: "mv-calls-title", textContent: "This answer as code" }), make("p", { textContent: note }),
      ...JSON.parse(value).map(block), close);
    dialog.setAttribute("aria-labelledby", "mv-calls-title");
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      // The answer may have been drawn anew meanwhile.
      (opener?.isConnected ? opener : document.querySelector(`[data-code][data-index="${opener?.dataset.index}"][data-side="${opener?.dataset.side}"]`))?.focus();
    });
    document.querySelector("#mv-stage").parentElement.append(dialog);
    dialog.showModal();
    return "";
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-code]");
    if (button) ask(button);
  });
  Object.assign(page, { showCode });
})();
