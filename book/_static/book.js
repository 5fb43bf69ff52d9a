// Small manners: what is linked to is shown, and a link in a title is a link.
(function () {
  "use strict";

  // A target inside a hidden solution or a folded cell is opened before the reader gets there.
  function reveal() {
    let id = window.location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch (error) { /* a malformed hash names nothing */ }
    const target = id && document.getElementById(id);
    if (!target) return;
    let opened = false;
    for (let box = target; box; box = box.parentElement) {
      if (box.tagName === "DETAILS" && !box.open) { box.open = true; opened = true; }
      if (box !== target && box.classList.contains("toggle-hidden")) {
        box.querySelector(".toggle-button").click();
        opened = true;
      }
    }
    if (opened) target.scrollIntoView({ behavior: "instant" });
  }

  // The title of a hidden solution opens it; the link in that title leads to the exercise.
  document.addEventListener("click", (event) => {
    if (event.target.closest(".admonition-title a")) event.stopPropagation();
  }, true);
  window.addEventListener("hashchange", reveal);
  window.addEventListener("load", reveal);
})();
