// The stage: which picture it shows, and the boxes of which answer. All of it is read from the bubbles.
(() => {
  const minivlm = (window.minivlm ??= {});

  let stage = null; // the element
  let frame = null; // the page around it
  let parts = null; // { view, marks, drawing, layers, thumbs, screen }
  let value = { pictures: [], current: "" }; // the last that came from Python
  let chosen = null; // the exchange that was chosen; null: the last one
  let tab = null; // the picture that was chosen; null: that of the answer
  let now = { answers: [], pictures: new Map(), answer: null, key: "" }; // what is on the page
  let begun = null; // a task that takes a box was chosen: { button, byKeyboard }
  let drawn = ""; // what the stage shows, to see whether it has changed
  const sizes = new Map(); // of pictures that have been loaded, by key

  const chat = () => document.querySelector("#mv-chat");
  // The question of an answer: of two to one question, the names go on after its number.
  const questionOf = (answer) => chat()?.querySelector(`.mv-question[data-exchange="${parseInt(answer?.dataset.exchange)}"]`);

  // ── What the page holds ─────────────────────────────────────────────────────────────────────────────────────────

  function read() {
    const answers = [...(chat()?.querySelectorAll(".mv-answer[data-exchange]") ?? [])];
    const pictures = new Map();
    chat()?.querySelectorAll('.mv-message image[id^="mv-picture-"]').forEach((image) => {
      if (image.hasAttribute("href")) pictures.set(image.id.slice("mv-picture-".length), image.getAttribute("href"));
    });
    value.pictures.forEach(({ key }) => pictures.has(key) || !minivlm.pictures.get(key) || pictures.set(key, minivlm.pictures.get(key)));
    if (answers.length !== now.answers.length) chosen = tab = null;
    const last = answers.findLast(({ dataset }) => !dataset.exchange.endsWith("-right")) ?? null;
    const answer = (chosen !== null && answers.find((one) => one.dataset.exchange === chosen)) || last;
    const key = [tab, answer?.dataset.picture, value.current].find((one) => one && pictures.has(one)) ?? "";
    now = { answers, pictures, answer, key };
    update();
  }

  // The regions of an answer, or of its question where only that has some; none if it is about another picture.
  function regionsOf(answer, key = now.key) {
    if (!answer || answer.dataset.picture !== key) return [];
    const own = JSON.parse(answer.dataset.regions || "[]");
    return own.length ? own : JSON.parse(questionOf(answer)?.dataset.regions || "[]");
  }

  function update() {
    const { answers, answer, key, pictures } = now;
    parts.layers.remember(answers);
    stage.dataset.state = frame.dataset.stage = key ? "picture" : answers.length ? "none" : "empty";
    answers.forEach((one) => one.toggleAttribute("data-selected", one === answer && answers.length > 1 && Boolean(key)));
    parts.thumbs.show(pictures, key);
    steps();
    showPicture(key, pictures.get(key));
    const state = [key, answer?.dataset.exchange, answer?.dataset.regions, parts.layers.state(answer)].join("\n");
    if (state !== drawn) {
      drawn = state;
      const regions = regionsOf(answer);
      parts.layers.show(answer, key, regions, parts.marks.set(regions, parts.layers.others(answer, key)));
      describe(regions);
    }
    light();
    beginDrawing();
  }

  function showPicture(key, uri) {
    const image = stage.querySelector(".mv-pixels");
    if (image.dataset.key === key) return;
    image.dataset.key = key;
    parts.drawing.clear();
    if (!key) return image.removeAttribute("href");
    image.setAttribute("href", uri);
    if (sizes.has(key)) return parts.view.show(sizes.get(key));
    const loaded = Object.assign(new Image(), { src: uri });
    const keep = () => {
      sizes.set(key, { width: loaded.naturalWidth || 1, height: loaded.naturalHeight || 1 });
      if (image.dataset.key === key) parts.view.show(sizes.get(key));
    };
    loaded.decode().then(keep, keep);
  }

  function describe(regions) {
    const words = regions.map(({ number, label, boxes }) => `${number}: ${label || "box"}${boxes.length > 1 ? ` (${boxes.length} boxes)` : ""}`);
    stage.querySelector(".mv-canvas").ariaLabel = words.length ? `The picture with marked regions. ${words.join("; ")}` : "The picture";
  }

  // The view has moved, or its room has changed.
  function place() {
    const { left, top, width, height } = parts.view.shown();
    for (const [name, number] of Object.entries({ x: left, y: top, width, height })) {
      stage.querySelector(".mv-pixels").setAttribute(name, number);
    }
    stage.querySelector(".mv-scale").textContent = `${Math.round(parts.view.scale() * 100)} %`;
    parts.marks.place();
    parts.layers.place();
    parts.drawing.place();
  }

  // ── Answers and pictures ────────────────────────────────────────────────────────────────────────────────────────

  function choose(answer) {
    chosen = answer.dataset.exchange;
    tab = null;
    read();
  }

  function step(by) {
    const next = now.answers[now.answers.indexOf(now.answer) + by];
    if (!next) return;
    choose(next);
    next.scrollIntoView({ block: "nearest" });
  }

  function steps() {
    const index = now.answers.indexOf(now.answer);
    const which = stage.querySelector(".mv-which");
    const isOneOfTwo = now.answer?.classList.contains("mv-side");
    const name = isOneOfTwo ? now.answer.ariaLabel : `Answer ${index + 1} of ${now.answers.length}`;
    const text = now.answers.length > 1 ? name : "";
    if (which.textContent !== text) which.textContent = text;
    stage.querySelector(".mv-steps").hidden = now.answers.length < 2;
    stage.querySelector('[data-stage="previous"]').disabled = index <= 0;
    stage.querySelector('[data-stage="next"]').disabled = index >= now.answers.length - 1;
  }

  // A picture is shown with the last answer about it.
  function choosePicture(key) {
    chosen = now.answers.filter((one) => one.dataset.picture === key).at(-1)?.dataset.exchange ?? null;
    tab = key;
    read();
  }

  function stepPicture(by) {
    const keys = [...now.pictures.keys()];
    const next = keys[keys.indexOf(now.key) + by];
    if (next) choosePicture(next);
  }

  // ── Phrases and boxes light each other up ───────────────────────────────────────────────────────────────────────

  const phrase = (number) => now.answer?.querySelector(`.mv-phrase[data-entity="${number}"]`)
    ?? questionOf(now.answer)?.querySelector(`.mv-phrase[data-entity="${number}"]`);

  // Over a box or phrase: that one; else those that are pressed.
  function light(number = null) {
    const pressed = now.answer?.querySelectorAll('.mv-phrase[aria-pressed="true"]') ?? [];
    const wanted = number === null ? [...pressed].map((one) => one.dataset.entity) : [number];
    parts.marks.light(new Set(wanted));
    parts.layers.light(new Set(wanted));
  }

  function onPhrase(event, isOver) {
    const target = event.target.closest?.(".mv-phrase, .mv-box, .mv-label");
    if (target?.closest(".mv-message")?.dataset.exchange === now.answer?.dataset.exchange) light(isOver ? target?.dataset.entity : null);
  }

  function onMark(event, name) {
    const mark = event.target.closest?.(".mv-mark:not(.mv-other), .mv-tag:not(.mv-other)");
    if (!mark) return;
    const target = phrase(mark.dataset.entity);
    if (name === "click") target?.click();
    else target?.dispatchEvent(new MouseEvent(name, { bubbles: true }));
    light(name === "mouseover" ? mark.dataset.entity : null);
  }

  function onChatClick(event) {
    const answer = event.target.closest?.(".mv-answer[data-exchange]");
    if (!answer) return;
    const isSelecting = String(getSelection()).length > 0;
    if (answer !== now.answer && !isSelecting && !event.target.closest(".mv-actions, summary, a")) choose(answer);
    light();
  }

  // ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────

  // Python has something to say: what is attached, and which picture the next question is about.
  function receive(props) {
    if (!props.value || !("pictures" in props.value)) return;
    const { clear } = props.value; // whether, or which box
    const isCleared = Array.isArray(clear) ? String(clear) === String(parts.drawing.numbers()) : clear;
    const keep = props.value.current === value.current && !isCleared;
    const isNew = props.value.current !== value.current;
    value = props.value;
    minivlm.pictures.put(Object.fromEntries(value.pictures.filter(({ uri }) => uri).map(({ key, uri }) => [key, uri])));
    minivlm.pictures.need(value.pictures.map(({ key }) => key));
    if (isNew) tab = value.current || null;
    read();
    if (value.box) parts.drawing.give(value.box);
    else if (keep && parts.drawing.numbers()) props.value = { box: parts.drawing.numbers() };
    else parts.drawing.clear();
  }

  const BUTTONS = {
    previous: () => step(-1),
    next: () => step(1),
    in: () => parts.view.zoomIn(),
    out: () => parts.view.zoomOut(),
    fit: () => parts.view.reset(),
    full: () => parts.screen.open(true),
    close: () => parts.screen.open(false),
    keys: () => minivlm.showShortcuts(),
    choose: () => document.querySelector("#mv-question input[type=file]").click(),
  };

  // Called by gradio once the component is there.
  function connect(element, props, watch) {
    stage = element.querySelector(".mv-stage");
    frame = minivlm.frame(element);
    const view = minivlm.makeView(stage.querySelector(".mv-view"), () => parts && place());
    const marks = minivlm.makeMarks(stage.querySelector(".mv-marks"), view);
    let told = "null";
    const drawing = minivlm.makeDrawing(stage, view, {
      // Only the box goes back to the server: the pictures came from there. What is no news is not said: it could take
      // the place of a value that gradio has got from the server and not shown us yet.
      changed(numbers) {
        const news = JSON.stringify(numbers);
        if (news !== told) props.value = { box: numbers };
        told = news;
        if (numbers) minivlm.outdateRefusal?.(); // "needs a box" is no longer true
      },
      actions: () => minivlm.boxActions({ key: now.key, isCurrent: now.key === value.current, drawing, screen: parts.screen }),
    });
    parts = {
      view, marks, drawing,
      layers: minivlm.makeLayers(stage, view, { phrase, changed: update, regionsOf, answers: () => now.answers }),
      thumbs: minivlm.makeThumbs(stage.querySelector(".mv-thumbs"), { choose: choosePicture, step: stepPicture }),
      screen: minivlm.makeScreen(stage),
      marksSwitch: minivlm.makeSwitch(stage),
    };
    stage.addEventListener("click", (event) => {
      BUTTONS[event.target.closest("[data-stage]")?.dataset.stage]?.();
      onMark(event, "click");
    });
    for (const name of ["mouseover", "mouseout"]) stage.addEventListener(name, (event) => onMark(event, name));
    for (const [name, isOver] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
      document.addEventListener(name, (event) => onPhrase(event, isOver));
    }
    document.addEventListener("click", onChatClick); // after the page's own listener has pressed a phrase
    watchChat();
    watchTask();
    watch("value", () => receive(props));
    receive(props);
  }

  function watchChat() {
    let isWaiting = false;
    document.addEventListener("mv-shown", () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        read();
      });
    });
    read();
  }

  // A task that takes a box turns the box tool on, and off again when it is left.
  function watchTask() {
    const page = document.querySelector(".gradio-container");
    let takesBox = false;
    const follow = () => {
      if (page.classList.contains("mv-draws-box") === takesBox) return;
      takesBox = !takesBox;
      if (takesBox || !parts.drawing.numbers()) parts.drawing.turn(takesBox);
    };
    new MutationObserver(follow).observe(page, { attributeFilter: ["class"] });
    follow();
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.(".mv-chip");
      const task = minivlm.taskOfButton(button);
      begun = task?.takes_box ? { button, byKeyboard: event.detail === 0 } : null;
      beginDrawing();
    });
  }

  // From the button with the keyboard on to the first field; by touch to where there is room to draw. A picture that is
  // still on its way is waited for.
  function beginDrawing() {
    if (!begun || !now.key) return;
    const { button, byKeyboard } = begun;
    begun = null;
    parts.drawing.turn(true);
    if (!parts.screen.isWide()) parts.screen.open(true);
    else if (byKeyboard && [button, document.body].includes(document.activeElement)) parts.drawing.firstField().focus();
  }

  minivlm.stage = {
    connect, step, stepPicture, read,
    press: (name) => stage.querySelector(`[data-stage="${name}"]`).click(),
    nextMarks: () => parts.marksSwitch.next(),
    isFull: () => parts.screen.isFull(),
  };
})();
