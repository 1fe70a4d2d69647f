// What stays in the browser: the key of this tab's conversation and the draft (sessionStorage, so nothing is shared with
// other tabs or shown in the address); settings, theme and other choices (localStorage).
(() => {
  const page = window.minivlm;
  const KEY = "minivlm-conversation";
  const DRAFT = "minivlm-draft";
  const ATTEMPT = "minivlm-attempt";
  const THEME = "minivlm-theme";

  // A browser may refuse to keep anything; then nothing comes back.
  function read(storage, name) {
    try {
      return JSON.parse(window[storage].getItem(name));
    } catch {
      return null;
    }
  }
  function keep(storage, name, value) {
    try {
      if (value === null) window[storage].removeItem(name);
      else window[storage].setItem(name, JSON.stringify(value));
    } catch {
      // full or forbidden
    }
  }

  const keepChoice = (name, value) => keep("localStorage", name, value);
  const keptChoice = (name) => read("localStorage", name);

  const NOTHING = { __type__: "update" }; // what gradio takes for "leave it as it is"

  const keptKey = () => read("sessionStorage", KEY) || "";
  const keepKey = (key) => keep("sessionStorage", KEY, key || null);

  // Whether something was tried while the connection was lost; gives what was kept before.
  function keepAttempt(isMade) {
    const before = read("sessionStorage", ATTEMPT);
    keep("sessionStorage", ATTEMPT, isMade || null);
    return before;
  }

  // What the text box holds, of which `change` is the part that is known to be another one by now. It is kept from the
  // moment on at which the last draft has come back: before, the empty text box would replace it.
  let isRestored = false;
  let draft = { text: "", files: [] };
  function keepDraft(change) {
    draft = { ...draft, ...change };
    if (isRestored) keep("sessionStorage", DRAFT, draft.text || draft.files.length ? draft : null);
  }
  // Of what is typed while the connection is lost, gradio tells nobody.
  document.addEventListener("input", ({ target }) => target.matches?.("#mv-question textarea") && keepDraft({ text: target.value }));

  // Files that the server has deleted meanwhile would make it refuse the question.
  async function keptDraft(now) {
    const draft = read("sessionStorage", DRAFT);
    isRestored = true;
    if (typeof draft?.text !== "string" || now?.text || now?.files?.length) return NOTHING;
    const isThere = async (file) => (await fetch(file.url, { method: "HEAD" }).catch(() => null))?.ok;
    const found = await Promise.all((draft.files || []).map(isThere));
    return { text: draft.text, files: draft.files.filter((_, index) => found[index]) };
  }

  // Every model has its own: their ranges and defaults differ.
  const settingsName = () => `minivlm-settings ${document.querySelector(".mv-model")?.textContent}`;
  const keepSettings = (values) => page.isSwitching || keepChoice(settingsName(), values);
  function keptSettings(now) {
    const kept = keptChoice(settingsName());
    const fits = Array.isArray(kept) && kept.length === now.length;
    return now.map((value, index) => (fits && typeof kept[index] === typeof value ? kept[index] : NOTHING));
  }

  // gradio chooses by the address or the system, whenever that changes; what was chosen here comes after it.
  function showTheme() {
    const theme = keptChoice(THEME);
    if (theme) document.body.classList.toggle("dark", theme === "dark");
  }
  function switchTheme() {
    keepChoice(THEME, document.body.classList.contains("dark") ? "light" : "dark");
    showTheme();
  }
  document.addEventListener("DOMContentLoaded", showTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(showTheme));

  Object.assign(page, {
    NOTHING, keepChoice, keptChoice, keptKey, keepKey, keepAttempt, keepDraft, keptDraft, keepSettings, keptSettings, showTheme, switchTheme,
  });
})();
