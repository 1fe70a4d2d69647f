// The lines above the text box, which are all that the page has to say: the server's, those of this script below them, and what gradio would show in a corner of the window.
(() => {
  const page = window.minivlm;
  const said = new Map(); // by name: the line of a name replaces its last one
  let place;

  function unsay(name) {
    said.get(name)?.remove();
    said.delete(name);
  }

  // `kind`: "error" or "info". `until` says what makes it outdated: "send", "files", or nothing that happens by itself.
  function say(name, text, { kind = "error", until = "" } = {}) {
    unsay(name);
    const line = document.createElement("p");
    line.className = `mv-${kind}`;
    line.setAttribute("role", kind === "error" ? "alert" : "status");
    line.dataset.until = until;
    line.textContent = text;
    said.set(name, line);
    place?.append(line);
  }

  // Something has happened that makes lines outdated: the question was sent, its files have changed.
  function outdate(what) {
    [...said].forEach(([name, line]) => line.dataset.until.split(" ").includes(what) && unsay(name));
  }

  // What the server found wrong with a question is outdated once the question, its box or a setting is another.
  function outdateRefusal() {
    document.querySelectorAll('#mv-notice [data-about="question"]').forEach((line) => (line.hidden = true));
  }

  const IS_LOST = /connection\b.*\blost/i; // gradio has several wordings
  const LOST = "The connection to the server is lost. The page comes back by itself as soon as the server does.";

  const IS_UNREACHED = /connection errored out|failed to fetch|networkerror|load failed/i; // and browsers, too
  const UNREACHED = "The server could not be reached: what was sent, attached or pressed has not arrived. Try again in a moment.";

  // While the connection is lost, gradio drops what is done, and draws the page anew once it is back: it then says so.
  let isAway = false;
  function attempt() {
    if (isAway) page.keepAttempt(true);
  }

  function noticeLoss() {
    if (isAway) return;
    isAway = true;
    // Without an answer that was on its way, it was noticed because something was tried.
    if (page.isSending() || !document.querySelector('.mv-answer[data-state="running"]')) attempt();
    page.sent(); // what was sent is not on its way; a draft stays in its field
  }

  function sayWhatWasLost() {
    if (!page.keepAttempt(false)) return;
    const text = "The connection is back. What was sent, attached or pressed while it was lost has not reached the server: please do it again.";
    say("connection", text, { kind: "info", until: "send files" });
  }

  function takeToast(toast) {
    const title = toast.querySelector(".toast-title-row span")?.firstChild?.textContent.trim() ?? "";
    const texts = [...toast.querySelectorAll('[data-testid="toast-text"]')].map((node) => node.textContent.trim());
    const said = texts.filter(Boolean).join(" ") || title;
    const isLost = IS_LOST.test(`${title} ${said}`);
    const isUnreached = !isLost && IS_UNREACHED.test(said);
    const text = isLost ? LOST : isUnreached ? UNREACHED : said;
    if (isLost) noticeLoss();
    if (isUnreached) page.sent();
    if (text && !(isUnreached && isAway)) say(isLost || isUnreached ? "connection" : `gradio ${text}`, text, { until: isLost ? "" : "send files" });
    if (!isLost) toast.querySelector('[data-testid="toast-close"]')?.click();
  }

  function showLines() {
    const notice = document.querySelector("#mv-notice");
    place = Object.assign(document.createElement("div"), { id: "mv-lines" });
    notice.append(place);
    place.append(...said.values());
    sayWhatWasLost();
    const seen = new WeakMap();
    new MutationObserver(() => {
      document.querySelectorAll('[data-testid="toast-body"]').forEach((toast) => {
        const text = toast.textContent;
        if (seen.get(toast) === text) return;
        seen.set(toast, text);
        takeToast(toast);
      });
    }).observe(document.body, { childList: true, subtree: true });
  }

  Object.assign(page, { attempt, say, unsay, outdate, outdateRefusal, showLines });
})();
