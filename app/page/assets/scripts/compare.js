// Compare: two answers to each question. A bar says who gives the right one; the server says what there is to choose.
(() => {
  const page = window.minivlm;
  const { make } = page;
  const HEADING = "Settings of the right answer";
  let value = { on: false, models: [], model: "", line: "", settings: [] };
  let bar = null;
  let shown = null; // the model whose settings are there

  const tell = (change) => page.tell("compare", { on: true, model: "", values: null, ...change });

  function chooser() {
    const select = make("select", { ariaLabel: "Right answer by" });
    const left = document.querySelector(".mv-model")?.textContent;
    if (!value.models.length) select.add(new Option(`${left}, other settings`, ""));
    for (const { id, name } of value.models) select.add(new Option(name === left ? `${name}, other settings` : name, id));
    select.value = value.model;
    select.disabled = select.options.length < 2;
    select.addEventListener("change", () => tell({ model: select.value }));
    return make("label", {}, "Right answer by ", select);
  }

  function field({ name, label, help, low, high, step, empty, value: number }) {
    const input = make("input", { type: "number", name, min: low, max: high, step, value: number, title: help, placeholder: empty });
    input.addEventListener("change", () => {
      const all = [...bar.querySelectorAll("input")].map((one) => [one.name, one.value]);
      tell({ values: Object.fromEntries(all) });
    });
    return make("label", {}, `${label} `, input);
  }

  function settings() {
    if (!value.settings.length) return "";
    const opened = shown === value.model ? bar.querySelector("details")?.open : undefined;
    shown = value.model;
    const isSame = value.models.find(({ id }) => id === value.model)?.name === document.querySelector(".mv-model")?.textContent;
    const fields = make("div", { className: "mv-rival-settings" }, ...value.settings.map(field));
    const details = make("details", {}, make("summary", { textContent: "Its settings", title: HEADING }), fields);
    details.open = opened ?? (isSame || !value.models.length); // one model with itself: they are what differs
    return details;
  }

  function draw() {
    for (const button of document.querySelectorAll("[data-compare]")) button.setAttribute("aria-pressed", String(value.on));
    if (!bar) return;
    bar.hidden = !value.on;
    if (!value.on) return bar.replaceChildren();
    const hasFocus = bar.contains(document.activeElement);
    const end = make("button", { type: "button", className: "mv-action", textContent: "End", ariaLabel: "End the comparison" });
    end.addEventListener("click", () => tell({ on: false }));
    const line = make("span", { className: "mv-rival-line", textContent: value.line });
    line.setAttribute("role", "status");
    bar.replaceChildren(chooser(), line, end, settings());
    if (hasFocus) bar.querySelector("select:not(:disabled), summary")?.focus();
  }

  function receive(props) {
    if (!props.value?.models) return;
    value = props.value;
    draw();
  }

  // Called by gradio once the component is there.
  function connect(element, props, watch) {
    bar = element.querySelector(".mv-rival");
    watch("value", () => receive(props));
    receive(props);
  }

  // Once a question is asked, the answers need the room.
  document.addEventListener("mv-shown", () => {
    const details = bar?.querySelector("details");
    if (details?.open && document.querySelector('.mv-side[data-state="running"]')) details.open = false;
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-compare]")) tell({ on: !value.on });
  });

  page.compare = { connect };
})();
