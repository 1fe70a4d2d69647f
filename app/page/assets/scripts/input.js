// What is pasted, dropped and pressed. Nothing is taken from a field that a person writes in, and nothing is lost without
// a line.
(() => {
  const page = window.minivlm;
  const { tell, say } = page;
  const EDITABLE = 'input:not([type="file"], [type="range"], [type="checkbox"], [type="button"]), textarea, [contenteditable="true"]';

  const box = () => document.querySelector("#mv-question textarea");
  const isUploading = () => Boolean(document.querySelector('#mv-question .loader[aria-label="Uploading"]'));
  const editable = (target) => target.closest?.(EDITABLE);

  // Through gradio's own file field, as if they had been chosen there; while the page is being built it is awaited. The
  // list is copied because a browser empties it after the event.
  function attach(list) {
    const files = [...list];
    const input = document.querySelector("#mv-question input[type=file]");
    if (!input) return void requestAnimationFrame(() => attach(files));
    const transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // At the place of the caret, with undo, as if it had been typed; while the page is being built its field is awaited.
  function type(text) {
    const field = box();
    if (!field) return void requestAnimationFrame(() => type(text));
    field.focus();
    if (!document.execCommand("insertText", false, text)) {
      field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  // A file that was copied in a file manager comes with its name as a text.
  function pastedText(data, files) {
    const text = data?.getData("text/plain") ?? "";
    const names = files.map(({ name }) => name);
    return names.length && text.split("\n").every((line) => names.includes(line.trim())) ? "" : text;
  }

  function onPaste(event) {
    const data = event.clipboardData;
    const files = [...(data?.files || [])];
    const text = pastedText(data, files);
    const field = editable(event.target);
    if (text && !field && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      type(text);
    }
    if (!files.length) return;
    if (text) {
      // The browser pastes the text; gradio, which may take the picture instead, does not see the event.
      event.stopPropagation();
      say("paste", "The text was pasted, the picture that came with it was not. Copy the picture alone to attach it.", { kind: "info", until: "send files" });
      return;
    }
    if (field && field === box()) return; // gradio attaches it
    event.preventDefault();
    event.stopPropagation();
    attach(files);
  }

  // The address of a picture of this page itself; of another host nothing is fetched.
  function ownPicture(data) {
    const html = new DOMParser().parseFromString(data.getData("text/html"), "text/html");
    const source = html.querySelector("img")?.getAttribute("src") || data.getData("text/uri-list").split("\n")[0].trim();
    return /^data:image\//.test(source) || source.startsWith(`${location.origin}/`) ? source : "";
  }

  async function attachOwn(source) {
    const blob = await (await fetch(source)).blob();
    attach([new File([blob], `picture.${blob.type.split("/")[1] || "png"}`, { type: blob.type })]);
  }

  function onDrop(event) {
    const data = event.dataTransfer;
    if (!data) return;
    const inQuestion = event.target.closest?.("#mv-question");
    if (data.files.length) {
      if (inQuestion) return; // gradio attaches them
      event.preventDefault();
      attach(data.files);
      return;
    }
    const isText = data.getData("text/plain") && !linkIn(data) && !ownPicture(data);
    if (isText && editable(event.target)) return; // the browser inserts it where it was dropped
    event.preventDefault();
    event.stopPropagation();
    page.unsay("drop"); // what was said of the one before
    takeTexts(data);
  }

  const linkIn = (data) => data.getData("text/uri-list").split("\n").find((line) => line && !line.startsWith("#"));

  // What was dropped and is no file; `until` outdates what is said of it.
  function takeTexts(data, until = "send files") {
    const [link, own, text] = [linkIn(data), ownPicture(data), data.getData("text/plain")];
    if (own) attachOwn(own).catch(() => say("drop", "That picture can't be read. Save it, and drop the file.", { until }));
    else if (link) {
      say("drop", "A picture or link of another page is not fetched from here. Save or copy the picture there, and drop or paste it.", { until });
    } else if (text) type(text);
    else say("drop", "There is nothing in what was dropped that could be used: drop image files or text.", { until });
  }

  // A drop is possible everywhere; where text is dropped into a field, the browser shows the caret.
  function onDragOver(event) {
    const isText = !event.dataTransfer.types.some((type) => type === "Files" || type === "text/uri-list");
    if (!(isText && editable(event.target))) event.preventDefault();
  }

  // A question that is sent while its picture is still on the way goes off as soon as that has come.
  let isWaiting = false;
  function waitForUpload(event) {
    if (!isUploading()) return false;
    event.preventDefault();
    event.stopPropagation();
    if (isWaiting) return true;
    isWaiting = true;
    say("upload", "The question is sent as soon as the picture is here.", { kind: "info" });
    const observer = new MutationObserver(() => {
      if (isUploading()) return;
      observer.disconnect();
      isWaiting = false;
      page.unsay("upload");
      // What was attached is checked by the server first, which may draw the text box anew.
      setTimeout(() => document.querySelector("#mv-question .submit-button")?.click(), 200);
    });
    observer.observe(document.querySelector("#mv-question"), { childList: true, subtree: true });
    return true;
  }

  const isComposing = (event) => event.isComposing || event.keyCode === 229;

  function onKeyDown(event) {
    if (event.key !== "Escape" || isComposing(event) || event.defaultPrevented) return;
    if (document.querySelector('.mv-answer[data-state="running"]')) tell("stop");
    else if (document.querySelector('[data-action="cancel_edit"]')) tell("cancel_edit");
  }

  const isSend = (event) =>
    (event.type === "click" && event.target.closest?.("#mv-question .submit-button")) ||
    (event.type === "keypress" && event.key === "Enter" && !event.shiftKey && !isComposing(event) && event.target === box());

  function onSend(event) {
    if (isSend(event) && !waitForUpload(event)) page.sending();
  }

  // What came before this script did: early.js.
  const early = window.minivlmEarly?.() ?? [];
  const files = early.flatMap((data) => data.files);
  if (files.length) attach(files);
  early.filter((data) => !data.files.length).forEach((data) => takeTexts(data, "send")); // the files are still to come

  // A browser does not say that the file which it chose last is chosen again: in a new chat, or after it was removed.
  function forgetChosen({ target }) {
    if (target.matches?.("#mv-question input[type=file]")) target.value = "";
  }

  document.addEventListener("click", forgetChosen, true);
  document.addEventListener("dragover", onDragOver, true);
  document.addEventListener("drop", onDrop, true);
  document.addEventListener("paste", onPaste, true);
  window.addEventListener("keydown", onKeyDown); // after the listeners of document, which may have used the key
  document.addEventListener("keypress", onSend, true);
  document.addEventListener("click", onSend, true);
})();
