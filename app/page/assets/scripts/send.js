// A question is shown at once, before the server has heard of it; what the server draws then takes its place.
(() => {
  const page = window.minivlm;
  let pending = null;
  let before = "";
  let typed = ""; // what the text box held when it was sent

  function node(name, text = "") {
    return Object.assign(document.createElement("div"), { className: name, textContent: text });
  }

  function drop() {
    pending?.closest(".mv-page").classList.remove("mv-sending");
    pending?.remove();
    pending = null;
  }

  // Called when the text box is sent, or another text in its place.
  function sending(text = null) {
    typed = document.querySelector("#mv-question textarea").value;
    page.attempt();
    page.outdate("send");
    page.outdateRefusal();
    pend(text ?? typed.trim(), document.querySelectorAll("#mv-question .thumbnail-item img"));
  }

  // What gradio sends, which it collects a moment later: meanwhile a slow machine may have got to the next keys.
  const asSent = (inputs) => inputs.map((input) => (typeof input?.text === "string" ? { ...input, text: typed } : input));

  // Shows a question with its pictures, until the server has drawn something.
  function pend(text, images) {
    if (!text || pending || document.querySelector('.mv-answer[data-state="running"]')) return; // it will be refused
    before = shown();
    pending = node("mv-pending");
    pending.setAttribute("role", "status");
    const question = node("mv-pending-question");
    images.forEach((image) => {
      question.append(Object.assign(document.createElement("img"), { src: image.src, alt: "" }));
    });
    question.append(node("mv-text", text));
    question.lastChild.dir = "auto";
    const thinking = node("mv-thinking");
    thinking.innerHTML = "<i></i><i></i><i></i><span>Sending the question</span>";
    pending.append(question, thinking);
    document.querySelector("#mv-chat .mv-log").after(pending);
    page.frame(pending).classList.add("mv-sending");
    page.followAgain();
  }

  document.addEventListener("click", (event) => {
    const card = event.target.closest?.('[data-action="example"]');
    if (card) pend(card.textContent.trim(), card.querySelectorAll("img"));
  });

  // What there is to see of the conversation's end and of refusals: it differs as soon as the server has drawn something.
  // gradio itself changes the page as well, for example when it begins to wait for the server.
  function shown() {
    const all = document.querySelectorAll("#mv-chat .mv-question");
    const isRunning = document.querySelector('.mv-answer[data-state="running"]') !== null;
    const refusals = [...document.querySelectorAll("#mv-notice [data-number]")].map((line) => line.dataset.number);
    return `${all.length} ${isRunning} ${all[all.length - 1]?.textContent} ${refusals}`;
  }

  function watchForAnswer() {
    const look = () => pending && shown() !== before && drop();
    document.addEventListener("mv-shown", look);
    // A refusal in the same words is the same element for gradio: its number alone is another.
    const changes = { childList: true, subtree: true, attributeFilter: ["data-number"] };
    new MutationObserver(look).observe(document.querySelector("#mv-notice"), changes);
  }

  Object.assign(page, { isSending: () => pending !== null, asSent, sending, sent: drop, watchForAnswer });
})();
