// A tab that was duplicated shows the same conversation: what changes in one is shown in the other.
(() => {
  const page = window.minivlm;
  const channel = new BroadcastChannel("minivlm-conversation");
  let shown = "";
  let key = "";

  document.addEventListener("mv-shown", () => {
    const keys = [key, (key = page.keptKey())];
    const state = page.conversation.state();
    if (state === shown) return;
    shown = state;
    channel.postMessage({ keys, state });
  });
  channel.addEventListener("message", ({ data }) => {
    const mine = page.keptKey();
    if (mine && data.keys.includes(mine) && data.state !== shown) page.tell("look", { whole: false });
  });
})();
