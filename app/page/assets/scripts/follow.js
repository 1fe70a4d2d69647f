// The end of the conversation stays in view while the reader is there.
(() => {
  const FAR = 100; // pixels from the end, from where a button leads there
  const AT_THE_END = 24; // pixels from the end that count as being there for who comes back to it
  const ROUNDING = 1.5; // pixels that the end may seem to be away: the browser gives whole heights, and fractions of the place
  const KEYS_UP = new Set(["PageUp", "Home", "ArrowUp"]);
  const PAGE_KEYS = { PageUp: -0.9, PageDown: 0.9 }; // how much of the visible part they scroll

  let scroller;
  let isFollowing = true;
  let lastTop = 0; // where the view was when we last looked
  let lastRoom = ""; // and how large

  const end = () => scroller.scrollHeight - scroller.clientHeight;
  const room = () => `${scroller.clientWidth} ${scroller.clientHeight}`;

  function set(following) {
    isFollowing = following;
    // The browser keeps what is being read in place when something above it changes its size; at the end, we do.
    scroller.style.overflowAnchor = following ? "none" : "auto";
  }

  // Where the view is by now. Following moves it to the end and nowhere else; the browser by itself moves it up only where
  // what it shows became shorter, and then to its end, or where it gets another size. Any other way up is the reader's, or
  // of a search, a selection that is drawn beyond the edge, a screen reader. Whoever changes what is shown has this
  // looked at before: of two changes at once it could not be told any more.
  function heed() {
    if (!scroller) return;
    const [top, below] = [scroller.scrollTop, end() - scroller.scrollTop];
    if (top > lastTop && below <= AT_THE_END) set(true);
    else if (top < lastTop && below > ROUNDING && room() === lastRoom) set(false);
    lastTop = top;
    lastRoom = room();
  }

  function goToEnd() {
    scroller.scrollTop = end();
    lastTop = scroller.scrollTop;
  }

  function onSize() {
    keepHeld();
    heed();
    stay();
  }

  function stay() {
    if (isFollowing && scroller.scrollTop < end() && scroller.querySelector(".mv-message, .mv-pending")) goToEnd();
  }

  let held = null; // a message that stays where it is while others come and go: its name and its place

  function hold(message) {
    held = message && { name: message.ariaLabel, top: message.getBoundingClientRect().top };
    if (held) set(false);
  }

  function keepHeld() {
    const message = held && scroller.querySelector(`[aria-label="${held.name}"]`);
    if (message) scroller.scrollTop += message.getBoundingClientRect().top - held.top;
    // Whoever changes a question reads it meanwhile.
    message?.closest(".mv-edited")?.querySelector(".mv-text").scrollIntoView({ block: "nearest" });
    held = null;
  }

  // While gradio fits its text box to what is in it, that is lower for a moment: there is more room for the conversation,
  // and less of it below the edge. Afterwards the view lies above its end, although nobody has moved it.
  function watchNeighbours(chat) {
    const changes = new MutationObserver(stay);
    for (const one of chat.parentElement.children) {
      if (one !== chat && one.id !== "mv-stage") changes.observe(one, { subtree: true, childList: true, attributeFilter: ["style", "class"] });
    }
  }

  // A question was sent: its answer is what the reader wants to see.
  function followAgain() {
    set(true);
    goToEnd();
  }

  // What the reader does says where they want to go before the view has moved, which it does step by step.
  const wantsUp = () => scroller.scrollTop > 0 && set(false);

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const isTyping = event.target.matches("input, textarea, select, [contenteditable]");
    const share = PAGE_KEYS[event.key];
    if (!isTyping) {
      if (KEYS_UP.has(event.key) || (event.key === " " && event.shiftKey)) wantsUp();
    }
    // From the text box the pages of the conversation can be turned, unless there are pages in the box itself.
    const { value, scrollHeight, clientHeight } = event.target;
    const isBox = event.target.matches("#mv-question textarea") && (!value || scrollHeight <= clientHeight + 4);
    if (!share || !(isBox || event.target === document.body)) return;
    event.preventDefault();
    if (share < 0) wantsUp();
    scroller.scrollBy({ top: share * scroller.clientHeight });
  }

  function onFinger() {
    let from = null;
    scroller.addEventListener("touchstart", (event) => (from = event.touches[0].clientY), { passive: true });
    scroller.addEventListener("touchmove", (event) => event.touches[0].clientY > from && wantsUp(), { passive: true });
  }

  // What unfolds below the edge comes into view, and is read there until it is folded again.
  function onToggle({ target }) {
    if (!target.open) return set(end() - scroller.scrollTop <= AT_THE_END);
    target.scrollIntoView({ block: target.offsetHeight > scroller.clientHeight ? "start" : "nearest" });
    lastTop = scroller.scrollTop;
    set(false);
  }

  function follow(chat) {
    scroller = chat.querySelector(".mv-scroller");
    const log = chat.querySelector(".mv-log");
    const down = chat.querySelector(".mv-to-end");
    const sizes = new ResizeObserver(onSize);
    let wasEmpty = true;
    let wasRunning = false;

    const onChange = () => {
      const isRunning = Boolean(chat.querySelector('[data-state="running"]'));
      log.setAttribute("aria-busy", String(isRunning)); // screen readers get a finished answer once
      const isEmpty = !chat.querySelector(".mv-message");
      if ((isRunning && !wasRunning) || (wasEmpty && !isEmpty)) followAgain();
      [wasEmpty, wasRunning] = [isEmpty, isRunning];
    };
    document.addEventListener("mv-shown", onChange);
    [scroller, log].forEach((node) => sizes.observe(node));
    watchNeighbours(chat);
    onChange();
    scroller.addEventListener("scroll", heed, { passive: true });
    scroller.addEventListener("scroll", () => (down.hidden = end() - scroller.scrollTop < FAR), { passive: true });
    down.addEventListener("click", followAgain);
    const onWheel = (event) => event.deltaY < 0 && !event.ctrlKey && wantsUp();
    scroller.addEventListener("wheel", onWheel, { passive: true });
    scroller.addEventListener("pointerdown", (event) => event.offsetX >= scroller.clientWidth && wantsUp()); // its scrollbar
    document.addEventListener("keydown", onKey);
    chat.addEventListener("click", (event) => event.target.closest("summary") && set(false), true);
    chat.addEventListener("toggle", onToggle, true);
    onFinger();
    set(true);
  }

  Object.assign((window.minivlm ??= {}), { follow, followAgain, heed, hold });
})();
