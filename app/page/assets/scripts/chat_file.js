// The menu of the chat: save it as a file, open one.
(() => {
  const menu = () => document.querySelector(".mv-menu");

  // The file comes through a hidden field as [name, text], and leaves it at once: it may be large.
  function saveFile(value) {
    if (!value) return "";
    const { name, text } = JSON.parse(value);
    const kind = name.endsWith(".html") ? "text/html" : "application/json";
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return "";
  }

  function close(returnsFocus) {
    if (!menu()?.open) return;
    menu().open = false;
    if (returnsFocus) menu().querySelector("summary").focus();
  }

  function choose() {
    const isEmpty = !document.querySelector(".mv-message");
    if (isEmpty || window.confirm("The chat that you open replaces this one. Go on?")) {
      document.querySelector("#mv-open-chat").click(); // gradio's button, which opens its own file field
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".mv-menu button");
    if (button) {
      close(true);
      if (button.dataset.chat === "open") choose();
    } else if (!event.target.closest?.(".mv-menu")) {
      close(false);
    }
  });
  // Before others hear of it: the key closes the menu and stops no answer.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu()?.open) return;
    event.stopImmediatePropagation();
    close(true);
  }, true);

  Object.assign(window.minivlm, { saveFile });
})();
