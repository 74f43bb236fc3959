
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
  const least = document.getElementById("least");
  const most = document.getElementById("most");
  const sort = document.getElementById("sort");
  const read = (card) =>
    [...card.querySelectorAll(".name, .prompt, .text, .aside")].map((node) => node.textContent).join("\n").toLowerCase();
  const scoresOf = (card) => [...card.querySelectorAll(".box[data-score]")].map((box) => Number(box.dataset.score));
  const entries = cards.map((card, at) => ({ card, at, text: null, scores: scoresOf(card) }));
  const number = (input, fallback) => (input.value === "" || isNaN(input.value) ? fallback : Number(input.value));

  // Boxes outside the range of scores are hidden, and phrases that have no other boxes are dimmed.
  const applyScores = (card, from, to) => {
    const isIn = (part) => !part.dataset.score || (from <= part.dataset.score && part.dataset.score <= to);
    card.querySelectorAll(".box, .tag").forEach((part) => part.classList.toggle("out", !isIn(part)));
    card.querySelectorAll("mark").forEach((mark) => {
      const boxes = [...card.querySelectorAll(`.box[data-e="${mark.dataset.e}"]`)];
      mark.classList.toggle("out", boxes.length > 0 && boxes.every((box) => box.classList.contains("out")));
    });
  };
  const applyFilter = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [from, to] = [number(least, 0), number(most, 1)];
    const isNarrow = from > 0 || to < 1;
    let shown = 0;
    entries.forEach((entry) => {
      const { card, scores } = entry;
      entry.text = entry.text ?? read(card);
      const inRange = !isNarrow || scores.some((score) => from <= score && score <= to);
      card.hidden = !inRange || !words.every((word) => entry.text.includes(word));
      shown += card.hidden ? 0 : 1;
      applyScores(card, from, to);
    });
    document.getElementById("matched").textContent = words.length || isNarrow ? ` · ${shown} shown` : "";
    document.getElementById("unmatched").hidden = shown > 0;
  };
  [filter, least, most].forEach((input) => input.addEventListener("input", applyFilter));

  // Pictures without scores come last.
  const applyOrder = () => {
    const key = {
      given: ({ at }) => at,
      low: ({ scores }) => Math.min(...scores),
      high: ({ scores }) => (scores.length ? -Math.max(...scores) : Infinity),
    }[sort.value];
    entries.sort((a, b) => key(a) - key(b) || a.at - b.at);
    const unmatched = document.getElementById("unmatched");
    entries.forEach(({ card }, place) => {
      cards[place] = card;
      unmatched.before(card);
    });
  };
  sort.addEventListener("change", applyOrder);
  // After a navigation back to the page, the browser restores the controls.
  if (sort.value !== "given") applyOrder();
  if (filter.value || least.value !== "0" || most.value !== "1") applyFilter();

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
