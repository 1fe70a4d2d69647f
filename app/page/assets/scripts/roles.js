// What gradio's own parts say wrongly to people who hear the page: a thumbnail is an item of a list that is none.
(() => {
  function watchThumbnails() {
    const block = document.querySelector("#mv-question");
    if (!block) return requestAnimationFrame(watchThumbnails);
    const repair = () => block.querySelectorAll('[role="listitem"]').forEach((item) => item.setAttribute("role", "group"));
    new MutationObserver(repair).observe(block, { childList: true, subtree: true });
    repair();
  }
  watchThumbnails();
})();
