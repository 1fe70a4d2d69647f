// A question is shown at once, before the server has heard of it; what the server draws then takes its place.
(() => {
  const page = window.minivlm;
  let pending = null;
  let isReading = false; // the server, the files in the text box
  let meanwhile = null; // what was typed since it began to
  let before = "";

  function node(name, text = "") {
    return Object.assign(document.createElement("div"), { className: name, textContent: text });
  }

  function drop() {
    pending?.closest(".mv-page").classList.remove("mv-sending");
    pending?.remove();
    pending = null;
  }

  // Called when the text box is sent.
  function sending() {
    meanwhile = null; // what comes now is the answer to it
    page.attempt();
    page.outdate("send");
    page.outdateRefusal();
    const thumbnails = document.querySelectorAll("#mv-question .thumbnail-item img");
    pend(document.querySelector("#mv-question textarea").value.trim(), thumbnails);
  }

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
    document.querySelector("#mv-chat .mv-scroller").append(pending);
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

  // The text box for the task whose button was pressed: what was typed stays, stock prompts of other tasks do not.
  function withTask(value) {
    const index = page.pressedTask;
    page.outdateRefusal();
    const tasks = page.tasks();
    const part = (text) => {
      const task = tasks.find((one) => one.identifier && text.trimStart().toLowerCase().startsWith(one.identifier.toLowerCase()));
      return text.trim().slice(task?.identifier.length ?? 0).trim();
    };
    const typed = part(value.text);
    const isStock = !typed || tasks.some((other) => part(other.prompt) === typed);
    const text = isStock ? tasks[index].prompt : `${tasks[index].identifier} ${typed}`.trimStart();
    meanwhile = null;
    return { ...value, text };
  }

  // While the server reads the files, people type on; its answer brings the text of before along.
  document.addEventListener("input", (event) => {
    if (isReading && event.target.matches?.("#mv-question textarea")) meanwhile = event.target.value;
  });

  function filesSent() {
    isReading = true;
    meanwhile = null;
  }

  function filesRead() {
    setTimeout(() => (isReading = false), 100); // what the answer brought is drawn by then
  }

  // Called with what the text box has become.
  function keepTyped(value) {
    if (!isReading || meanwhile === null || value.text === meanwhile) return;
    const box = document.querySelector("#mv-question textarea");
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, meanwhile);
    box.dispatchEvent(new Event("input", { bubbles: true }));
  }

  Object.assign(page, { isSending: () => pending !== null, sending, sent: drop, watchForAnswer, withTask, filesSent, filesRead, keepTyped });
})();
