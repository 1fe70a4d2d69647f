// The conversation: what has changed of it is drawn, and nothing else. What a value is, app/page/conversation_component.py says.
(() => {
  const page = window.minivlm;
  const { grow, nodesOf, setAttributes } = page.growing;
  const ASK_AGAIN = 2000; // milliseconds between two requests for all bubbles

  let frame;
  let scroller;
  let log;
  let rows = []; // one for each bubble: { id, html, node, parts: null or [{ html, nodes }] }
  let asked = 0;

  // What a text or a picture with boxes begins with, which grow as one element; nothing of other parts.
  const opening = (html) => html.match(/^<(?:div class="mv-(?:text|thinking)"|figure) [^>]*>/)?.[0];
  const text = (part) => (typeof part === "string" ? part : [...part].join(""));

  // ── One bubble ──────────────────────────────────────────────────────────────────────────────────────────────────

  function makeRow(id, bubble) {
    if (typeof bubble === "string") return { id, html: bubble, node: nodesOf(bubble)[0], parts: null };
    const [node] = nodesOf(`${bubble[0]}</div>`);
    const parts = [...bubble].slice(1).map((part) => {
      const nodes = nodesOf(text(part));
      node.append(...nodes);
      return { html: text(part), nodes };
    });
    return { id, html: [...bubble].map(text).join("") + "</div>", opening: bubble[0], node, parts };
  }

  function changePart(row, index, html) {
    const part = row.parts[index];
    if (part.html === html) return;
    const begin = opening(html);
    if (begin && begin === opening(part.html)) grow(part, html);
    else {
      const nodes = nodesOf(html);
      const next = row.parts.slice(index + 1).flatMap((one) => one.nodes)[0] ?? null;
      part.nodes.forEach((node) => node.remove());
      nodes.forEach((node) => row.node.insertBefore(node, next));
      part.nodes = nodes;
    }
    part.html = html;
  }

  function changeRow(row, id, bubble) {
    const html = typeof bubble === "string" ? bubble : [...bubble].map(text).join("") + "</div>";
    if (row.html === html) return Object.assign(row, { id });
    if (typeof bubble === "string" || row.parts?.length !== bubble.length - 1) {
      const now = makeRow(id, bubble);
      row.node.replaceWith(now.node);
      return now;
    }
    if (row.opening !== bubble[0]) setAttributes(row.node, nodesOf(`${bubble[0]}</div>`)[0]);
    [...bubble].slice(1).forEach((part, index) => changePart(row, index, text(part)));
    return Object.assign(row, { id, html, opening: bubble[0] });
  }

  // ── All of them ─────────────────────────────────────────────────────────────────────────────────────────────────

  function show(value) {
    page.heed();
    if (value?.placeholder) scroller.querySelector(".mv-placeholder").innerHTML = value.placeholder;
    const ids = [...(value?.ids ?? [])];
    const brought = new Map([...(value?.new ?? [])].map(([place, bubble]) => [place, bubble]));
    if (ids.some((id, place) => rows[place]?.id !== id && !brought.has(place))) return askForAll();
    ids.forEach((id, place) => {
      const bubble = brought.get(place);
      if (!rows[place]) log.append((rows[place] = makeRow(id, bubble)).node);
      else if (rows[place].id !== id) rows[place] = changeRow(rows[place], id, bubble);
    });
    rows.splice(ids.length).forEach((row) => row.node.remove());
    scroller.classList.toggle("mv-empty", !rows.length);
    log.classList.toggle("mv-paired", rows.some(({ node }) => node.classList.contains("mv-side")));
    frame.classList.toggle("mv-begun", rows.length > 0);
    page.pictures.fill(log);
    document.dispatchEvent(new Event("mv-shown"));
  }

  function askForAll() {
    const now = Date.now();
    if (now - asked < ASK_AGAIN) return void setTimeout(askForAll, ASK_AGAIN);
    asked = now;
    page.tell("look", { whole: true });
  }

  // Called by gradio once the component is there.
  function connect(element, props, watch) {
    scroller = element.querySelector(".mv-scroller");
    log = element.querySelector(".mv-log");
    scroller.classList.add("mv-empty");
    frame = page.frame(element);
    watch("value", () => show(props.value));
    if (props.value) show(props.value);
  }

  // What there is, without the words of an answer that is being written.
  function state() {
    const last = rows.at(-1);
    return `${rows.length} ${last?.node.dataset.state === "running" ? "running" : last?.id ?? ""}`;
  }

  page.conversation = { connect, state };
})();
