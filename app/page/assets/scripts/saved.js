// A saved chat: what can be clicked in it without the page. Nothing is asked of any host.
(() => {
  const { PHRASES, copy, pin } = window.minivlm;

  document.addEventListener("click", (event) => {
    const target = event.target.closest(`${PHRASES}, [data-copy]`);
    if (target?.dataset.copy !== undefined) copy(target);
    else if (target) pin(target);
  });
})();
