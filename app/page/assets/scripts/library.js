// The picker in the header: all models with their states. Choosing one asks the server, which then says what is new.
(() => {
  const page = window.minivlm;
  let value = { current: "", models: [] };
  const CHOSEN = "minivlm-model"; // a new tab begins with it
  let pressed = ""; // what was chosen in this tab last, whether or not it has been loaded
  let settings = null; // what the sidebar is for a model that was chosen, until it has been told

  const picker = () => document.querySelector(".mv-picker");

  function node(name, className, text = "") {
    return Object.assign(document.createElement(name), { className, textContent: text });
  }

  // One row stays the same element while its model is there, so that the focus does.
  const rows = new Map();
  function rowOf(id) {
    if (rows.has(id)) return rows.get(id);
    const row = node("div", "mv-library-row");
    const button = node("button", "mv-library-model");
    button.type = "button";
    button.dataset.model = id;
    button.append(node("strong", ""), node("span", "mv-library-facts"), node("span", "mv-library-state"));
    const bar = Object.assign(document.createElement("progress"), { max: 1 });
    const fetches = node("button", "mv-action mv-library-fetch");
    fetches.type = "button";
    fetches.dataset.fetch = id;
    row.append(button, bar, node("p", "mv-library-line"), fetches);
    rows.set(id, row);
    return row;
  }

  function words({ state, progress, bytes }) {
    const isCounted = ["loading", "downloading"].includes(state) && bytes;
    return isCounted ? `${state} ${Math.round(progress * 100)} % (${bytes})` : state;
  }

  function put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function drawRow(model) {
    const row = rowOf(model.id);
    const [button, bar, line, fetches] = row.children;
    const [name, facts, state] = button.children;
    put(name, model.name);
    put(facts, model.facts);
    put(state, words(model));
    put(line, model.line);
    row.dataset.state = model.state;
    line.hidden = !model.line;
    bar.hidden = !["loading", "downloading"].includes(model.state);
    bar.value = model.progress;
    bar.ariaLabel = `${model.name} is ${model.state}`;
    const isComing = model.state === "downloading";
    fetches.hidden = !model.canFetch && !isComing;
    put(fetches, isComing ? "Stop" : "Download");
    fetches.ariaLabel = `${fetches.textContent}: ${model.name}`;
    button.setAttribute("aria-pressed", String(model.id === value.current));
    button.setAttribute("aria-disabled", String(isAway(model)));
    return row;
  }

  function draw() {
    const list = picker()?.querySelector(".mv-models");
    if (!list) return;
    const models = [...value.models].sort((a, b) => rank(a) - rank(b));
    const here = models.filter((one) => !isAway(one)).map(drawRow);
    const others = models.filter(isAway).map(drawRow);
    let away = list.querySelector(".mv-library-away");
    if (!away) {
      away = node("details", "mv-library-away");
      away.append(node("summary", ""));
      list.append(away);
    }
    here.forEach((row, index) => list.children[index] === row || list.insertBefore(row, list.children[index]));
    others.forEach((row, index) => away.children[index + 1] === row || away.insertBefore(row, away.children[index + 1] ?? null));
    put(away.firstChild, `${others.length} not here`);
    away.hidden = !others.length;
  }
  // What is loaded or not keeps its place while the picker is open: only what is not here comes last.
  const rank = (model) => Number(isAway(model));
  const isAway = ({ state }) => ["not here", "downloading"].includes(state);

  // Another model answers now: what the page says of it. The settings follow by `settings`.
  function follow({ name, isToy, intro, settings: states }) {
    page.isSwitching = true; // what the sidebar says until it is told is no choice of the visitor's
    settings = states;
    put(document.querySelector(".mv-model"), name);
    document.querySelector("#mv-toy").classList.toggle("mv-gone", !isToy);
    const old = document.querySelector(".mv-intro");
    old.outerHTML = intro;
    requestAnimationFrame(() => page.showTask(document.querySelector("#mv-question textarea")?.value ?? ""));
  }

  // Called by gradio after a choice: what the visitor set for this model before, or its own defaults.
  function settingsFor(now) {
    const states = settings;
    settings = null;
    page.isSwitching = false;
    if (!states) return now.map(() => ({ __type__: "update" }));
    const kept = page.keptSettings(now);
    return states.map((state, index) => ({ __type__: "update", ...state, ...(kept[index]?.__type__ ? {} : { value: kept[index] }) }));
  }

  function close(returnsFocus) {
    if (!picker()?.open) return;
    picker().open = false;
    if (returnsFocus) picker().querySelector("summary").focus();
  }

  function receive(props) {
    if (!props.value?.models) return;
    value = props.value;
    if (value.page) {
      if (value.current === pressed) page.keepChoice(CHOSEN, pressed);
      follow(value.page);
      close(picker()?.contains(document.activeElement));
    }
    draw();
  }

  // Called by gradio once the component is there.
  function connect(element, props, watch) {
    watch("value", () => receive(props));
    receive(props);
  }

  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.(".mv-picker") && event.target.open) page.tell("models");
  }, true);
  document.addEventListener("click", (event) => {
    const fetches = event.target.closest?.(".mv-library-fetch");
    if (fetches) page.tell("download", { model: fetches.dataset.fetch, stop: fetches.textContent === "Stop" });
    const button = event.target.closest?.(".mv-library-model");
    if (button && button.getAttribute("aria-disabled") !== "true") {
      pressed = button.dataset.model;
      page.tell("choose_model", { model: pressed });
    } else if (!event.target.closest?.(".mv-picker")) close(false);
  });
  // Before others hear of it: the key closes the picker and stops no answer.
  document.addEventListener("keydown", (event) => {
    const open = picker()?.open;
    if (!open) return;
    if (event.key === "Escape") {
      event.stopImmediatePropagation();
      close(true);
    } else if (["ArrowDown", "ArrowUp"].includes(event.key) && picker().contains(document.activeElement)) {
      const all = [...picker().querySelectorAll("summary, .mv-library-model, .mv-library-fetch")].filter((one) => one.offsetParent);
      const next = all.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
      all[(next + all.length) % all.length].focus();
      event.preventDefault();
    }
  }, true);

  page.keptModel = () => page.keptChoice(CHOSEN) ?? "";
  page.library = { connect, settings: settingsFor };
})();
