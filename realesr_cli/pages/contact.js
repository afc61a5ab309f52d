"use strict";

const cards = [...document.querySelectorAll("article")];
const search = document.getElementById("search");

function count() {
  const shown = cards.filter((card) => card.checkVisibility()).length;
  const failed = cards.filter((card) => card.classList.contains("failed")).length;
  document.getElementById("count").textContent = `${shown} of ${cards.length}, ${failed} failed`;
}

// a row of buttons sets one attribute of the page, on which its style depends
for (const button of document.querySelectorAll(".tools button")) {
  const [name] = Object.keys(button.dataset);
  button.addEventListener("click", () => {
    document.body.dataset[name] = button.dataset[name];
    for (const one of button.parentElement.children) one.setAttribute("aria-pressed", one === button);
    count();
  });
}

search.addEventListener("input", () => {
  const wanted = search.value.toLowerCase();
  for (const card of cards) card.hidden = !card.querySelector("h2").textContent.toLowerCase().includes(wanted);
  count();
});

count();
