// The landing page's picture: noise that flows into digits.
//
// flow.webp holds some states of every trajectory, one grid under the other; between two states
// each pixel goes in a straight line.  The picture is drawn in the text's colour.  It does not
// move for readers who ask for reduced motion, nor while it is out of sight.
(function () {
  "use strict";
  const SPAN = 2.5; // as in tools/make_landing.py
  const SECONDS = 5;
  const REST = 2.5;

  function begin(box) {
    const canvas = box.querySelector("canvas");
    const range = box.querySelector("input");
    const button = box.querySelector("button");
    const output = box.querySelector("output");
    const count = Number(box.dataset.states);
    const still = window.matchMedia("(prefers-reduced-motion: reduce)");
    const pen = canvas.getContext("2d");
    const image = new Image();
    let states = [];
    let picture = null;
    let playing = false;
    let visible = true;
    let clock = 0; // seconds into a run
    let last = null;

    function load() {
      const sheet = document.createElement("canvas");
      sheet.width = image.width;
      sheet.height = image.height;
      const context = sheet.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const height = image.height / count;
      for (let k = 0; k < count; k += 1) {
        const data = context.getImageData(0, k * height, image.width, height).data;
        const values = new Float32Array(data.length / 4);
        for (let i = 0; i < values.length; i += 1) {
          values[i] = (data[4 * i] / 255) * 2 * SPAN - SPAN;
        }
        states.push(values);
      }
      canvas.width = image.width;
      canvas.height = height;
      picture = pen.createImageData(image.width, height);
      box.classList.add("ready");
      box.querySelector(".fn-controls").hidden = false;
      show(1);
      if (!still.matches) play();
    }

    function ink() {
      const parts = getComputedStyle(box).color.match(/[\d.]+/g).map(Number);
      return parts.slice(0, 3);
    }

    function show(t) {
      const [red, green, blue] = ink();
      const place = Math.min(t * (count - 1), count - 1 - 1e-6);
      const k = Math.floor(place);
      const w = place - k;
      const from = states[k];
      const to = states[k + 1];
      const out = picture.data;
      for (let i = 0; i < from.length; i += 1) {
        const x = from[i] * (1 - w) + to[i] * w;
        out[4 * i] = red;
        out[4 * i + 1] = green;
        out[4 * i + 2] = blue;
        out[4 * i + 3] = 255 * Math.min(1, Math.max(0, (x + 1) / 2));
      }
      pen.putImageData(picture, 0, 0);
      range.value = String(Math.round(100 * t));
      output.textContent = "t = " + t.toFixed(2);
      range.setAttribute("aria-valuetext", output.textContent);
    }

    function tick(now) {
      if (!playing) return;
      if (last !== null && visible) {
        clock = (clock + Math.min(now - last, 100) / 1000) % (SECONDS + REST);
        show(Math.min(1, clock / SECONDS));
      }
      last = now;
      window.requestAnimationFrame(tick);
    }

    function play() {
      playing = true;
      last = null;
      if (clock >= SECONDS) clock = 0;
      button.textContent = "❚❚";
      button.setAttribute("aria-label", "Pause");
      window.requestAnimationFrame(tick);
    }

    function pause() {
      playing = false;
      button.textContent = "▶";
      button.setAttribute("aria-label", "Play");
    }

    button.addEventListener("click", () => (playing ? pause() : play()));
    range.addEventListener("input", () => {
      pause();
      clock = (Number(range.value) / 100) * SECONDS;
      show(Number(range.value) / 100);
    });
    still.addEventListener("change", () => { if (still.matches) pause(); });
    new IntersectionObserver((entries) => { visible = entries[0].isIntersecting; }).observe(canvas);
    // a change of theme changes the ink
    new MutationObserver(() => { if (states.length) show(Number(range.value) / 100); })
      .observe(document.documentElement, { attributeFilter: ["data-theme"] });
    image.addEventListener("load", load);
    image.src = box.dataset.src;
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".fn-landing").forEach(begin);
  });
})();
