
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const cards = [...document.querySelectorAll(".card")];
  const filter = document.getElementById("filter");

  // A phrase and its boxes are highlighted together when one of them is hovered or focused.
  let active = null;
  const highlight = (part) => {
    const card = part && part.closest(".card");
    const key = part && part.dataset.e;
    if (active && active.card === card && active.key === key) return;
    if (active) {
      active.parts.forEach((one) => one.classList.remove("on"));
      active.stage.classList.remove("hot");
    }
    active = null;
    if (!part) return;
    const reading = part.closest(".reading");
    const choice = reading && reading.querySelector(".prompt input");
    if (choice) choice.checked = true;
    const parts = [...card.querySelectorAll(`[data-e="${key}"]`)];
    const stage = card.querySelector(".stage");
    parts.forEach((one) => one.classList.add("on"));
    if (parts.some((one) => one.closest(".stage"))) stage.classList.add("hot");
    active = { card, key, parts, stage };
  };
  const partOf = (node) => (node instanceof Element ? node.closest("[data-e]") : null);
  document.addEventListener("pointerover", (event) => highlight(partOf(event.target) || partOf(document.activeElement)));
  document.addEventListener("focusin", (event) => highlight(partOf(event.target)));
  document.addEventListener("focusout", () => highlight(null));

  const enlarge = (card) => {
    const large = card.classList.toggle("large");
    card.querySelector(".grow").setAttribute("aria-pressed", String(large));
    card.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest(".grow");
    if (button) enlarge(button.closest(".card"));
  });

  if (!filter) return;
  const read = (card) =>
    [...card.querySelectorAll(".name, .prompt, .text, .aside")].map((node) => node.textContent).join("\n").toLowerCase();
  let texts = null;
  const applyFilter = () => {
    texts = texts || cards.map(read);
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    cards.forEach((card, at) => {
      card.hidden = !words.every((word) => texts[at].includes(word));
      shown += card.hidden ? 0 : 1;
    });
    document.getElementById("matched").textContent = words.length ? ` · ${shown} shown` : "";
    document.getElementById("unmatched").hidden = shown > 0;
  };
  filter.addEventListener("input", applyFilter);
  // After a navigation back to the page, the browser restores the filter.
  if (filter.value) applyFilter();

  const step = (by) => {
    const shown = cards.filter((card) => !card.hidden);
    const now = shown.findIndex((card) => card.contains(document.activeElement));
    const next = shown[now < 0 ? (by > 0 ? 0 : shown.length - 1) : now + by];
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === filter) {
      if (event.key === "Escape") {
        filter.value = "";
        applyFilter();
        filter.blur();
      }
      return;
    }
    const card = document.activeElement && document.activeElement.closest(".card");
    if (event.key === "/") filter.focus();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "e" && card) enlarge(card);
    else return;
    event.preventDefault();
  });
})();
