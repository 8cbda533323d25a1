// Answers, marks and undo of `veridical label`.
"use strict";
(() => {
  const meta = document.querySelector('meta[name="veridical-key"]');
  const script = document.currentScript.src;
  // Of the page that is shown; `begin` sets them.
  let page, task, texts, shown, since, leaving;

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) shown += performance.now() - since;
    else since = performance.now();
  });
  const seconds = () => (shown + (document.hidden ? 0 : performance.now() - since)) / 1000;

  function tell(text) {
    const toast = document.querySelector(".toast:not(.unready)");
    toast.textContent = text;
    toast.hidden = !text;
  }

  // What a refusal says; not the page that a proxy makes of a server that is down.
  async function refusal(reply) {
    const text = (reply.headers.get("content-type") || "").startsWith("text/plain");
    return text ? (await reply.text()).slice(0, 300) : `the server answers ${reply.status}.`;
  }

  const wait = (time) => new Promise((go) => setTimeout(go, time));
  const newKey = () =>
    [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16)).join("-");

  // Asks until the server has answered whole; null if it refuses.
  async function ask(address, options, failed) {
    for (let pause = 300; ; pause = Math.min(2 * pause, 4000)) {
      let reply = null;
      let told = "";
      try {
        reply = await fetch(address, options);
        told = await (reply.ok ? reply.text() : refusal(reply));
      } catch (error) {
        reply = null; // the server does not answer, or stopped while it did
      }
      if (reply && reply.ok) {
        tell("");
        return told;
      }
      const why = reply ? told : "the server does not answer.";
      if (reply && reply.status < 500) {
        tell(`${failed}: ${why}`);
        return null;
      }
      tell(`${failed} yet: ${why} Trying again; keep this page open.`);
      await wait(pause);
    }
  }

  // The same event, with its key, until the server has said that it is stored.
  async function post(address, content) {
    const told = await ask(address, {
      method: "POST",
      headers: { "content-type": "application/json", "x-veridical-key": meta.content },
      body: JSON.stringify(content),
    }, "Not stored");
    return told === null ? null : JSON.parse(told);
  }

  // The next comparison, in place. To load it as a page would leave an empty one where the server
  // ends within its answer.
  async function next() {
    const told = await ask(location.href, {}, "Stored, but the next comparison does not come");
    const found = told && new DOMParser().parseFromString(told, "text/html");
    const own = found && found.querySelector("script");
    if (!own || own.src !== script) {
      location.reload(); // a refusal, or the page of another version
      return;
    }
    document.title = found.title;
    meta.content = found.querySelector('meta[name="veridical-key"]').content;
    document.body = document.adoptNode(found.body);
    scrollTo(0, 0);
    begin();
    const question = document.querySelector("h1");
    question.tabIndex = -1;
    question.focus({ preventScroll: true }); // where a screen reader goes on
  }

  let busy = Promise.resolve();
  function send(content) {
    busy = busy.then(() => post(page.post, { key: newKey(), ...content }));
    return busy;
  }

  async function leave(content) {
    if (leaving) return;
    leaving = true;
    const buttons = [...document.querySelectorAll("button:enabled")];
    buttons.forEach((button) => (button.disabled = true));
    if (await send(content)) {
      await next();
      return;
    }
    leaving = false;
    buttons.forEach((button) => (button.disabled = false));
  }

  // Marks: tapped, or by keys once `w` has put the focus on a word.
  function marks() {
    const found = {};
    for (const text of texts)
      found[text.dataset.side] = [...text.querySelectorAll(".wrong")].map((word) =>
        [Number(word.dataset.start), Number(word.dataset.end)]);
    return found;
  }
  function toggle(word) {
    const wrong = word.classList.toggle("wrong");
    if (word.hasAttribute("aria-pressed")) word.setAttribute("aria-pressed", String(wrong));
    if (!leaving) send({ task, step: "marks", value: marks(), seconds: 0 });
  }
  function visit(word) {
    document.querySelectorAll(".word[tabindex]").forEach((one) => one.removeAttribute("tabindex"));
    word.tabIndex = -1;
    word.setAttribute("role", "button");
    word.setAttribute("aria-pressed", String(word.classList.contains("wrong")));
    word.focus();
  }
  function walk(event, word) {
    const text = word.closest(".words");
    const words = [...text.querySelectorAll(".word")];
    const at = words.indexOf(word);
    const other = texts[(texts.indexOf(text) + 1) % texts.length].querySelector(".word");
    if (event.key === "ArrowRight") visit(words[Math.min(at + 1, words.length - 1)]);
    else if (event.key === "ArrowLeft") visit(words[Math.max(at - 1, 0)]);
    else if (event.key === "Home") visit(words[0]);
    else if (event.key === "End") visit(words[words.length - 1]);
    else if (event.key === "Tab" && other) visit(other);
    else if (event.key === " " || event.key === "Enter") event.repeat || toggle(word);
    else if (event.key === "Escape") word.blur();
    else return false;
    return true;
  }

  function watch(image) {
    const pixels = () => image.classList.toggle("pixels", image.naturalWidth <= 96);
    const missing = async () => {
      const text = document.createElement("div");
      text.className = "noimage";
      const reply = await fetch(image.src).catch(() => null);
      text.textContent = reply && !reply.ok ? await refusal(reply) : "No image";
      image.replaceWith(text);
    };
    image.addEventListener("load", pixels);
    image.addEventListener("error", missing);
    if (image.complete) image.naturalWidth ? pixels() : missing();
  }

  // Makes the page that came ready.
  function begin() {
    document.querySelectorAll(".unready").forEach((one) => one.remove());
    page = document.body.dataset;
    task = Number(page.task);
    texts = [...document.querySelectorAll(".words")];
    [shown, since, leaving] = [0, performance.now(), false];
    document.querySelectorAll("[data-value]").forEach((button) =>
      button.addEventListener("click", () =>
        leave({ task, step: page.step, value: button.dataset.value, seconds: seconds() })));
    const undo = document.querySelector("#undo");
    if (undo) undo.addEventListener("click", () => leave({ step: "undo" }));
    const write = document.querySelector("#export");
    if (write)
      write.addEventListener("click", async () => {
        write.disabled = true;
        const reply = await post(write.dataset.post, {});
        document.querySelector("#told").textContent = reply ? reply.told : "";
        write.disabled = false;
      });
    texts.forEach((text) =>
      text.addEventListener("click", (event) => {
        const word = event.target.closest(".word");
        if (word && String(getSelection()) === "") toggle(word);
      }));
    document.querySelectorAll(".compared img").forEach(watch);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const word = event.target.closest && event.target.closest(".word");
    if (word && walk(event, word)) {
      event.preventDefault();
      return;
    }
    if (event.repeat || event.target.matches("input, textarea, select")) return;
    if (event.key === "w" && texts.length) visit(texts[0].querySelector(".word"));
    else if (event.key === "g") {
      const guide = document.querySelector(".guide");
      if (guide) guide.open = !guide.open;
    } else {
      const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
      if (!button || button.disabled) return;
      button.click();
    }
    event.preventDefault();
  });

  begin();
})();
