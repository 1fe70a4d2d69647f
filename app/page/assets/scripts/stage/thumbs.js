// The pictures of a conversation as tabs, each a thumbnail.
(() => {
  // `choose(key)` shows a picture, `step(by)` the one before or after.
  function makeThumbs(list, { choose, step }) {
    function make(key, uri) {
      const thumb = Object.assign(document.createElement("button"), { type: "button", className: "mv-thumb", role: "tab" });
      thumb.dataset.key = key;
      thumb.append(Object.assign(new Image(), { src: uri, alt: "", decoding: "async" }));
      thumb.addEventListener("click", () => choose(key));
      thumb.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!by) return;
        event.preventDefault();
        step(by);
        list.querySelector('[aria-selected="true"]').focus();
      });
      return thumb;
    }

    function fill(pictures) {
      const keys = [...pictures.keys()];
      const old = new Map([...list.children].map((one) => [one.dataset.key, one]));
      if ([...old.keys()].join() === keys.join()) return;
      list.replaceChildren(...keys.map((key, index) => {
        const thumb = old.get(key) ?? make(key, pictures.get(key));
        thumb.ariaLabel = `Picture ${index + 1} of ${keys.length}`;
        return thumb;
      }));
    }

    // `pictures`: data URIs by key; `shown` is the key of the one on the stage.
    function show(pictures, shown) {
      list.hidden = pictures.size < 2;
      fill(pictures);
      for (const thumb of list.children) {
        const isShown = thumb.dataset.key === shown;
        if (thumb.ariaSelected === String(isShown)) continue;
        thumb.ariaSelected = String(isShown);
        thumb.tabIndex = isShown ? 0 : -1;
        if (isShown && !list.hidden) list.scrollTo({ left: thumb.offsetLeft - list.clientWidth / 2 });
      }
    }

    return { show };
  }

  Object.assign((window.minivlm ??= {}), { makeThumbs });
})();
