// In the page's HTML itself, so that it runs before gradio's script has come, which may take seconds. What is dropped or
// pasted meanwhile does not lead away from the page, and is kept for input.js.
(() => {
  const KINDS = ["text/plain", "text/html", "text/uri-list"];
  const kept = [];

  function keep(event) {
    const data = event.dataTransfer ?? event.clipboardData;
    const files = [...(data?.files ?? [])];
    if (event.type === "paste" && !files.length) return;
    event.preventDefault();
    const texts = new Map(KINDS.map((kind) => [kind, data.getData(kind)])); // they are gone after the event
    kept.push({ files, getData: (kind) => texts.get(kind) });
  }

  const listeners = { dragover: (event) => event.preventDefault(), drop: keep, paste: keep };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener, true);

  // Called by whoever goes on; gives what was kept.
  window.minivlmEarly = () => {
    for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener, true);
    return kept.splice(0);
  };
})();
