// Keys, flags and notes of `veridical view`. Everything else works without it.
"use strict";
(() => {
  const key = document.querySelector('meta[name="veridical-key"]').content;
  const toast = document.querySelector(".toast");

  function tell(text) {
    toast.textContent = text;
    toast.hidden = !text;
  }

  // What a refusal says; not the page that a proxy makes of a server that is down.
  async function words(reply) {
    const text = (reply.headers.get("content-type") || "").startsWith("text/plain");
    return text ? (await reply.text()).slice(0, 300) : `the server answers ${reply.status}.`;
  }

  async function post(address, content) {
    try {
      const reply = await fetch(address, {
        method: "POST",
        headers: { "content-type": "application/json", "x-veridical-key": key },
        body: JSON.stringify(content),
      });
      if (!reply.ok) throw new Error(await words(reply));
      tell("");
      return await reply.json();
    } catch (error) {
      tell(`Not kept: ${error.message || "the server does not answer"}`);
      return null;
    }
  }

  async function flag(button) {
    const flagged = button.getAttribute("aria-pressed") !== "true";
    const kept = await post(button.dataset.post, { flagged });
    if (!kept) return;
    button.setAttribute("aria-pressed", String(kept.flagged));
    button.querySelector(".words").textContent = kept.flagged ? "Flagged" : "Flag";
  }

  document.querySelectorAll(".flag").forEach((button) =>
    button.addEventListener("click", () => flag(button)));

  const note = document.querySelector("#note");
  if (note) {
    const saved = document.querySelector("#saved");
    let waiting = 0;
    let last = note.value;
    let queue = Promise.resolve();
    const keep = () => {
      clearTimeout(waiting);
      queue = queue.then(async () => {
        if (note.value === last) return;
        const value = note.value;
        if (await post(note.dataset.post, { note: value })) {
          last = value;
          saved.textContent = "Kept.";
        }
      });
      return queue;
    };
    note.addEventListener("input", () => {
      saved.textContent = "Not kept yet.";
      clearTimeout(waiting);
      waiting = setTimeout(keep, 500);
    });
    note.addEventListener("blur", keep);
    document.addEventListener("click", async (event) => {
      const link = event.target.closest("a[href]");
      if (!link || note.value === last || event.defaultPrevented) return;
      event.preventDefault();
      await keep();
      if (note.value === last) location.href = link.href;
    });
    window.addEventListener("beforeunload", (event) => {
      if (note.value !== last) event.preventDefault();
    });
  }

  document.querySelectorAll("img").forEach((image) => {
    const missing = async () => {
      const text = document.createElement("div");
      text.className = "noimage";
      text.textContent = "No image";
      image.replaceWith(text);
      const reply = await fetch(image.src).catch(() => null);
      if (reply && !reply.ok) text.textContent = await words(reply);
    };
    const pixels = () => image.classList.toggle("pixels", image.naturalWidth <= 96);
    image.addEventListener("error", missing);
    image.addEventListener("load", pixels);
    if (image.complete) image.naturalWidth ? pixels() : image.src && missing();
  });

  const rows = [...document.querySelectorAll("[data-row]")];
  let at = -1;
  function move(by) {
    at = Math.max(0, Math.min(rows.length - 1, at + by));
    rows.forEach((row, place) => row.classList.toggle("current", place === at));
    rows[at].scrollIntoView({ block: "nearest" });
    rows[at].querySelector("p.small a").focus({ preventScroll: true });
  }

  function follow(rel) {
    const link = document.querySelector(`a[rel="${rel}"]`);
    if (link) link.click();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inside = event.target.matches("input, textarea, select");
    if (event.key === "Escape" && inside) event.target.blur();
    if (inside) return;
    const named = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (rows.length && "jk".includes(event.key)) move(event.key === "j" ? 1 : -1);
    else if (rows.length && "np".includes(event.key)) follow(event.key === "n" ? "next" : "prev");
    else if (event.key === "ArrowRight") follow("next");
    else if (event.key === "ArrowLeft") follow("prev");
    else if (event.key === "f") {
      const button = (rows[at] || document).querySelector(".flag");
      if (button && (at >= 0 || !rows.length)) flag(button);
    } else if (named && named.matches("a")) named.click();
    else if (named) named.focus();
    else return;
    event.preventDefault();
  });
})();
