// The pixels of pictures, by key. Each picture comes to this tab once, and is then at hand wherever it is shown.
(() => {
  const page = window.minivlm;
  const ASK_AGAIN = 10000; // milliseconds after which a picture that has not come is asked for again

  const pixels = new Map(); // data URIs
  const asked = new Set();

  function put(found) {
    let isNew = false;
    for (const [key, uri] of Object.entries(found ?? {})) {
      asked.delete(key);
      isNew ||= !pixels.has(key);
      if (uri) pixels.set(key, uri); // one without pixels did not come along, and is asked for again
    }
    if (!isNew) return;
    fill(document);
    document.dispatchEvent(new Event("mv-shown"));
  }

  function need(keys) {
    const missing = keys.filter((key) => key && !pixels.has(key) && !asked.has(key));
    if (!missing.length) return;
    missing.forEach((key) => asked.add(key));
    // What is read first, which is at the end, does not wait for the rest.
    page.tell("pixels", { wanted: missing.slice(-2) });
    if (missing.length > 2) page.tell("pixels", { wanted: missing.slice(0, -2) });
    setTimeout(() => missing.forEach((key) => asked.delete(key)), ASK_AGAIN);
  }

  // Pictures that are in the page without their pixels get them, or they are asked for.
  function fill(root) {
    const empty = [...root.querySelectorAll("image[data-pixels]:not([href])")];
    empty.forEach((image) => pixels.has(image.dataset.pixels) && image.setAttribute("href", pixels.get(image.dataset.pixels)));
    need(empty.map((image) => image.dataset.pixels));
  }

  page.pictures = { put, need, fill, get: (key) => pixels.get(key) };
})();
